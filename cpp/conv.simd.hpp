// Passes of the network convolution, built once per ISA. Structure: conv.hpp.
#pragma once
#include "conv.hpp"
#include "direct.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// A tile's sums take at most this many registers; the rest hold the loaded vectors and a weight.
#if MEDECONV_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int conv_sums = 24, conv_rows = 8;
#else
constexpr int conv_sums = 12, conv_rows = 4;
#endif
template <int R>
constexpr int conv_width = conv_sums / R < 6 ? conv_sums / R : 6;

// ---- copying a band

template <class T>
MEDECONV_INLINE void prefetch_row(const T* row, int64_t n) {
    for (int64_t i = 0; i < n; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + i, 0, 2);
}

template <class T>
MEDECONV_INLINE void prefetch_for_writing(const T* row, int64_t n) {
    for (int64_t i = 0; i < n; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + i, 1, 3);
}

// Short rows: a call of memcpy takes longer than they do.
template <class T>
MEDECONV_INLINE void copy_values(const T* from, int64_t n, T* to) {
    constexpr int64_t L = lanes<T>;
    int64_t i = 0;
    for (; i + L <= n; i += L) store_unaligned(to + i, load_unaligned(from + i));
#if defined(__AVX512F__)
    if (i < n) store_first(to + i, load_first(from + i, n - i), n - i);
#else
    for (; i < n; ++i) to[i] = from[i];
#endif
}

// A few: a call of memset takes longer.
template <class T>
MEDECONV_INLINE void zero_values(int64_t first, int64_t stop, T* to) {
    constexpr int64_t L = lanes<T>;
    for (int64_t i = first; i < stop; i += L) store_first(to + i, Vec<T>{}, stop - i < L ? stop - i : L);
}

// to[i] = from[i · skip] for i in [0, n).
template <class T>
MEDECONV_INLINE void copy_every(const T* from, int64_t skip, int64_t n, T* to) {
    if (skip == 1) {
        copy_values(from, n, to);
        return;
    }
    int64_t i = 0;
    if (skip == 2) {
        constexpr int L = lanes<T>;
        typename VectorOf<T>::index evens{};
        for (int k = 0; k < L; ++k) evens[k] = 2 * k;
        for (; i + L < n; i += L)   // nothing beyond the last value is read
            store_unaligned(to + i, __builtin_shuffle(load_unaligned(from + 2 * i), load_unaligned(from + 2 * i + L), evens));
    }
    for (; i < n; ++i) to[i] = from[i * skip];
}

// Two rows of every second value: even[i] = from[2i], odd[i] = from[2i + 1] for i in [0, n), in whole vectors.
template <class T>
MEDECONV_INLINE void deinterleave(const T* from, int64_t n, T* even, T* odd) {
    constexpr int L = lanes<T>;
    typename VectorOf<T>::index evens{}, odds{};
    for (int i = 0; i < L; ++i) evens[i] = 2 * i, odds[i] = 2 * i + 1;
    for (int64_t i = 0; i + L <= n; i += L) {
        const Vec<T> a = load_unaligned(from + 2 * i), b = load_unaligned(from + 2 * i + L);
        store_unaligned(even + i, __builtin_shuffle(a, b, evens));
        store_unaligned(odd + i, __builtin_shuffle(a, b, odds));
    }
}

// Positions [start, start + reach) of a continued row, sorted by phase: to[phase · part + i] is position start + i · step
// + phase. What is left of a row is zero.
template <class T>
MEDECONV_INLINE void copy_row(const ConvAxis& x, const T* row, int64_t start, int64_t reach, T* to, int64_t part, int64_t pitch) {
    auto at = [&](int64_t i) MEDECONV_BODY {
        const int64_t from = x.index(start + i);
        return from < 0 ? T(0) : row[from];
    };
    if (x.step == 1) {
        const int64_t inner = x.inner - start < 0 ? 0 : x.inner - start < reach ? x.inner - start : reach;
        const int64_t outer = x.outer - start < inner ? inner : x.outer - start < reach ? x.outer - start : reach;
        for (int64_t i = 0; i < inner; ++i) to[i] = at(i);
        if (inner < outer) copy_every(row + x.index(start + inner), x.skip, outer - inner, to + inner);
        for (int64_t i = outer; i < reach; ++i) to[i] = at(i);
        zero_values(reach, pitch, to);
        return;
    }
    const int64_t s = x.step;
    for (int64_t phase = 0; phase < s; ++phase) {
        if (!x.used[phase]) continue;
        T* out = to + phase * part;
        const int64_t n = phase < reach ? (reach - phase + s - 1) / s : 0;
        int64_t i = 0;
        // Where all is used, both phases of stride 2 are sorted at once, by the first.
        if (s == 2 && x.used[0] && x.used[1]) {
            int64_t first = at_least((x.inner - start + 1) / 2, 0), stop = ((x.outer - start < reach ? x.outer - start : reach)) / 2;
            if (stop - first < lanes<T>) first = stop = 0;
            if (phase == 0 && first < stop) {
                deinterleave(row + x.index(start + 2 * first), stop - first, to + first, to + part + first);
                const int64_t last = stop - lanes<T>;   // again with some that are sorted
                deinterleave(row + x.index(start + 2 * last), int64_t(lanes<T>), to + last, to + part + last);
            }
            for (; i < first; ++i) out[i] = at(i * s + phase);
            i = stop;
        } else {
            const int64_t begun = start + phase;   // position of the phase's first
            auto until = [&](int64_t end) MEDECONV_BODY { return end <= begun ? 0 : (end - begun + s - 1) / s < n ? (end - begun + s - 1) / s : n; };
            const int64_t first = until(x.inner), stop = until(x.outer);
            for (; i < first; ++i) out[i] = at(i * s + phase);
            if (first < stop) copy_every(row + x.index(begun + first * s), s * x.skip, stop - first, out + first);
            i = first < stop ? stop : first;
        }
        for (; i < n; ++i) out[i] = at(i * s + phase);
        zero_values(i, pitch, out);
    }
}

// Channels of one image and group, at the positions that outputs [z), [y), [x) read. Pass: axis, band, source_size. Of `more`
// channels behind them the first is wanted next.
template <class Pass, class T>
MEDECONV_INLINE void copy_channels(const Pass& p, const T* channel, int64_t count, Range zs, Range ys, Range xs, T* to, int64_t more = 0) {
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const int64_t planes = z.reach(zs.stop - zs.start), rows = y.reach(ys.stop - ys.start), reach = x.reach(xs.stop - xs.start);
    const int64_t at = (xs.start * x.step - x.inner) * x.skip + (x.inner < x.outer ? x.index(x.inner) : 0);
    const int64_t left = at_least(at, 0), right = at + reach * x.skip < x.length ? at + reach * x.skip : x.length;
    for (int64_t c = 0; c < count; ++c, channel += p.source_size, to += p.band.channel)
        for (int64_t a = 0; a < planes; ++a) {
            if (!z.used[a % z.step]) continue;
            const int64_t slice = z.index(zs.start * z.step + a);
            int64_t phase = 0;           // of row b: b % y.step, and then b / y.step rows into its part
            T* part = to + a * p.band.plane;
            for (int64_t b = 0; b < rows; ++b, ++phase) {
                if (phase == y.step) phase = 0, part += p.band.row;
                if (!y.used[phase]) continue;
                const int64_t line = y.index(ys.start * y.step + b);
                T* const row = part + phase * x.step * p.band.part;
                if (slice < 0 || line < 0) {
                    for (int64_t px = 0; px < x.step; ++px)
                        if (x.used[px]) std::memset(row + px * p.band.part, 0, size_t(p.band.row) * sizeof(T));
                    continue;
                }
                const T* from = channel + (slice * y.length + line) * x.length;
                // The next channel's row, far enough ahead for memory: rows are too short for the hardware to see them coming.
                if (c + 1 < count + more) prefetch_row(from + p.source_size + left, right - left);
                copy_row(x, from, xs.start * x.step, reach, row, p.band.part, p.band.row);
            }
        }
}

// Pieces of a unit's scratch, each on a line of its own; of none (null) only their total is of use.
template <class T>
struct ScratchCutter {
    T* scratch;
    int64_t total = 0;
    MEDECONV_INLINE T* take(int64_t elements) {
        constexpr int64_t line = 64 / int64_t(sizeof(T));
        T* const at = scratch ? scratch + total : nullptr;
        total += ceil_div(elements, line) * line;
        return at;
    }
};

// ---- a tile of channels × vectors, summed over taps

template <class T>
struct ConvTile {
    const T* band;                   // at the tile's first position
    const int32_t* offsets;
    int64_t taps;
    const T* weight;                 // [taps][rows]
    const T* start;                  // per row; null: added to what `out` holds
    bool relu;
    T* out;
    int64_t pitch;
    int64_t weight_pitch;            // of a tap
    int64_t weight_row = 0;          // between rows, where they do not follow one another
    bool pairs = false;              // of every second position; offsets are those of pairs of neighbouring taps
};

// How a tile's operands lie. apart: rows of weights do not follow one another. pairs: as in ConvTile.
enum class Tiles { plain, apart, pairs };

// `last` values of the last vector are stored.
template <int R, int W, Tiles kind, class T>
MEDECONV_NOINLINE void sum_taps(const ConvTile<T>& tile, int64_t x, int64_t last) {
    constexpr int L = lanes<T>;
    Vec<T> sum[R * W];
    unroll<R>([&](auto r) MEDECONV_BODY {
        const Vec<T> start = tile.start ? splat<T>(tile.start[r]) : Vec<T>{};
        unroll<W>([&](auto w) MEDECONV_BODY { sum[r * W + w] = start; });
    });
    const T *band = tile.band + x, *weight = tile.weight;
    auto add = [&](const Vec<T>* v) MEDECONV_BODY {
        unroll<R>([&](auto r) MEDECONV_BODY {
            const Vec<T> t = in_register(splat<T>(weight[kind == Tiles::apart ? r * tile.weight_row : r]));
            unroll<W>([&](auto w) MEDECONV_BODY { sum[r * W + w] += v[w] * t; });
        });
        weight += tile.weight_pitch;
    };
    if constexpr (kind == Tiles::pairs) {
        typename VectorOf<T>::index evens{}, odds{};
        for (int i = 0; i < L; ++i) evens[i] = 2 * i, odds[i] = 2 * i + 1;
        for (const int32_t *offset = tile.offsets, *end = offset + tile.taps / 2; offset < end; ++offset) {
            const T* from = band + x + *offset;
            Vec<T> even[W], odd[W];
            unroll<W>([&](auto w) MEDECONV_BODY {
                const Vec<T> a = load_unaligned(from + 2 * w * L), b = load_unaligned(from + (2 * w + 1) * L);
                even[w] = in_register(Vec<T>(__builtin_shuffle(a, b, evens))), odd[w] = in_register(Vec<T>(__builtin_shuffle(a, b, odds)));
            });
            add(even), add(odd);
        }
    } else {
        for (const int32_t *offset = tile.offsets, *end = offset + tile.taps; offset < end; ++offset) {
            const T* from = band + *offset;
            Vec<T> v[W];
            unroll<W>([&](auto w) MEDECONV_BODY { v[w] = in_register(load_unaligned(from + w * L)); });
            add(v);
        }
    }
    if (tile.relu) unroll<R * W>([&](auto i) MEDECONV_BODY { sum[i] = sum[i] < Vec<T>{} ? Vec<T>{} : sum[i]; });  // keeps NaN
    unroll<R>([&](auto r) MEDECONV_BODY {
        T* to = tile.out + r * tile.pitch + x;
        if (!tile.start) {
            unroll<W - 1>([&](auto w) MEDECONV_BODY { sum[r * W + w] += load_unaligned(to + w * L); });
            sum[r * W + W - 1] += last == L ? load_unaligned(to + (W - 1) * L) : load_first(to + (W - 1) * L, last);
        }
        unroll<W - 1>([&](auto w) MEDECONV_BODY { store_unaligned(to + w * L, sum[r * W + w]); });
        constexpr int end = W - 1;
        if (last == L) store_unaligned(to + end * L, sum[r * W + end]);
        else store_first(to + end * L, sum[r * W + end], last);
    });
}

template <int R, int W, Tiles kind, class T>
MEDECONV_INLINE void sum_taps_of_width(int64_t width, const ConvTile<T>& tile, int64_t x, int64_t last) {
    if (width == W) sum_taps<R, W, kind>(tile, x, last);
    else if constexpr (W > 1) sum_taps_of_width<R, W - 1, kind>(width, tile, x, last);
}

// Pairs take two registers for every vector of sums.
template <int R, Tiles kind>
constexpr int tile_width = kind == Tiles::pairs ? (conv_width<R> + 1) / 2 : conv_width<R>;

// Positions [0, n) of a line, in tiles of about the same width.
template <int R, Tiles kind, class T>
void sum_line(const ConvTile<T>& tile, int64_t n) {
    constexpr int64_t L = lanes<T>;
    const int64_t vectors = ceil_div(n, L), tiles = ceil_div(vectors, tile_width<R, kind>);
    for (int64_t i = 0, v = 0; i < tiles; ++i) {
        const int64_t stop = vectors * (i + 1) / tiles;
        sum_taps_of_width<R, tile_width<R, kind>, kind>(stop - v, tile, v * L, stop == vectors ? n - (vectors - 1) * L : L);
        v = stop;
    }
}
template <Tiles kind, class T>
MEDECONV_INLINE void sum_line(int64_t rows, const ConvTile<T>& tile, int64_t n) {
    if (rows == 1) sum_line<1, kind>(tile, n);
    else if (rows == 2) sum_line<2, kind>(tile, n);
    else if (rows == 4) sum_line<4, kind>(tile, n);
    else if constexpr (conv_rows == 8) sum_line<8, kind>(tile, n);
}
template <class T>
MEDECONV_INLINE void sum_line(int64_t rows, const ConvTile<T>& tile, int64_t n) {
    if (tile.weight_row) sum_line<conv_rows, Tiles::apart>(tile, n);
    else if (tile.pairs) sum_line<Tiles::pairs>(rows, tile, n);
    else sum_line<Tiles::plain>(rows, tile, n);
}

// ---- delivery of what was summed in scratch

template <class T>
MEDECONV_INLINE void stream_row(T* to, const T* from, int64_t n) {
    constexpr int64_t L = lanes<T>;
    int64_t i = 0;
    for (; i < n && reinterpret_cast<uintptr_t>(to + i) % sizeof(Vec<T>); ++i) to[i] = from[i];
    for (; i + L <= n; i += L) stream(to + i, load_unaligned(from + i));
    for (; i < n; ++i) to[i] = from[i];
}

// What is done to results as they are stored: nothing, or a ConvEnd; `at` counts from where the row's addend lies.
struct NoEnding {
    template <class V>
    MEDECONV_INLINE V operator()(V value, int64_t) const {
        return value;
    }
};
template <class T>
struct Ending {
    const T* addend;                 // or null
    Vec<T> slope;
    bool relu, keep;                 // keep: 0 times what is infinite is no number
    MEDECONV_INLINE Ending(const ConvPass<T>& p, int64_t row)
        : addend(p.end.addend ? p.end.addend + row : nullptr), slope(splat<T>(p.end.slope)), relu(p.end.relu), keep(p.end.slope != T(0)) {}
    MEDECONV_INLINE Vec<T> operator()(Vec<T> v, int64_t at) const {
        return bent(addend ? v + load_unaligned(addend + at) : v);
    }
    MEDECONV_INLINE Vec<T> first(Vec<T> v, int64_t at, int64_t count) const {
        return bent(addend ? v + load_first(addend + at, count) : v);
    }
    MEDECONV_INLINE T operator()(T v, int64_t at) const {
        if (addend) v += addend[at];
        return relu && v < T(0) ? keep ? slope[0] * v : T(0) : v;
    }
private:
    MEDECONV_INLINE Vec<T> bent(Vec<T> v) const { return relu ? v < Vec<T>{} ? keep ? slope * v : Vec<T>{} : v : v; }
};

// to[i · phases + phase - crop] = rows[phase · pitch + i] for i in [0, n), as far as it lies in [0, length), for two and more phases.
template <class T, class End>
MEDECONV_INLINE void interleave(const T* rows, int64_t pitch, int64_t phases, int64_t n, T* to, int64_t crop, int64_t length, const End& end) {
    int64_t i = 0;
    auto one = [&](int64_t at) MEDECONV_BODY {
        for (int64_t phase = 0; phase < phases; ++phase) {
            const int64_t place = at * phases + phase - crop;
            if (place >= 0 && place < length) to[place] = end(rows[phase * pitch + at], place);
        }
    };
    if (phases == 2) {
        constexpr int L = lanes<T>;
        typename VectorOf<T>::index low{}, high{};
        for (int k = 0; k < L; ++k) low[k] = k / 2 + k % 2 * L, high[k] = (k + L) / 2 + k % 2 * L;
        for (; i < n && 2 * i < crop; ++i) one(i);
        for (; i + L <= n && 2 * (i + L) - crop <= length; i += L) {
            const Vec<T> a = load_unaligned(rows + i), b = load_unaligned(rows + pitch + i);
            const int64_t place = 2 * i - crop;
            store_unaligned(to + place, end(Vec<T>(__builtin_shuffle(a, b, low)), place));
            store_unaligned(to + place + L, end(Vec<T>(__builtin_shuffle(a, b, high)), place + L));
        }
    }
    for (; i < n; ++i) one(i);
}

// ---- units

// `end` to n results, wherever they lie, that belong to destination[at] and on.
template <class T>
MEDECONV_INLINE void end_row(const ConvPass<T>& p, int64_t at, int64_t n, T* results) {
    constexpr int64_t L = lanes<T>;
    const Ending<T> end(p, at);
    int64_t i = 0;
    for (; i + L <= n; i += L) store_unaligned(results + i, end(load_unaligned(results + i), i));
    if (i < n) store_first(results + i, end.first(load_first(results + i, n - i), i, n - i), n - i);
}
// Of channels from `channel` on, of all groups, at what the positions [zs), [ys), [xs) of a pass have made.
template <class T>
MEDECONV_NOINLINE void end_channels(const ConvPass<T>& p, int64_t image, int64_t channel, int64_t count, Range zs, Range ys, Range xs) {
    auto made = [](const ConvAxis& axis, Range r) MEDECONV_BODY {
        const int64_t stop = r.stop * axis.phases - axis.crop;
        return Range{at_least(r.start * axis.phases - axis.crop, 0), stop < axis.destination ? stop : axis.destination};
    };
    const ConvAxis &y = p.axis[1], &x = p.axis[2];
    const Range to_z = made(p.axis[0], zs), to_y = made(y, ys), to_x = made(x, xs);
    const bool whole = to_x.start == 0 && to_x.stop == x.destination;   // rows follow one another
    const int64_t rows = to_y.stop - to_y.start, width = to_x.stop - to_x.start;
    for (int64_t c = 0; c < count; ++c)
        for (int64_t qz = to_z.start; qz < to_z.stop; ++qz)
            for (int64_t r = 0; r < (whole ? 1 : rows); ++r) {
                const int64_t slice = (image * p.groups * p.destinations + channel + c) * p.destination_size + qz * y.destination * x.destination;
                const int64_t at = slice + (to_y.start + r) * x.destination + to_x.start;
                end_row(p, at, whole ? rows * width : width, p.destination + at);
            }
}

template <class T>
struct ConvScratch {
    T *band, *results, *start, *packed;
    T* sums;                         // Toeplitz: of the channels so far
    DirectSlice<T>* slices;
    T* aside;
    int64_t pitch;                   // of a row of results
    int64_t total;
};
template <class T>
ConvScratch<T> conv_buffers(const ConvPass<T>& p, T* scratch) {
    constexpr int64_t L = lanes<T>, line = 64 / int64_t(sizeof(T));
    const int64_t slack = 8 * L + p.axis[2].span;   // what vectors read beyond the last row
    ConvScratch<T> s{};
    ScratchCutter<T> cut{scratch};
    s.band = cut.take(p.shared || p.bare ? 0 : (p.toeplitz ? p.sources_at_once : p.sources) * p.band.channel + slack);
    const int64_t x = p.axis[2].block, y = p.axis[1].block;
    s.sums = cut.take(p.toeplitz ? p.axis[0].block * y * x : 0);
    const int64_t length = p.band.flat ? (y - 1) * p.band.row + x : p.stream && !p.toeplitz ? x * y : x;
    s.pitch = (ceil_div(length + L, line) | 1) * line;
    s.results = cut.take((p.toeplitz ? tile_rows : conv_rows * (p.merged[2] > 1 ? 1 : p.axis[2].phases)) * s.pitch);
    s.start = cut.take(conv_rows);
    s.packed = cut.take(!p.shared || p.in_place ? 0 : p.sources * p.variant_taps * conv_rows);
    if (p.toeplitz) {
        s.aside = cut.take(tile_rows * tile_vectors * L);
        s.slices = reinterpret_cast<DirectSlice<T>*>(cut.take(p.sources_at_once * p.z_taps * int64_t(sizeof(DirectSlice<T>) / sizeof(T))));
    }
    s.total = cut.total;
    return s;
}

// Where a block's packed weights lie: for every variant in turn, those of its group's blocks.
template <class T>
struct ConvPacked {
    T* base;
    int64_t rows, rows_before;       // of all blocks; of those before
    MEDECONV_INLINE T* variant(const ConvPass<T>& p, const ConvVariant& v) const {
        return base + p.sources * (v.packed_before * rows + v.taps * rows_before);
    }
};

template <int R, class T>
MEDECONV_INLINE void pack_rows(const ConvPass<T>& p, const ConvVariant& variant, const T* weight, T* to) {
    for (int64_t c = 0; c < p.sources; ++c, weight += p.source_stride)
        for (int64_t t = 0; t < variant.taps; ++t, to += R) {
            const T* from = weight + variant.weights[t];
            unroll<R>([&](auto r) MEDECONV_BODY { to[r] = from[r * p.destination_stride]; });
        }
}

template <class T>
MEDECONV_NOINLINE void pack_block(const ConvPass<T>& p, int64_t group, int64_t block_number, const ConvPacked<T>& packed) {
    const ConvBlock& block = p.blocks[block_number];
    const int64_t merged = p.merged[0] * p.merged[1] * p.merged[2];
    const int64_t variants = p.axis[0].phases / p.merged[0] * (p.axis[1].phases / p.merged[1]) * (p.axis[2].phases / p.merged[2]);
    const T* const weight = p.weight + group * p.group_stride + block.first * p.destination_stride;
    for (int64_t v = 0; v < variants; ++v) {
        const ConvVariant& variant = p.variants[v];
        T* to = packed.variant(p, variant);
        if (merged == 1 && block.channels == block.rows) {
            if (block.rows == 1) pack_rows<1>(p, variant, weight, to);
            else if (block.rows == 2) pack_rows<2>(p, variant, weight, to);
            else if (block.rows == 4) pack_rows<4>(p, variant, weight, to);
            else if constexpr (conv_rows == 8) pack_rows<8>(p, variant, weight, to);
            continue;
        }
        for (int64_t c = 0; c < p.sources; ++c)
            for (int64_t t = 0; t < variant.taps; ++t, to += block.rows) {
                int64_t row = 0;
                for (int64_t o = 0; o < block.channels; ++o)
                    for (int64_t m = 0; m < merged; ++m, ++row) {
                        const int32_t at = variant.weights[t * merged + m];
                        to[row] = at < 0 ? T(0) : weight[o * p.destination_stride + c * p.source_stride + at];
                    }
                for (; row < block.rows; ++row) to[row] = T(0);
            }
    }
}
// One block of channels at the positions of a band.
template <class T>
MEDECONV_NOINLINE void sum_block(const ConvPass<T>& p, const ConvScratch<T>& s, int64_t image, int64_t group, const ConvBlock& block,
                                 const T* band, const ConvPacked<const T>& packed, Range zs, Range ys, Range xs) {
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const int64_t merged = p.merged[0] * p.merged[1] * p.merged[2];
    const int64_t width = xs.stop - xs.start, height = ys.stop - ys.start;
    const int64_t left_z = z.phases / p.merged[0], left_y = y.phases / p.merged[1], left_x = x.phases / p.merged[2];
    const int64_t lines = p.band.flat ? 1 : height, length = p.band.flat ? (height - 1) * p.band.row + width : width;
    const int64_t row_size = x.destination, slice_size = y.destination * row_size;
    const int64_t first = group * p.destinations + block.first;
    T* const destination = p.destination + (image * p.groups * p.destinations + first) * p.destination_size;
    for (int64_t r = 0; r < block.rows; ++r) s.start[r] = p.bias && r < block.channels * merged ? p.bias[first + r / merged] : T(0);
    const bool straight = !p.band.flat && !p.stream && x.phases == 1 && merged == 1 && block.channels == block.rows;

    for (int64_t qz = zs.start; qz < zs.stop; ++qz)
        for (int64_t line = 0; line < lines; ++line)
            for (int64_t pz = 0; pz < left_z; ++pz)
                for (int64_t py = 0; py < left_y; ++py) {
                    const int64_t qy = ys.start + line;
                    const int64_t to_z = qz * z.phases + pz - z.crop, to_y = qy * y.phases + py - y.crop;
                    // Merged phases are looked at one by one below; a flat band's lines too.
                    if (left_z > 1 && (to_z < 0 || to_z >= z.destination)) continue;
                    if (!p.band.flat && left_y > 1 && (to_y < 0 || to_y >= y.destination)) continue;
                    for (int64_t px = 0; px < left_x; ++px) {
                        const ConvVariant& v = p.variants[(pz * left_y + py) * left_x + px];
                        ConvTile<T> tile{band + (qz - zs.start) * z.step * p.band.plane + line * p.band.row, v.offsets, p.sources * v.taps,
                                         packed.base + p.sources * (v.packed_before * packed.rows + v.taps * packed.rows_before), s.start,
                                         p.relu, s.results + px * block.rows * s.pitch, s.pitch, block.rows};
                        tile.pairs = p.bare && x.step == 2;
                        if (p.in_place) {
                            tile.weight = p.weight + group * p.group_stride + block.first * p.destination_stride;
                            tile.weight_pitch = 1, tile.weight_row = p.destination_stride;
                        }
                        if (straight) {
                            tile.out = destination + to_z * slice_size + to_y * row_size + xs.start;
                            tile.pitch = p.destination_size;
                        } else if (p.stream) {
                            tile.out = s.results + line * width;
                        }
                        sum_line(block.rows, tile, length);
                    }
                    if (straight) continue;
                    if (p.stream) {
                        if (line + 1 < lines) continue;
                        T* to = destination + to_z * slice_size + ys.start * row_size + xs.start;
                        for (int64_t o = 0; o < block.channels; ++o) {
                            T* const channel = to + o * p.destination_size;
                            if (p.ends) end_row(p, channel - p.destination, lines * width, s.results + o * s.pitch);
                            stream_row(channel, s.results + o * s.pitch, lines * width);
                        }
                        continue;
                    }
                    for (int64_t o = 0; o < block.channels; ++o)
                        for (int64_t mz = 0; mz < p.merged[0]; ++mz)
                            for (int64_t my = 0; my < p.merged[1]; ++my) {
                                const int64_t at_z = qz * z.phases + pz + mz - z.crop;
                                if (at_z < 0 || at_z >= z.destination) continue;
                                // One x phase per row of results if they are merged, else per run of rows.
                                const int64_t row = (o * p.merged[0] + mz) * p.merged[1] + my;
                                const T* from = s.results + (left_x > 1 ? row : row * p.merged[2]) * s.pitch;
                                const int64_t phase_pitch = (left_x > 1 ? block.rows : 1) * s.pitch;
                                for (int64_t i = 0; i < (p.band.flat ? height : 1); ++i, from += p.band.row) {
                                    const int64_t at_y = (qy + i) * y.phases + py + my - y.crop;
                                    if (at_y < 0 || at_y >= y.destination) continue;
                                    T* const to = destination + o * p.destination_size + at_z * slice_size + at_y * row_size;
                                    if (x.phases == 1) {
                                        copy_values(from, width, to + xs.start - x.crop);
                                        continue;
                                    }
                                    const int64_t crop = x.crop - xs.start * x.phases;
                                    // The next line's: rows of many channels in turn, which nothing else sees coming.
                                    if (qy + i + 1 < ys.stop && at_y + y.phases < y.destination) {
                                        const T* const next = to + y.phases * row_size + at_least(-crop, 0);
                                        const int64_t n = width * x.phases;
                                        prefetch_for_writing(next, n);
                                        if (p.ends && p.end.addend) prefetch_row(p.end.addend + (next - p.destination), n);
                                    }
                                    if (p.ends)
                                        interleave(from, phase_pitch, x.phases, width, to, crop, x.destination,
                                                   Ending<T>(p, to - p.destination));
                                    else
                                        interleave(from, phase_pitch, x.phases, width, to, crop, x.destination, NoEnding{});
                                }
                            }
                }
}

// to = from + bias, or to += from; then, if asked for, without what is negative (but NaN stays).
template <class T>
MEDECONV_INLINE void finish_sums(const T* from, bool add, T bias, bool relu, int64_t n, T* to) {
    constexpr int64_t L = lanes<T>;
    for (int64_t i = 0; i < n; i += L) {
        const int64_t valid = n - i < L ? n - i : L;
        Vec<T> v = load_unaligned(from + i);   // a row of results is padded
        v += !add ? splat<T>(bias) : valid == L ? load_unaligned(to + i) : load_first(to + i, valid);
        if (relu) v = v < Vec<T>{} ? Vec<T>{} : v;
        if (valid == L) store_unaligned(to + i, v);
        else store_first(to + i, v, valid);
    }
}

// Rows of the only channel of a group, from the weights' Toeplitz matrix in y; a few source channels at a time, so that bands
// may be large, and what they share with their neighbours small.
template <class T>
MEDECONV_NOINLINE void toeplitz_unit(const ConvPass<T>& p, const ConvScratch<T>& s, int64_t image, int64_t group, Range zs, Range ys,
                                     Range xs) {
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const int64_t kernel = p.y_taps * p.x_taps, width = xs.stop - xs.start, height = ys.stop - ys.start;
    const T* const source = p.source + (image * p.groups + group) * p.sources * p.source_size;
    T* const destination = p.destination + (image * p.groups + group) * p.destination_size;
    const T bias = p.bias ? p.bias[group] : T(0);
    DirectTile<T> tile{s.slices, 0, at_least(terms_at_once / kernel, 1), p.band.row, 0, p.y_taps, p.x_taps, s.results, s.pitch, s.aside};
    for (int64_t c0 = 0; c0 < p.sources; c0 += p.sources_at_once) {
        const int64_t cs = p.sources - c0 < p.sources_at_once ? p.sources - c0 : p.sources_at_once;
        const bool last = c0 + cs == p.sources;
        copy_channels(p, source + c0 * p.source_size, cs, zs, ys, xs, s.band, p.sources - c0 - cs);
        tile.count = cs * p.z_taps;
        for (int64_t qz = zs.start; qz < zs.stop; ++qz)
            for (int64_t qy = ys.start; qy < ys.stop; qy += tile_rows) {
                for (int64_t c = 0, i = 0; c < cs; ++c)
                    for (int64_t t = 0; t < p.z_taps; ++t, ++i)
                        s.slices[i] = {s.band + c * p.band.channel + ((qz - zs.start) * z.step + t * p.z_step) * p.band.plane +
                                           (qy - ys.start) * p.band.row,
                                       p.packed + ((group * p.sources + c0 + c) * p.z_taps + t) * kernel};
                tile.rows = ys.stop - qy < tile_rows ? ys.stop - qy : tile_rows;
                sum_tiles<false>(tile, ceil_div(width, lanes<T>) * lanes<T>);
                // Rows without gaps, as they lie in the destination where it is as wide.
                T* const sums = s.sums + ((qz - zs.start) * height + qy - ys.start) * width;
                for (int64_t r = 0; r < tile.rows; ++r) {
                    const T* from = s.results + r * s.pitch;
                    T* to = p.stream || !last || c0 > 0 ? sums + r * width
                                                        : destination + (qz * y.destination + qy + r) * x.destination + xs.start;
                    finish_sums(from, c0 > 0, bias, p.relu && last, width, to);
                    if (last && !p.stream && c0 > 0)
                        std::memcpy(destination + (qz * y.destination + qy + r) * x.destination + xs.start, to, size_t(width) * sizeof(T));
                }
                if (!last || !p.stream) continue;
                T* const to = destination + (qz * y.destination + qy) * x.destination;
                if (p.ends) end_row(p, to - p.destination, tile.rows * width, sums);
                stream_row(to, sums, tile.rows * width);
            }
    }
}

template <class T>
void direct_unit(const ConvPass<T>& p, int64_t unit, T* scratch) {
    const ConvScratch<T> s = conv_buffers(p, scratch);
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    if (p.shared) {
        const int64_t group = unit / p.block_count, number = unit % p.block_count;
        const ConvBlock& block = p.blocks[number];
        const Range all[3] = {{0, z.count}, {0, y.count}, {0, x.count}};
        if (!p.in_place) pack_block(p, group, number, ConvPacked<T>{s.packed, block.rows, 0});
        for (int64_t image = 0; image < p.batch; ++image) {
            sum_block(p, s, image, group, block, p.bands + (image * p.groups + group) * p.sources * p.band.channel,
                      ConvPacked<const T>{s.packed, block.rows, 0}, all[0], all[1], all[2]);
            if (p.ends && x.phases == 1)
                end_channels(p, image, group * p.destinations + block.first, block.channels, all[0], all[1], all[2]);
        }
        return;
    }
    const int64_t position = unit % p.positions(), group = unit / p.positions() % p.groups, image = unit / p.positions() / p.groups;
    auto range = [](const ConvAxis& axis, int64_t block) MEDECONV_BODY { return Range{block * axis.block, axis.stop(block * axis.block)}; };
    const Range xs = range(x, position % x.blocks()), ys = range(y, position / x.blocks() % y.blocks());
    const Range zs = range(z, position / x.blocks() / y.blocks());
    if (p.toeplitz) {
        toeplitz_unit(p, s, image, group, zs, ys, xs);
        if (p.stream) stream_fence();
        else if (p.ends) end_channels(p, image, group, 1, zs, ys, xs);
        return;
    }
    const T* const source = p.source + (image * p.groups + group) * p.sources * p.source_size;
    if (!p.bare) copy_channels(p, source, p.sources, zs, ys, xs, s.band);
    for (int64_t b = 0; b < p.block_count; ++b) {
        sum_block(p, s, image, group, p.blocks[b], p.bare ? source + bare_offset(p, zs.start, ys.start, xs.start) : s.band,
                  ConvPacked<const T>{p.packed + group * p.group_packed(), p.block_rows, p.blocks[b].rows_before}, zs, ys, xs);
        if (p.ends && !p.stream && x.phases == 1)
            end_channels(p, image, group * p.destinations + p.blocks[b].first, p.blocks[b].channels, zs, ys, xs);
    }
    if (p.stream) stream_fence();
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
