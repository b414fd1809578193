// Winograd's F(4 × 4, 3 × 3) (Lavin and Gray 2016): 36 products per 16 outputs instead of 144. Structure: conv.hpp.
//
// Tiles of 6 × 6 source values, 4 apart, are transformed to Bᵀ d B; channels are then summed separately for each of the 36
// elements, by the same tiles of channels × vectors as everywhere, and Aᵀ m A are the 4 × 4 outputs. Slices of a volume are
// transformed one by one, and the sums run over the kernel's slices too. Rounding grows with the channels: 6e-6 of the
// largest output at 64, 2e-5 at 512.
#pragma once
#include "conv.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int winograd_elements = 36;

// A row of the source, and rows transformed along x: [6][4][line], row r of element column j at (j · 4 + r % 4) lines.
template <class T>
struct WinogradRows {
    T *row, *columns;
    int64_t line;
};

template <class T>
struct WinogradScratch {
    int64_t tiles;                   // of a slice; all images' if their transforms are shared
    int64_t row;                     // transformed tiles of a channel
    int64_t plane, element;          // of transformed sources: [element][slice][channel][row]
    int64_t product_element;         // of products: [element][channel][row]
    WinogradRows<T> rows;
    T *transformed, *products, *results, *start, *packed;
    int32_t* offsets;                // [slices of the kernel][channels]
    int64_t total;
};
template <class T>
WinogradScratch<T> winograd_buffers(const ConvPass<T>& p, T* scratch) {
    const bool shared = p.shared;
    constexpr int64_t L = lanes<T>, line = 64 / int64_t(sizeof(T));
    WinogradScratch<T> s{};
    auto up = [](int64_t n, int64_t m) MEDECONV_BODY { return ceil_div(n, m) * m; };
    auto take = [&](int64_t elements) MEDECONV_BODY {
        T* at = scratch + s.total;
        s.total += up(elements, line);
        return at;
    };
    const int64_t across = p.axis[2].block / 4, down = p.axis[1].block / 4, slices = p.axis[0].reach(p.axis[0].block);
    const int64_t of_image = across * down;
    s.tiles = shared ? p.batch * of_image : of_image;
    s.row = up(s.tiles - of_image + up(of_image, L), L);   // an image's last vector must not reach another channel
    s.plane = p.sources * s.row;
    s.element = (up(slices * s.plane, line) / line | 1) * line;
    s.product_element = (up((shared ? conv_rows : p.block_rows) * s.row, line) / line | 1) * line;
    s.rows.line = (down + 1) * across + 2 * L;
    s.transformed = take(shared ? 0 : winograd_elements * s.element);
    s.products = take(winograd_elements * s.product_element);
    s.rows.row = take(4 * up(across, L) + 2 * L);
    s.rows.columns = take(24 * s.rows.line);
    s.results = take(16 * s.row);
    s.start = take(conv_rows);
    s.offsets = reinterpret_cast<int32_t*>(take(p.sources * p.z_taps));
    s.packed = take(shared ? winograd_elements * p.sources * p.z_taps * conv_rows : 0);
    return s;
}

// Bᵀ on six vectors `step` apart.
template <class T>
MEDECONV_INLINE void winograd_source(const Vec<T>* d, int step, Vec<T>* to) {
    const Vec<T> d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    const T four = 4, five = 5, two = 2;
    const Vec<T> a = d4 - four * d2, b = d3 - four * d1, c = d4 - d2, e = d3 - d1;
    to[0] = four * d0 + (d4 - five * d2);
    to[1] = a + b, to[2] = a - b;
    to[3] = c + two * e, to[4] = c - two * e;
    to[5] = four * d1 + (d5 - five * d3);
}
// Aᵀ on six vectors.
template <class T>
MEDECONV_INLINE void winograd_result(const Vec<T>* m, Vec<T>* to) {
    const T two = 2, four = 4, eight = 8;
    const Vec<T> a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    to[0] = m[0] + a + c, to[1] = b + two * d, to[2] = a + four * c, to[3] = b + eight * d + m[5];
}
// G on three vectors.
template <class T>
MEDECONV_INLINE void winograd_weight(Vec<T> a, Vec<T> b, Vec<T> c, Vec<T>* to) {
    const Vec<T> outer = T(-1.0 / 6) * (a + c), inner = T(1.0 / 24) * a + T(1.0 / 6) * c;
    to[0] = T(0.25) * a;
    to[1] = outer - T(1.0 / 6) * b, to[2] = outer + T(1.0 / 6) * b;
    to[3] = inner + T(1.0 / 12) * b, to[4] = inner - T(1.0 / 12) * b;
    to[5] = c;
}

// The tiles of a row, four values apart: p[k] of tile t is row[4t + k].
template <class T>
MEDECONV_INLINE void split_row(const T* row, Vec<T>* p) {
    constexpr int L = lanes<T>;
    typename VectorOf<T>::index evens{}, odds{}, next{};
    for (int i = 0; i < L; ++i) evens[i] = 2 * i, odds[i] = 2 * i + 1, next[i] = i + 1;
    const Vec<T> a = load_unaligned(row), b = load_unaligned(row + L), c = load_unaligned(row + 2 * L), d = load_unaligned(row + 3 * L);
    const Vec<T> low = __builtin_shuffle(a, b, evens), high = __builtin_shuffle(c, d, evens);
    const Vec<T> low_odd = __builtin_shuffle(a, b, odds), high_odd = __builtin_shuffle(c, d, odds);
    p[0] = __builtin_shuffle(low, high, evens), p[2] = __builtin_shuffle(low, high, odds);
    p[1] = __builtin_shuffle(low_odd, high_odd, evens), p[3] = __builtin_shuffle(low_odd, high_odd, odds);
    p[4] = __builtin_shuffle(p[0], splat<T>(row[4 * L]), next), p[5] = __builtin_shuffle(p[1], splat<T>(row[4 * L + 1]), next);
}

// One channel's tiles of a slice (null: zeros): to[element · stride + tile].
template <class T>
MEDECONV_NOINLINE void transform_source(const ConvAxis* axis, const WinogradRows<T>& s, const T* slice, Range ys, Range xs, T* to,
                                        int64_t stride) {
    constexpr int L = lanes<T>;
    const ConvAxis &y = axis[1], &x = axis[2];
    const int64_t across = ceil_div(xs.stop - xs.start, 4), down = ceil_div(ys.stop - ys.start, 4);
    if (!slice) {
        for (int64_t e = 0; e < winograd_elements; ++e) std::memset(to + e * stride, 0, size_t(across * down) * sizeof(T));
        return;
    }
    const int64_t reach = x.reach(x.count), length = 4 * ceil_div(across, L) * L + 2;
    for (int64_t r = 0; r < 4 * down + 2; ++r) {
        T* column = s.columns + r % 4 * s.line + r / 4 * across;
        const int32_t line = ys.start + r < y.reach(y.count) ? y.index[ys.start + r] : -1;
        const T* row = s.row;
        if (line < 0) {
            for (int j = 0; j < 6; ++j) std::memset(column + 4 * j * s.line, 0, size_t(across) * sizeof(T));
            continue;
        }
        if (xs.start >= x.inner && xs.start + length <= x.outer) row = slice + line * x.length + x.index[xs.start];
        else copy_row(x, slice + line * x.length, xs.start, reach - xs.start < length ? reach - xs.start : length, s.row, 0, length);
        for (int64_t t = 0; t < across; t += L) {
            Vec<T> d[6], transformed[6];
            split_row(row + 4 * t, d);
            winograd_source<T>(d, 1, transformed);
            unroll<6>([&](auto j) MEDECONV_BODY { store_unaligned(column + 4 * j * s.line + t, transformed[j]); });
        }
    }
    // Rows 4 and 5 of a tile are rows 0 and 1 of the one below.
    for (int64_t t = 0; t < across * down; t += L)
        unroll<6>([&](auto j) MEDECONV_BODY {
            Vec<T> d[6], transformed[6];
            unroll<6>([&](auto i) MEDECONV_BODY { d[i] = load_unaligned(s.columns + (4 * j + i % 4) * s.line + i / 4 * across + t); });
            winograd_source<T>(d, 1, transformed);
            unroll<6>([&](auto i) MEDECONV_BODY { store_unaligned(to + (i * 6 + j) * stride + t, transformed[i]); });
        });
}

// A block's weights: to[element · stride + (slice · sources + channel) · rows + row].
template <class T>
MEDECONV_NOINLINE void transform_weights(const ConvPass<T>& p, int64_t group, const ConvBlock& block, T* to, int64_t stride) {
    constexpr int64_t L = lanes<T>;
    const int64_t rows = block.rows, at_once = L / rows, kernel = 9 * p.z_taps;
    const T* const weight = p.weight + group * p.group_stride + block.first * p.destination_stride;
    for (int64_t z = 0; z < p.z_taps; ++z)
        for (int64_t c = 0; c < p.sources; c += at_once) {
            const int64_t channels = p.sources - c < at_once ? p.sources - c : at_once;
            T taken[9 * L];
            for (int64_t i = 0; i < channels * rows; ++i) {
                const int64_t o = i % rows, at = (c + i / rows) * p.source_stride + o * p.destination_stride;
                for (int64_t k = 0; k < 9; ++k)
                    taken[k * L + i] = o < block.channels ? weight[at + (p.flipped ? kernel - 1 - (z * 9 + k) : z * 9 + k)] : T(0);
            }
            for (int64_t i = channels * rows; i < L; ++i)
                for (int64_t k = 0; k < 9; ++k) taken[k * L + i] = T(0);
            Vec<T> g[9], half[18], u[6];
            unroll<9>([&](auto k) MEDECONV_BODY { g[k] = load_unaligned(taken + k * L); });
            unroll<3>([&](auto k) MEDECONV_BODY { winograd_weight<T>(g[k], g[3 + k], g[6 + k], half + 6 * k); });
            T* out = to + (z * p.sources + c) * rows;
            unroll<6>([&](auto i) MEDECONV_BODY {
                winograd_weight<T>(half[i], half[6 + i], half[12 + i], u);
                unroll<6>([&](auto j) MEDECONV_BODY {
                    T* place = out + (i * 6 + j) * stride;
                    if (channels * rows == L) store_unaligned(place, u[j]);
                    else store_first(place, u[j], channels * rows);
                });
            });
        }
}
template <class T>
MEDECONV_INLINE int64_t winograd_weight_stride(const ConvPass<T>& p) {   // of an element, all groups and blocks
    return p.groups * p.sources * p.z_taps * p.block_rows;
}
template <class T>
void winograd_pack(const ConvPass<T>& p, int64_t group, int64_t block, T* packed) {
    const int64_t at = (group * p.block_rows + p.blocks[block].rows_before) * p.sources * p.z_taps;
    transform_weights(p, group, p.blocks[block], packed + at, winograd_weight_stride(p));
}

// Products of channel `row` to 4 × 4 outputs: the tiles of one image's slice.
template <class T>
MEDECONV_NOINLINE void transform_result(const ConvPass<T>& p, const WinogradScratch<T>& s, const T* products, T bias, Range ys, Range xs,
                                        T* slice) {
    constexpr int L = lanes<T>;
    const int64_t across = ceil_div(xs.stop - xs.start, 4), down = ceil_div(ys.stop - ys.start, 4), width = xs.stop - xs.start;
    typename VectorOf<T>::index low{}, high{};
    for (int k = 0; k < L; ++k) low[k] = k / 2 + k % 2 * L, high[k] = (k + L) / 2 + k % 2 * L;
    for (int64_t t = 0; t < across * down; t += L) {
        Vec<T> half[24];
        unroll<6>([&](auto j) MEDECONV_BODY {
            Vec<T> m[6], h[4];
            unroll<6>([&](auto i) MEDECONV_BODY { m[i] = load_unaligned(products + (i * 6 + j) * s.product_element + t); });
            winograd_result<T>(m, h);
            unroll<4>([&](auto i) MEDECONV_BODY { half[i * 6 + j] = h[i]; });
        });
        unroll<4>([&](auto i) MEDECONV_BODY {
            Vec<T> q[4];
            winograd_result<T>(half + 6 * i, q);
            unroll<4>([&](auto k) MEDECONV_BODY {
                q[k] += splat<T>(bias);
                if (p.relu) q[k] = q[k] < Vec<T>{} ? Vec<T>{} : q[k];
            });
            const Vec<T> a = __builtin_shuffle(q[0], q[2], low), b = __builtin_shuffle(q[1], q[3], low);
            const Vec<T> c = __builtin_shuffle(q[0], q[2], high), d = __builtin_shuffle(q[1], q[3], high);
            T* to = s.results + i * 4 * s.row + 4 * t;
            store_unaligned(to, __builtin_shuffle(a, b, low)), store_unaligned(to + L, __builtin_shuffle(a, b, high));
            store_unaligned(to + 2 * L, __builtin_shuffle(c, d, low)), store_unaligned(to + 3 * L, __builtin_shuffle(c, d, high));
        });
    }
    for (int64_t qy = ys.start; qy < ys.stop; ++qy) {
        const int64_t r = qy - ys.start;
        copy_values(s.results + r % 4 * 4 * s.row + r / 4 * across * 4, width, slice + qy * p.axis[2].destination + xs.start);
    }
}

// All elements' sums for one block of channels at slice `z` of the transformed sources.
template <class T>
MEDECONV_INLINE void sum_elements(const ConvPass<T>& p, const WinogradScratch<T>& s, int64_t e, const ConvBlock& block,
                                  const T* transformed, const T* weight, int64_t row, int64_t tiles) {
    const ConvTile<T> tile{transformed + e * s.element, s.offsets, p.sources * p.z_taps, weight, s.start, false,
                           s.products + e * s.product_element + row * s.row, s.row, block.rows};
    sum_line(block.rows, tile, tiles);
}

template <class T>
void winograd_unit(const ConvPass<T>& p, int64_t unit, T* scratch) {
    const WinogradScratch<T> s = winograd_buffers(p, scratch);
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    for (int r = 0; r < conv_rows; ++r) s.start[r] = T(0);
    for (int64_t k = 0; k < p.z_taps; ++k)
        for (int64_t c = 0; c < p.sources; ++c) s.offsets[k * p.sources + c] = int32_t(k * p.z_step * s.plane + c * s.row);
    const int64_t slice_size = y.destination * x.destination;
    auto slice_of = [&](int64_t image, int64_t channel, int64_t at) MEDECONV_BODY {
        return p.destination + (image * p.groups * p.destinations + channel) * p.destination_size + at * slice_size;
    };
    auto bias_of = [&](int64_t channel) MEDECONV_BODY { return p.bias ? p.bias[channel] : T(0); };
    if (p.shared) {   // a block of channels of all images
        const int64_t group = unit / p.block_count;
        const ConvBlock& block = p.blocks[unit % p.block_count];
        const int64_t weights = p.sources * p.z_taps * block.rows, of_image = s.tiles / at_least(p.batch, 1);
        const Range ys{0, y.count}, xs{0, x.count};
        transform_weights(p, group, block, s.packed, weights);
        for (int64_t qz = 0; qz < z.count; ++qz) {
            const T* transformed = p.bands + group * winograd_elements * s.element + qz * s.plane;
            for (int64_t e = 0; e < winograd_elements; ++e) sum_elements(p, s, e, block, transformed, s.packed + e * weights, 0, s.tiles);
            for (int64_t image = 0; image < p.batch; ++image)
                for (int64_t o = 0; o < block.channels; ++o) {
                    const int64_t channel = group * p.destinations + block.first + o;
                    transform_result(p, s, s.products + o * s.row + image * of_image, bias_of(channel), ys, xs,
                                     slice_of(image, channel, qz));
                }
        }
        return;
    }
    const int64_t position = unit % p.positions(), group = unit / p.positions() % p.groups, image = unit / p.positions() / p.groups;
    auto range = [](const ConvAxis& axis, int64_t block) MEDECONV_BODY { return Range{block * axis.block, axis.stop(block * axis.block)}; };
    const Range xs = range(x, position % x.blocks()), ys = range(y, position / x.blocks() % y.blocks());
    const Range zs = range(z, position / x.blocks() / y.blocks());
    const T* const source = p.source + (image * p.groups + group) * p.sources * p.source_size;
    const int64_t slices = z.reach(zs.stop - zs.start), tiles = ceil_div(ys.stop - ys.start, 4) * ceil_div(xs.stop - xs.start, 4);
    for (int64_t a = 0; a < slices; ++a)
        for (int64_t c = 0; c < p.sources; ++c) {
            const int32_t at = z.index[zs.start + a];
            transform_source(p.axis, s.rows, at < 0 ? nullptr : source + c * p.source_size + at * y.length * x.length, ys, xs,
                             s.transformed + a * s.plane + c * s.row, s.element);
        }
    const T* const packed = p.packed + group * p.block_rows * p.sources * p.z_taps;
    for (int64_t qz = zs.start; qz < zs.stop; ++qz) {
        const T* transformed = s.transformed + (qz - zs.start) * s.plane;
        for (int64_t e = 0; e < winograd_elements; ++e)
            for (int64_t b = 0; b < p.block_count; ++b)
                sum_elements(p, s, e, p.blocks[b], transformed,
                             packed + e * winograd_weight_stride(p) + p.blocks[b].rows_before * p.sources * p.z_taps,
                             p.blocks[b].rows_before, tiles);
        for (int64_t b = 0; b < p.block_count; ++b)
            for (int64_t o = 0; o < p.blocks[b].channels; ++o) {
                const int64_t channel = group * p.destinations + p.blocks[b].first + o;
                transform_result(p, s, s.products + (p.blocks[b].rows_before + o) * s.row, bias_of(channel), ys, xs,
                                 slice_of(image, channel, qz));
            }
    }
}

// Shared transforms: [group][element][slice][channel][row]; a unit is a group, a slice and a channel of all images.
template <class T>
void winograd_copy_band(const ConvPass<T>& p, int64_t unit, T* bands, T* scratch) {
    const WinogradScratch<T> s = winograd_buffers(p, scratch);
    const int64_t c = unit % p.sources, group = unit / p.sources % p.groups, a = unit / p.sources / p.groups;
    const int64_t of_image = s.tiles / at_least(p.batch, 1);
    const int32_t at = p.axis[0].index[a];
    for (int64_t image = 0; image < p.batch; ++image) {
        const T* source = p.source + ((image * p.groups + group) * p.sources + c) * p.source_size;
        T* to = bands + group * winograd_elements * s.element + a * s.plane + c * s.row + image * of_image;
        transform_source(p.axis, s.rows, at < 0 ? nullptr : source + at * p.axis[1].length * p.axis[2].length, Range{0, p.axis[1].count},
                         Range{0, p.axis[2].count}, to, s.element);
    }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
