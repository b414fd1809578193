// The transforms of conv_winograd.simd.hpp: of source, weights and results.
#pragma once
#include "conv.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// Rows of the source, each sorted by phase, and rows transformed along x: [6][4][line], row r of element column j at
// (j · 4 + r % 4) lines.
template <class T>
struct WinogradRows {
    T *rows, *columns;
    int64_t line;
};
constexpr int winograd_rows_at_once = 4;

// Tiles of the phases that a range of outputs has: [y phase][down][x phase][across]. Each is 4 outputs wide, and 4 or, where
// the kernel is a line, 1 tall.
struct WinogradTiles {
    int64_t down, across, y_phases, x_phases, tall, taps;   // taps: along x
    MEDECONV_INLINE int64_t elements() const { return (tall == 4 ? 6 : 1) * (taps + 3); }
    MEDECONV_INLINE int64_t row() const { return x_phases * across; }
    MEDECONV_INLINE int64_t phase() const { return down * row(); }
    MEDECONV_INLINE int64_t all() const { return y_phases * phase(); }
    MEDECONV_INLINE int64_t written(int64_t lanes) const {   // in vectors, from a phase's or a row's first tile on
        const int64_t last = tall == 4 ? phase() : across;
        return all() - last + ceil_div(last, lanes) * lanes;
    }
};
MEDECONV_INLINE WinogradTiles winograd_tiles(const ConvAxis* axis, int64_t height, int64_t width) {
    const ConvAxis &y = axis[1], &x = axis[2];
    const int64_t tall = y.span > 1 ? 4 : 1;
    return {ceil_div(height, tall * y.dilation), ceil_div(width, 4 * x.dilation), y.dilation, x.dilation, tall,
            (x.span - 1) / x.dilation + 1};
}
// Of a phase of a row: what its tiles read, in whole vectors of tiles.
template <class T>
MEDECONV_INLINE int64_t winograd_reach(const WinogradTiles& tiles) {
    return 4 * ceil_div(tiles.across, lanes<T>) * lanes<T> + tiles.taps - 1;
}
template <class T>
MEDECONV_INLINE int64_t winograd_row_size(const WinogradTiles& tiles) {
    return tiles.x_phases * winograd_reach<T>(tiles) + 2 * lanes<T>;
}
template <class T>
MEDECONV_INLINE int64_t winograd_rows_size(const WinogradTiles& tiles) {
    return (tiles.tall == 4 ? winograd_rows_at_once : 1) * winograd_row_size<T>(tiles);
}

// Of an element's weights, for so many rows of tiles: an odd number of lines, as all elements of a channel are written together.
template <class T>
MEDECONV_INLINE int64_t winograd_weight_stride(const ConvPass<T>& p, int64_t rows) {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    return (ceil_div(p.sources * p.z_taps * rows, line) | 1) * line;
}

template <class T>
struct WinogradScratch {
    int64_t elements;
    int64_t tiles;                   // of a slice; all images' if their transforms are shared
    int64_t row;                     // transformed tiles of a channel
    int64_t plane, element;          // of transformed sources: [element][slice][channel][row]; not shared, a ring of slices
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
    ScratchCutter<T> cut{scratch};
    const WinogradTiles tiles = winograd_tiles(p.axis, p.axis[1].block, p.axis[2].block);
    const int64_t of_image = tiles.all(), slices = shared ? p.axis[0].reach(p.axis[0].block) : p.axis[0].span;
    s.elements = tiles.elements();
    s.tiles = shared ? p.batch * of_image : of_image;
    s.row = up(s.tiles - of_image + tiles.written(L), L);   // an image's last vector must not reach another channel
    s.plane = p.sources * s.row;
    s.element = (up(slices * s.plane, line) / line | 1) * line;
    s.product_element = (up((shared ? conv_rows : p.block_rows) * s.row, line) / line | 1) * line;
    s.rows.line = tiles.phase() + tiles.row() + 2 * L;
    s.transformed = cut.take(shared ? 0 : s.elements * s.element);
    s.products = cut.take(s.elements * s.product_element);
    s.rows.rows = cut.take(winograd_rows_size<T>(tiles));
    s.rows.columns = cut.take(tiles.tall == 4 ? 24 * s.rows.line : 0);
    s.results = cut.take(4 * tiles.tall * s.row);
    s.start = cut.take(conv_rows);
    s.offsets = reinterpret_cast<int32_t*>(cut.take(p.sources * p.z_taps));
    s.packed = cut.take(shared ? s.elements * winograd_weight_stride(p, conv_rows) : 0);
    s.total = cut.total;
    return s;
}

// Bᵀ on as many vectors as there are elements along an axis: of F(4, 3) at the points 0, 1, -1, 2, -2 and infinity, or of
// F(4, 5), at 1/2 and -1/2 too.
template <int elements, class T>
MEDECONV_INLINE void winograd_source(const Vec<T>* d, Vec<T>* to) {
    if constexpr (elements == 6) {
        const T four = 4, five = 5, two = 2;
        const Vec<T> a = d[4] - four * d[2], b = d[3] - four * d[1], c = d[4] - d[2], e = d[3] - d[1];
        to[0] = four * d[0] + (d[4] - five * d[2]);
        to[1] = a + b, to[2] = a - b;
        to[3] = c + two * e, to[4] = c - two * e;
        to[5] = four * d[1] + (d[5] - five * d[3]);
    } else {
        const T half = 0.5, two = 2, four = 4, quarter = 0.25;
        const Vec<T> a = d[2] + (d[6] - T(4.25) * d[4]), b = d[1] + (d[5] - T(4.25) * d[3]);
        const Vec<T> c = quarter * d[2] + (d[6] - T(1.25) * d[4]), e = half * d[1] + (two * d[5] - T(2.5) * d[3]);
        const Vec<T> f = four * d[2] + (d[6] - T(5) * d[4]), g = two * d[1] + (half * d[5] - T(2.5) * d[3]);
        to[0] = (d[0] - d[6]) + T(5.25) * (d[4] - d[2]);
        to[1] = a + b, to[2] = a - b;
        to[3] = c + e, to[4] = c - e;
        to[5] = f + g, to[6] = f - g;
        to[7] = (d[7] - d[1]) + T(5.25) * (d[3] - d[5]);
    }
}
// Aᵀ: four outputs.
template <int elements, class T>
MEDECONV_INLINE void winograd_result(const Vec<T>* m, Vec<T>* to) {
    const T two = 2, four = 4, eight = 8;
    const Vec<T> a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    to[0] = m[0] + a + c, to[1] = b + two * d, to[2] = a + four * c, to[3] = b + eight * d + m[elements - 1];
    if constexpr (elements == 8) {
        const Vec<T> e = m[5] + m[6], f = m[5] - m[6];
        to[0] += e, to[1] += T(0.5) * f, to[2] += T(0.25) * e, to[3] += T(0.125) * f;
    }
}
// G on three or five vectors, `step` apart.
template <int taps, class T>
MEDECONV_INLINE void winograd_weight(const Vec<T>* g, int step, Vec<T>* to) {
    const Vec<T> a = g[0], b = g[step], c = g[2 * step];
    if constexpr (taps == 3) {
        const Vec<T> outer = T(-1.0 / 6) * (a + c), inner = T(1.0 / 24) * a + T(1.0 / 6) * c;
        to[0] = T(0.25) * a;
        to[1] = outer - T(1.0 / 6) * b, to[2] = outer + T(1.0 / 6) * b;
        to[3] = inner + T(1.0 / 12) * b, to[4] = inner - T(1.0 / 12) * b;
        to[5] = c;
    } else {
        const Vec<T> d = g[3 * step], e = g[4 * step];
        const T one = T(-2.0 / 9), two = T(1.0 / 90), half = T(32.0 / 45);
        const Vec<T> even = one * (a + c + e), odd = one * (b + d);
        const Vec<T> even2 = two * (a + T(4) * c + T(16) * e), odd2 = two * (T(2) * b + T(8) * d);
        const Vec<T> even_half = half * (a + T(0.25) * c + T(0.0625) * e), odd_half = half * (T(0.5) * b + T(0.125) * d);
        to[0] = a;
        to[1] = even + odd, to[2] = even - odd;
        to[3] = even2 + odd2, to[4] = even2 - odd2;
        to[5] = even_half + odd_half, to[6] = even_half - odd_half;
        to[7] = e;
    }
}

// The tiles of a row, four values apart: p[k] of tile t is row[4t + k].
template <int elements, class T>
MEDECONV_INLINE void split_row(const T* row, Vec<T>* p) {
    constexpr int L = lanes<T>;
    typename VectorOf<T>::index evens{}, odds{}, next{};
    for (int i = 0; i < L; ++i) evens[i] = 2 * i, odds[i] = 2 * i + 1, next[i] = i + 1;
    const Vec<T> a = load_unaligned(row), b = load_unaligned(row + L), c = load_unaligned(row + 2 * L), d = load_unaligned(row + 3 * L);
    const Vec<T> low = __builtin_shuffle(a, b, evens), high = __builtin_shuffle(c, d, evens);
    const Vec<T> low_odd = __builtin_shuffle(a, b, odds), high_odd = __builtin_shuffle(c, d, odds);
    p[0] = __builtin_shuffle(low, high, evens), p[2] = __builtin_shuffle(low, high, odds);
    p[1] = __builtin_shuffle(low_odd, high_odd, evens), p[3] = __builtin_shuffle(low_odd, high_odd, odds);
    unroll<elements - 4>([&](auto k) MEDECONV_BODY { p[4 + k] = __builtin_shuffle(p[k], splat<T>(row[4 * L + k]), next); });
}

// Two rows of at most half a vector of tiles: those of the second in the upper half.
template <int elements, class T>
MEDECONV_INLINE void split_rows(const T* lower, const T* upper, Vec<T>* p) {
    constexpr int L = lanes<T>;
    typename VectorOf<T>::index evens{}, odds{}, ends{}, next[2]{};
    for (int i = 0; i < L; ++i) {
        evens[i] = 2 * i, odds[i] = 2 * i + 1, ends[i] = i % 2 + i / 2 % 2 * L;
        for (int k = 0; k < 2; ++k) next[k][i] = i % (L / 2) == L / 2 - 1 ? L + k + i / (L / 2) * 2 : i + 1;
    }
    const Vec<T> a = load_unaligned(lower), b = load_unaligned(lower + L), c = load_unaligned(upper), d = load_unaligned(upper + L);
    const Vec<T> low = __builtin_shuffle(a, b, evens), high = __builtin_shuffle(c, d, evens);
    const Vec<T> low_odd = __builtin_shuffle(a, b, odds), high_odd = __builtin_shuffle(c, d, odds);
    p[0] = __builtin_shuffle(low, high, evens), p[2] = __builtin_shuffle(low, high, odds);
    p[1] = __builtin_shuffle(low_odd, high_odd, evens), p[3] = __builtin_shuffle(low_odd, high_odd, odds);
    if constexpr (elements > 4) {
        const Vec<T> beyond = __builtin_shuffle(load_unaligned(lower + 2 * L), load_unaligned(upper + 2 * L), ends);
        unroll<elements - 4>([&](auto k) MEDECONV_BODY { p[4 + k] = __builtin_shuffle(p[k], beyond, next[k]); });
    }
}

// Rows of a phase of y along x: row r's elements `apart`, to its place among the columns or, of lines, in `to`. `row_of(r, buffer)`
// is where the row lies, by x's phases, perhaps in the buffer; or null: zeros. A tile is `reads` values and the next tile's first.
template <int along, int reads, class T, class RowOf, class Transform>
MEDECONV_INLINE void transform_rows(const WinogradTiles& tiles, const WinogradRows<T>& s, int64_t rows, T* to, int64_t apart, RowOf row_of,
                                    Transform transform) {
    constexpr int L = lanes<T>;
    constexpr bool pairs = along == 6 && L >= 4;
    const bool line = tiles.tall == 1, two = pairs && !line && tiles.x_phases == 1 && 2 * tiles.across <= L;
    const int64_t size = winograd_row_size<T>(tiles), length = winograd_reach<T>(tiles), at_once = line ? 1 : winograd_rows_at_once;
    typename VectorOf<T>::index half{};
    for (int i = 0; i < L; ++i) half[i] = (i + L / 2) % L;
    for (int64_t first = 0; first < rows; first += at_once) {
        const int64_t count = rows - first < at_once ? rows - first : at_once;
        // All of them before any is transformed: a load that spans two stores waits until they have left.
        const T* row[winograd_rows_at_once];
        for (int64_t k = 0; k < count; ++k) row[k] = row_of(first + k, s.rows + k * size);
        for (int64_t k = 0; k < count; ++k) {
            T* place = line ? to + first * tiles.row() : s.columns + k * s.line + first / 4 * tiles.row();
            Vec<T> d[along], transformed[along];
            if (!row[k]) {
                for (int j = 0; j < along; ++j) std::memset(place + j * apart, 0, size_t(tiles.row()) * sizeof(T));
            } else if (two && k + 1 < count && row[k + 1]) {
                if constexpr (pairs) {
                    split_rows<reads, T>(row[k], row[k + 1], d);
                    transform(d, transformed);
                    unroll<along>([&](auto j) MEDECONV_BODY {
                        store_unaligned(place + j * apart, transformed[j]);
                        store_unaligned(place + j * apart + s.line, __builtin_shuffle(transformed[j], half));
                    });
                    ++k;
                }
            } else {
                const T* from = row[k];
                for (int64_t i = 0; i < tiles.x_phases; ++i, from += length, place += tiles.across)
                    for (int64_t t = 0; t < tiles.across; t += L) {
                        split_row<reads, T>(from + 4 * t, d);
                        transform(d, transformed);
                        unroll<along>([&](auto j) MEDECONV_BODY { store_unaligned(place + j * apart + t, transformed[j]); });
                    }
            }
        }
    }
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
            winograd_source<6, T>(d, transformed);
            unroll<6>([&](auto i) MEDECONV_BODY { store_unaligned(to + (i * 6 + j) * stride + t, transformed[i]); });
        });
}

// One channel's tiles of a slice (null: zeros): to[element · stride + tile]. What lies `next` values on is fetched ahead (0: nothing).
template <int along, class T>
MEDECONV_NOINLINE void transform_source(const ConvAxis* axis, const WinogradTiles& tiles, const WinogradRows<T>& s, const T* slice, Range ys,
                                        Range xs, T* to, int64_t stride, int64_t next) {
    constexpr uint8_t all[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const ConvAxis &y = axis[1], &x = axis[2];
    const bool line = tiles.tall == 1;
    if (!slice) {
        for (int64_t e = 0; e < tiles.elements(); ++e) std::memset(to + e * stride, 0, size_t(tiles.all()) * sizeof(T));
        return;
    }
    ConvAxis sorted = x;
    sorted.step = x.dilation, sorted.used = all;
    const int64_t length = winograd_reach<T>(tiles), whole = x.reach(x.count) - xs.start, used = 4 * tiles.across + tiles.taps - 1;
    const int64_t reach = whole < x.dilation * used ? whole : x.dilation * used;
    const int64_t begin = x.inner < x.outer ? xs.start - x.inner + x.index(x.inner) : 0;
    const int64_t left = at_least(begin, 0), right = begin + reach < x.length ? begin + reach : x.length;
    const int64_t rows = line ? tiles.down : 4 * tiles.down + 2, apart = line ? stride : 4 * s.line;
    for (int64_t phase = 0; phase < y.dilation; ++phase, to += tiles.phase()) {
        auto row_of = [&](int64_t r, T* buffer) MEDECONV_BODY -> const T* {
            const int64_t at = ys.start + r * y.dilation + phase;
            const int64_t source = at < y.reach(y.count) ? y.index(at) : -1;
            if (source < 0) return nullptr;
            const T* const from = slice + source * x.length;
            if (next) prefetch_row(from + next + left, right - left);
            if (x.dilation == 1 && xs.start >= x.inner && xs.start + length <= x.outer) return from + x.index(xs.start);
            copy_row(sorted, from, xs.start, reach, buffer, length, used);
            return buffer;
        };
        transform_rows<along, along>(tiles, s, rows, to, apart, row_of,
                                     [](const Vec<T>* d, Vec<T>* out) MEDECONV_BODY { winograd_source<along, T>(d, out); });
        if (!line) transform_columns(s, tiles.row(), tiles.phase(), to, stride);
    }
}
template <class T>
MEDECONV_INLINE void transform_source(const ConvAxis* axis, const WinogradRows<T>& s, const T* slice, Range ys, Range xs, T* to,
                                      int64_t stride, int64_t next) {
    const WinogradTiles tiles = winograd_tiles(axis, ys.stop - ys.start, xs.stop - xs.start);
    if (tiles.taps == 3) transform_source<6>(axis, tiles, s, slice, ys, xs, to, stride, next);
    else transform_source<8>(axis, tiles, s, slice, ys, xs, to, stride, next);
}

// The weights at every lane's place: to[k] holds from[lane][k].
template <int taps, class T>
MEDECONV_INLINE void gather_weights(const T* const* from, Vec<T>* to) {
    constexpr int L = lanes<T>;
    unroll<(taps + L - 1) / L>([&](auto part) MEDECONV_BODY {
        constexpr int first = part.value * L, count = taps - first < L ? taps - first : L;
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
template <int taps, class T>
MEDECONV_NOINLINE void transform_weights(const ConvPass<T>& p, int64_t group, const ConvBlock& block, T* to, int64_t stride) {
    constexpr int64_t L = lanes<T>;
    constexpr int64_t ahead = 16;    // channels
    constexpr T zeros[taps] = {};
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
                                                                            (p.flipped ? p.z_taps - 1 - z : z) * taps;
            for (int64_t i = 0; i < L; ++i) __builtin_prefetch(from[i] + ahead * p.source_stride);
            Vec<T> g[taps];
            gather_weights<taps>(from, g);
            if (p.flipped)
                unroll<taps / 2>([&](auto k) MEDECONV_BODY {
                    const Vec<T> last = g[taps - 1 - k];
                    g[taps - 1 - k] = g[k], g[k] = last;
                });
            T* out = to + (z * p.sources + c) * rows;
            auto place = [&](int64_t element, Vec<T> v) MEDECONV_BODY {
                if (channels * rows == L) store_unaligned(out + element * stride, v);
                else store_first(out + element * stride, v, channels * rows);
            };
            if constexpr (taps == 9) {
                Vec<T> half[18], u[6];   // half[j · 6 + i]
                unroll<3>([&](auto j) MEDECONV_BODY { winograd_weight<3, T>(g + j, 3, half + 6 * j); });
                unroll<6>([&](auto i) MEDECONV_BODY {
                    winograd_weight<3, T>(half + i, 6, u);
                    unroll<6>([&](auto j) MEDECONV_BODY { place(i * 6 + j, u[j]); });
                });
            } else {
                Vec<T> u[taps + 3];
                winograd_weight<taps, T>(g, 1, u);
                unroll<taps + 3>([&](auto j) MEDECONV_BODY { place(j, u[j]); });
            }
        }
}
template <class T>
MEDECONV_INLINE void transform_weights(const ConvPass<T>& p, int64_t group, const ConvBlock& block, T* to, int64_t stride) {
    if (p.y_taps == 3) transform_weights<9>(p, group, block, to, stride);
    else if (p.x_taps == 3) transform_weights<3>(p, group, block, to, stride);
    else transform_weights<5>(p, group, block, to, stride);
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

// Products to outputs: the tiles of one image's slice.
template <int along, class T>
MEDECONV_NOINLINE void transform_result(const ConvPass<T>& p, const WinogradTiles& tiles, const WinogradScratch<T>& s, const T* products,
                                        T bias, Range ys, Range xs, T* slice) {
    constexpr int L = lanes<T>;
    const ConvAxis &y = p.axis[1], &x = p.axis[2];
    const int64_t width = xs.stop - xs.start;
    typename VectorOf<T>::index low{}, high{};
    for (int k = 0; k < L; ++k) low[k] = k / 2 + k % 2 * L, high[k] = (k + L) / 2 + k % 2 * L;
    auto deliver = [&](Vec<T>* q, T* to) MEDECONV_BODY {   // four outputs of every tile, side by side
        unroll<4>([&](auto k) MEDECONV_BODY {
            q[k] += splat<T>(bias);
            if (p.relu) q[k] = q[k] < Vec<T>{} ? Vec<T>{} : q[k];
        });
        const Vec<T> a = __builtin_shuffle(q[0], q[2], low), b = __builtin_shuffle(q[1], q[3], low);
        const Vec<T> c = __builtin_shuffle(q[0], q[2], high), d = __builtin_shuffle(q[1], q[3], high);
        store_unaligned(to, __builtin_shuffle(a, b, low)), store_unaligned(to + L, __builtin_shuffle(a, b, high));
        store_unaligned(to + 2 * L, __builtin_shuffle(c, d, low)), store_unaligned(to + 3 * L, __builtin_shuffle(c, d, high));
    };
    for (int64_t qy = ys.start; tiles.tall > 1 && qy < ys.stop; ++qy)   // the rows that are written below
        for (int64_t i = 0; i < width; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(slice + qy * x.destination + xs.start + i, 1, 3);
    for (int64_t t = 0; t < tiles.all(); t += L) {
        Vec<T> m[along], q[4];
        if (tiles.tall == 1) {
            unroll<along>([&](auto j) MEDECONV_BODY { m[j] = load_unaligned(products + j * s.product_element + t); });
            winograd_result<along, T>(m, q);
            deliver(q, s.results + 4 * t);
            continue;
        }
        Vec<T> half[24];
        unroll<6>([&](auto j) MEDECONV_BODY {
            unroll<6>([&](auto i) MEDECONV_BODY { m[i] = load_unaligned(products + (i * 6 + j) * s.product_element + t); });
            winograd_result<6, T>(m, q);
            unroll<4>([&](auto i) MEDECONV_BODY { half[i * 6 + j] = q[i]; });
        });
        unroll<4>([&](auto i) MEDECONV_BODY {
            winograd_result<6, T>(half + 6 * i, q);
            deliver(q, s.results + i * 4 * s.row + 4 * t);
        });
    }
    for (int64_t qy = ys.start; qy < ys.stop; ++qy) {
        const int64_t r = (qy - ys.start) / y.dilation, phase = (qy - ys.start) % y.dilation;
        const T* from = s.results + r % tiles.tall * 4 * s.row + (phase * tiles.phase() + r / tiles.tall * tiles.row()) * 4;
        T* const to = slice + qy * x.destination + xs.start;
        if (x.dilation == 1) copy_values(from, width, to);
        else interleave(from, tiles.across * 4, x.dilation, ceil_div(width, x.dilation), to, 0, width, NoEnding{});
    }
}
template <class T>
MEDECONV_INLINE void transform_result(const ConvPass<T>& p, const WinogradScratch<T>& s, const T* products, T bias, Range ys, Range xs,
                                      T* slice) {
    const WinogradTiles tiles = winograd_tiles(p.axis, ys.stop - ys.start, xs.stop - xs.start);
    if (tiles.taps == 3) transform_result<6>(p, tiles, s, products, bias, ys, xs, slice);
    else transform_result<8>(p, tiles, s, products, bias, ys, xs, slice);
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
