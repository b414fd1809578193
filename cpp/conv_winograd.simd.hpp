// Winograd's F(4 × 4, 3 × 3) (Lavin and Gray 2016): 36 products per 16 outputs instead of 144. Structure: conv.hpp.
//
// Tiles of 6 × 6 source values, 4 apart, are transformed to Bᵀ d B; channels are then summed separately for each of the 36
// elements, by the same tiles of channels × vectors as everywhere, and Aᵀ m A are the 4 × 4 outputs. Slices of a volume are
// transformed one by one, and the sums run over the kernel's slices too. A dilated kernel is one of 3 × 3 on each of the
// phases of the image, y % dilation and x % dilation, whose tiles are summed together. Rounding grows with the channels: 6e-6 of the
// largest output at 64, 2e-5 at 512.
#pragma once
#include "conv.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int winograd_elements = 36;

// A row of the source, sorted by phase, and rows transformed along x: [6][4][line], row r of element column j at
// (j · 4 + r % 4) lines.
template <class T>
struct WinogradRows {
    T *row, *columns;
    int64_t line;
};

// Tiles of the phases that a range of outputs has: [y phase][down][x phase][across].
struct WinogradTiles {
    int64_t down, across, y_phases, x_phases;
    MEDECONV_INLINE int64_t row() const { return x_phases * across; }
    MEDECONV_INLINE int64_t phase() const { return down * row(); }
    MEDECONV_INLINE int64_t all() const { return y_phases * phase(); }
    MEDECONV_INLINE int64_t written(int64_t lanes) const { return all() - phase() + ceil_div(phase(), lanes) * lanes; }
};
MEDECONV_INLINE WinogradTiles winograd_tiles(const ConvAxis* axis, int64_t height, int64_t width) {
    return {ceil_div(height, 4 * axis[1].dilation), ceil_div(width, 4 * axis[2].dilation), axis[1].dilation, axis[2].dilation};
}
// Of a phase of a row: what its tiles read, in whole vectors of tiles.
template <class T>
MEDECONV_INLINE int64_t winograd_reach(int64_t across) {
    return 4 * ceil_div(across, lanes<T>) * lanes<T> + 2;
}
template <class T>
MEDECONV_INLINE int64_t winograd_row_size(const WinogradTiles& tiles) {
    return tiles.x_phases * winograd_reach<T>(tiles.across) + 2 * lanes<T>;
}

// Of an element's weights, for so many rows of tiles: an odd number of lines, as all elements of a channel are written together.
template <class T>
MEDECONV_INLINE int64_t winograd_weight_stride(const ConvPass<T>& p, int64_t rows) {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    return (ceil_div(p.sources * p.z_taps * rows, line) | 1) * line;
}

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
    const WinogradTiles tiles = winograd_tiles(p.axis, p.axis[1].block, p.axis[2].block);
    const int64_t of_image = tiles.all(), slices = p.axis[0].reach(p.axis[0].block);
    s.tiles = shared ? p.batch * of_image : of_image;
    s.row = up(s.tiles - of_image + tiles.written(L), L);   // an image's last vector must not reach another channel
    s.plane = p.sources * s.row;
    s.element = (up(slices * s.plane, line) / line | 1) * line;
    s.product_element = (up((shared ? conv_rows : p.block_rows) * s.row, line) / line | 1) * line;
    s.rows.line = tiles.phase() + tiles.row() + 2 * L;
    s.transformed = take(shared ? 0 : winograd_elements * s.element);
    s.products = take(winograd_elements * s.product_element);
    s.rows.row = take(winograd_row_size<T>(tiles));
    s.rows.columns = take(24 * s.rows.line);
    s.results = take(16 * s.row);
    s.start = take(conv_rows);
    s.offsets = reinterpret_cast<int32_t*>(take(p.sources * p.z_taps));
    s.packed = take(shared ? winograd_elements * winograd_weight_stride(p, conv_rows) : 0);
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

// Rows transformed along x are tiles of `row` each; their tiles along y: to[element · stride + tile]. Rows 4 and 5 of a tile
// are rows 0 and 1 of the one below.
template <class T>
MEDECONV_INLINE void transform_columns(const WinogradRows<T>& s, int64_t row, int64_t tiles, T* to, int64_t stride) {
    constexpr int L = lanes<T>;
    for (int64_t t = 0; t < tiles; t += L)
        unroll<6>([&](auto j) MEDECONV_BODY {
            Vec<T> d[6], transformed[6];
            unroll<6>([&](auto i) MEDECONV_BODY { d[i] = load_unaligned(s.columns + (4 * j + i % 4) * s.line + i / 4 * row + t); });
            winograd_source<T>(d, 1, transformed);
            unroll<6>([&](auto i) MEDECONV_BODY { store_unaligned(to + (i * 6 + j) * stride + t, transformed[i]); });
        });
}

// One channel's tiles of a slice (null: zeros): to[element · stride + tile].
template <class T>
MEDECONV_NOINLINE void transform_source(const ConvAxis* axis, const WinogradRows<T>& s, const T* slice, Range ys, Range xs, T* to,
                                        int64_t stride) {
    constexpr int L = lanes<T>;
    constexpr uint8_t all[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const ConvAxis &y = axis[1], &x = axis[2];
    const WinogradTiles tiles = winograd_tiles(axis, ys.stop - ys.start, xs.stop - xs.start);
    if (!slice) {
        for (int64_t e = 0; e < winograd_elements; ++e) std::memset(to + e * stride, 0, size_t(tiles.all()) * sizeof(T));
        return;
    }
    ConvAxis sorted = x;
    sorted.step = x.dilation, sorted.used = all;
    const int64_t length = winograd_reach<T>(tiles.across), whole = x.reach(x.count) - xs.start;
    const int64_t reach = whole < x.dilation * length ? whole : x.dilation * length;
    for (int64_t phase = 0; phase < y.dilation; ++phase, to += tiles.phase()) {
        for (int64_t r = 0; r < 4 * tiles.down + 2; ++r) {
            T* column = s.columns + r % 4 * s.line + r / 4 * tiles.row();
            const int64_t at = ys.start + r * y.dilation + phase;
            const int32_t line = at < y.reach(y.count) ? y.index[at] : -1;
            const T* row = s.row;
            if (line < 0) {
                for (int j = 0; j < 6; ++j) std::memset(column + 4 * j * s.line, 0, size_t(tiles.row()) * sizeof(T));
                continue;
            }
            if (x.dilation == 1 && xs.start >= x.inner && xs.start + length <= x.outer) row = slice + line * x.length + x.index[xs.start];
            else copy_row(sorted, slice + line * x.length, xs.start, reach, s.row, length, length);
            for (int64_t i = 0; i < x.dilation; ++i, row += length, column += tiles.across)
                for (int64_t t = 0; t < tiles.across; t += L) {
                    Vec<T> d[6], transformed[6];
                    split_row(row + 4 * t, d);
                    winograd_source<T>(d, 1, transformed);
                    unroll<6>([&](auto j) MEDECONV_BODY { store_unaligned(column + 4 * j * s.line + t, transformed[j]); });
                }
        }
        transform_columns(s, tiles.row(), tiles.phase(), to, stride);
    }
}

// The nine weights at every lane's place: to[k] holds from[lane][k].
template <class T>
MEDECONV_INLINE void gather_weights(const T* const* from, Vec<T>* to) {
    constexpr int L = lanes<T>;
    unroll<(9 + L - 1) / L>([&](auto part) MEDECONV_BODY {
        constexpr int first = part.value * L, count = 9 - first < L ? 9 - first : L;
        Vec<T> v[L];
        if constexpr (count == 1) {
            Vec<T> single{};
            unroll<L>([&](auto i) MEDECONV_BODY { single[i.value] = from[i][first]; });
            to[first] = single;
        } else {
            unroll<L>([&](auto i) MEDECONV_BODY {
                v[i] = count == L ? load_unaligned(from[i] + first) : load_first(from[i] + first, count);
            });
            transpose<T>(v);
            unroll<count>([&](auto k) MEDECONV_BODY { to[first + k] = v[k]; });
        }
    });
}

// A block's weights: to[element · stride + (slice · sources + channel) · rows + row].
template <class T>
MEDECONV_NOINLINE void transform_weights(const ConvPass<T>& p, int64_t group, const ConvBlock& block, T* to, int64_t stride) {
    constexpr int64_t L = lanes<T>;
    constexpr int64_t ahead = 16;    // channels
    constexpr T zeros[9] = {};
    const int64_t rows = block.rows, at_once = L / rows;
    const T* const weight = p.weight + group * p.group_stride + block.first * p.destination_stride;
    for (int64_t z = 0; z < p.z_taps; ++z)
        for (int64_t c = 0; c < p.sources; c += at_once) {
            const int64_t channels = p.sources - c < at_once ? p.sources - c : at_once;
            const T* from[L];
            for (int64_t i = 0, lane = 0; i < at_once; ++i)
                for (int64_t o = 0; o < rows; ++o, ++lane)
                    from[lane] = i >= channels || o >= block.channels ? zeros
                                                                      : weight + (c + i) * p.source_stride + o * p.destination_stride +
                                                                            (p.flipped ? p.z_taps - 1 - z : z) * 9;
            for (int64_t i = 0; i < L; ++i) __builtin_prefetch(from[i] + ahead * p.source_stride);
            Vec<T> g[9], half[18], u[6];
            gather_weights(from, g);
            if (p.flipped)
                unroll<4>([&](auto k) MEDECONV_BODY {
                    const Vec<T> last = g[8 - k];
                    g[8 - k] = g[k], g[k] = last;
                });
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
// All groups and blocks.
template <class T>
MEDECONV_INLINE int64_t winograd_packed_stride(const ConvPass<T>& p) {
    return winograd_weight_stride(p, p.groups * p.block_rows);
}
template <class T>
void winograd_pack(const ConvPass<T>& p, int64_t group, int64_t block, T* packed) {
    const int64_t at = (group * p.block_rows + p.blocks[block].rows_before) * p.sources * p.z_taps;
    transform_weights(p, group, p.blocks[block], packed + at, winograd_packed_stride(p));
}

// Products of channel `row` to 4 × 4 outputs: the tiles of one image's slice.
template <class T>
MEDECONV_NOINLINE void transform_result(const ConvPass<T>& p, const WinogradScratch<T>& s, const T* products, T bias, Range ys, Range xs,
                                        T* slice) {
    constexpr int L = lanes<T>;
    const ConvAxis &y = p.axis[1], &x = p.axis[2];
    const int64_t width = xs.stop - xs.start;
    const WinogradTiles tiles = winograd_tiles(p.axis, ys.stop - ys.start, width);
    typename VectorOf<T>::index low{}, high{};
    for (int k = 0; k < L; ++k) low[k] = k / 2 + k % 2 * L, high[k] = (k + L) / 2 + k % 2 * L;
    for (int64_t t = 0; t < tiles.all(); t += L) {
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
        const int64_t r = (qy - ys.start) / y.dilation, phase = (qy - ys.start) % y.dilation;
        interleave(s.results + r % 4 * 4 * s.row + (phase * tiles.phase() + r / 4 * tiles.row()) * 4, tiles.across * 4, x.dilation,
                   ceil_div(width, x.dilation), slice + qy * x.destination + xs.start, 0, width);
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
        const int64_t weights = winograd_weight_stride(p, block.rows), of_image = s.tiles / at_least(p.batch, 1);
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
    const int64_t slices = z.reach(zs.stop - zs.start), tiles = winograd_tiles(p.axis, ys.stop - ys.start, xs.stop - xs.start).all();
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
                             packed + e * winograd_packed_stride(p) + p.blocks[b].rows_before * p.sources * p.z_taps,
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
