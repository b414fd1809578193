// Passes of the direct engine, built once per ISA. Structure: direct.hpp.
#pragma once
#include "direct.hpp"
#include "rows.simd.hpp"
#include "shared/butterflies.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int tile_rows = int(direct_rows);
// 6 × 4 sums, 4 loaded vectors and a weight where there are 32 registers; 6 × 2, 2 and a weight in 16.
#if MEDECONV_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int tile_vectors = 4;
#else
constexpr int tile_vectors = 2;
#endif
// Terms that one running sum takes before it is put aside: bounds the rounding of a large PSF.
constexpr int64_t terms_at_once = 2048;

// A source slice's rows in L2, from the first that the tile reads, and its weights [x][y].
template <class T>
struct DirectSlice {
    const T* rows;
    const T* weight;
};
template <class T>
struct DirectTile {
    const DirectSlice<T>* slices;
    int64_t count, slices_at_once;
    int64_t pitch, rows;             // of the source; output rows, at most tile_rows
    int64_t y_taps, x_taps;
    T* out;
    int64_t out_pitch;
    T* aside;                        // a tile of partial sums
};

// Adds what a source row gives to the output rows [low, high) of the tile. Output r uses weight[m · y_taps - r].
template <int low, int high, int W, bool folded, class T>
MEDECONV_INLINE void add_row(Vec<T>* sum, const T* row, const T* weight, int64_t y_taps, int64_t x_taps) {
    constexpr int L = lanes<T>;
    Vec<T> v[W];
    auto add = [&]() MEDECONV_BODY {
        unroll<high - low>([&](auto i) MEDECONV_BODY {
            constexpr int r = low + i.value;
            const Vec<T> t = in_register(splat<T>(weight[-r]));
            unroll<W>([&](auto w) MEDECONV_BODY { sum[r * W + w] += t * v[w]; });
        });
        weight += y_taps;
    };
    if constexpr (folded) {
        const T *left = row, *right = row + x_taps - 1;
        for (; left < right; ++left, --right) {
            unroll<W>([&](auto w) MEDECONV_BODY {
                v[w] = in_register(load_unaligned(left + w * L) + load_unaligned(right + w * L));
            });
            add();
        }
        if (left > right) return;
        unroll<W>([&](auto w) MEDECONV_BODY { v[w] = in_register(load_unaligned(left + w * L)); });
        add();
    } else {
        for (const T *from = row, *end = row + x_taps; from < end; ++from) {
            unroll<W>([&](auto w) MEDECONV_BODY { v[w] = in_register(load_unaligned(from + w * L)); });
            add();
        }
    }
}

// A tile of rows × (W vectors from column x), summed over all taps.
template <int W, bool folded, class T>
MEDECONV_NOINLINE void sum_tile(const DirectTile<T>& tile, int64_t x) {
    constexpr int L = lanes<T>, R = tile_rows;
    static_assert(R == 6, "the cases below are those of 6 rows");
    Vec<T> sum[R * W];
    unroll<R * W>([&](auto i) MEDECONV_BODY { sum[i] = Vec<T>{}; });
    const bool in_parts = tile.count > tile.slices_at_once;
    if (in_parts) std::memset(tile.aside, 0, sizeof sum);
    for (int64_t z = 0, rest = tile.slices_at_once; z < tile.count; ++z, --rest) {
        if (rest == 0) {
            unroll<R * W>([&](auto i) MEDECONV_BODY {
                store(tile.aside + i * L, load(tile.aside + i * L) + sum[i]);
                sum[i] = Vec<T>{};
            });
            rest = tile.slices_at_once;
        }
        const T *row = tile.slices[z].rows + x, *weight = tile.slices[z].weight;
        for (int64_t s = 0; s < tile.rows + tile.y_taps - 1; ++s, ++weight, row += tile.pitch) {
            const int64_t low = at_least(s - tile.y_taps + 1, 0), high = s + 1 < tile.rows ? s + 1 : tile.rows;
            switch (low * 8 + high) {
#define MEDECONV_ROWS(LOW, HIGH) \
    case LOW * 8 + HIGH: add_row<LOW, HIGH, W, folded>(sum, row, weight, tile.y_taps, tile.x_taps); break;
                MEDECONV_ROWS(0, 1) MEDECONV_ROWS(0, 2) MEDECONV_ROWS(0, 3) MEDECONV_ROWS(0, 4) MEDECONV_ROWS(0, 5) MEDECONV_ROWS(0, 6)
                MEDECONV_ROWS(1, 2) MEDECONV_ROWS(1, 3) MEDECONV_ROWS(1, 4) MEDECONV_ROWS(1, 5) MEDECONV_ROWS(1, 6)
                MEDECONV_ROWS(2, 3) MEDECONV_ROWS(2, 4) MEDECONV_ROWS(2, 5) MEDECONV_ROWS(2, 6)
                MEDECONV_ROWS(3, 4) MEDECONV_ROWS(3, 5) MEDECONV_ROWS(3, 6)
                MEDECONV_ROWS(4, 5) MEDECONV_ROWS(4, 6)
                MEDECONV_ROWS(5, 6)
#undef MEDECONV_ROWS
            default: __builtin_unreachable();
            }
        }
    }
    if (in_parts) unroll<R * W>([&](auto i) MEDECONV_BODY { sum[i] += load(tile.aside + i * L); });
    unroll<R>([&](auto r) MEDECONV_BODY {
        if (r < tile.rows)
            unroll<W>([&](auto w) MEDECONV_BODY { store_unaligned(tile.out + r * tile.out_pitch + x + w * L, sum[r * W + w]); });
    });
}

// All columns [0, n), n a multiple of the lanes.
template <bool folded, class T>
void sum_tiles(const DirectTile<T>& tile, int64_t n) {
    constexpr int64_t L = lanes<T>, wide = L * tile_vectors;
    int64_t x = 0;
    for (; x + wide <= n; x += wide) sum_tile<tile_vectors, folded>(tile, x);
    if (x > 0 && n - x == wide - L && tile_vectors > 2) {  // with a vector of its neighbour's again
        sum_tile<tile_vectors, folded>(tile, n - wide);
        return;
    }
    if constexpr (tile_vectors > 2)
        for (; x + 2 * L <= n; x += 2 * L) sum_tile<2, folded>(tile, x);
    for (; x < n; x += L) sum_tile<1, folded>(tile, x);
}

// Scratch of one worker.
template <class T>
struct DirectScratch {
    int64_t columns;           // of an output row, padded
    int64_t pitch;             // of a source row; an odd number of cache lines, or rows compete for the same ones
    int64_t rows;              // source rows of a unit
    int64_t slot_size;         // a slice of the ring
    T *ring, *added, *results, *aside;
    DirectSlice<T>* slices;
    int64_t total;
};
template <class T>
DirectScratch<T> direct_buffers(const DirectPass<T>& p, T* scratch) {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    DirectScratch<T> s;
    s.columns = ceil_div(p.x.block < p.x.destination ? p.x.block : p.x.destination, lanes<T>) * lanes<T>;
    s.pitch = (ceil_div(s.columns + p.x.taps - 1, line) | 1) * line;
    s.rows = (p.y.block < p.y.destination ? p.y.block : p.y.destination) + p.y.taps - 1;
    s.slot_size = (s.rows * s.pitch / line | 1) * line + 2 * line;
    T* at = scratch;
    s.ring = at, at += p.z.taps * s.slot_size;
    s.added = at, at += p.z.folded ? p.z.taps / 2 * s.slot_size : 0;
    s.results = at, at += tile_rows * (s.columns + line);
    s.aside = at, at += tile_rows * tile_vectors * lanes<T>;
    s.slices = reinterpret_cast<DirectSlice<T>*>(at);
    at += ceil_div(p.z.taps * int64_t(sizeof(DirectSlice<T>)), 64) * line;
    s.total = at - scratch;
    return s;
}
template <class T>
int64_t direct_scratch(const DirectPass<T>& p) {
    return direct_buffers<T>(p, nullptr).total;
}

template <class T>
MEDECONV_NOINLINE void add_slices(const T* a, const T* b, T* sum, int64_t n) {
    for (int64_t i = 0; i < n; i += lanes<T>) store(sum + i, load(a + i) + load(b + i));
}

// What the formula will read and write, while the sums are made.
template <class T>
MEDECONV_INLINE void prefetch_operands(const DirectPass<T>& p, int64_t at, int64_t n) {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    const Operands<T>& o = p.operands;
    const T* const reads[] = {o.image, o.weights, o.estimate, o.gain, o.factor, o.damping, o.held_out, o.previous, o.partial};
    const T* const writes[] = {o.out, o.extrapolated, o.change, p.kept};
    for (const T* read : reads)
        for (int64_t i = 0; read && i < n; i += line) __builtin_prefetch(read + at + i, 0, 2);
    for (const T* written : writes)
        for (int64_t i = 0; written && i < n; i += line) __builtin_prefetch(written + at + i, 1, 2);
}

template <class T>
void direct_block(const DirectPass<T>& p, int64_t unit, T* scratch) {
    const DirectScratch<T> s = direct_buffers(p, scratch);
    auto range = [](const DirectAxis& axis, int64_t block) MEDECONV_BODY {
        const int64_t start = block * axis.block, stop = start + axis.block;
        return Range{start, stop < axis.destination ? stop : axis.destination};
    };
    const Range xs = range(p.x, unit % p.x.blocks());
    const Range ys = range(p.y, unit / p.x.blocks() % p.y.blocks());
    const Range zs = range(p.z, unit / (p.x.blocks() * p.y.blocks()));
    const int64_t width = xs.stop - xs.start, rows = ys.stop - ys.start + p.y.taps - 1;
    const int64_t weights = p.x.weights() * p.y.taps;  // of a slice
    const int64_t slice_size = p.y.source * p.x.source;

    const Boundary outside = p.periodic ? Boundary::wrap : Boundary::zero;
    auto source_slice = [&](int64_t at) MEDECONV_BODY -> const T* {  // null: nothing but zeros
        at = source_index(at, p.z.source, outside);
        return at >= 0 ? p.input + at * slice_size : nullptr;
    };
    auto slot = [&](int64_t at) MEDECONV_BODY { return s.ring + (at - zs.start) % p.z.taps * s.slot_size; };
    DirectTile<T> tile{s.slices, 0, at_least(terms_at_once / weights, 1), s.pitch, 0, p.y.taps, p.x.taps, s.results,
                       s.columns + 64 / int64_t(sizeof(T)), s.aside};

    int64_t copied = zs.start;  // slices, counted like the destination's: output z reads [z, z + taps)
    for (int64_t z = zs.start; z < zs.stop; ++z) {
        for (; copied < z + p.z.taps; ++copied) {
            const T* slice = source_slice(copied + p.z.base);
            for (int64_t row = 0; slice && row < rows; ++row) {
                const int64_t y = source_index(ys.start + p.y.base + row, p.y.source, outside);
                T* to = slot(copied) + row * s.pitch;
                if (y >= 0) extend_row(slice + y * p.x.source, p.x.source, xs.start + p.x.base, outside, to, s.pitch);
                else std::memset(to, 0, size_t(s.pitch) * sizeof(T));
            }
        }
        tile.count = 0;
        for (int64_t m = 0; m < p.z.weights(); ++m) {
            const int64_t other = p.z.taps - 1 - m;
            const T* from = source_slice(z + m + p.z.base) ? slot(z + m) : nullptr;
            if (p.z.folded && m != other && source_slice(z + other + p.z.base)) {
                if (from) {
                    T* sum = s.added + m * s.slot_size;
                    add_slices(from, slot(z + other), sum, rows * s.pitch);
                    from = sum;
                } else {
                    from = slot(z + other);
                }
            }
            if (from) s.slices[tile.count++] = {from, p.weight + m * weights};
        }
        const T* next = z + 1 < zs.stop ? source_slice(copied + p.z.base) : nullptr;
        for (int64_t y = ys.start; y < ys.stop; y += tile_rows) {
            tile.rows = ys.stop - y < tile_rows ? ys.stop - y : tile_rows;
            if (next && p.x.blocks() == 1) {  // while this slice is computed; each step its share of the rows
                const int64_t first = y + p.y.base + (y == ys.start ? 0 : p.y.taps - 1);
                prefetch_rows(next, first, y + p.y.base + p.y.taps - 1 + tile.rows, p.y.source, p.x.source);
            }
            if (p.x.blocks() == 1) prefetch_operands(p, (z * p.y.destination + y) * p.x.destination, tile.rows * p.x.destination);
            if (p.x.folded) sum_tiles<true>(tile, ceil_div(width, lanes<T>) * lanes<T>);
            else sum_tiles<false>(tile, ceil_div(width, lanes<T>) * lanes<T>);
            for (int64_t r = 0; r < tile.rows; ++r)
                finish_row(p.formula, p.operands, p.kept, tile.out + r * tile.out_pitch,
                           (z * p.y.destination + y + r) * p.x.destination + xs.start, width,
                           (z * p.y.destination + y + r) * p.x.blocks() + unit % p.x.blocks());
            for (int64_t m = 0; m < tile.count; ++m) s.slices[m].rows += tile.rows * s.pitch;
        }
    }
}

template <class T>
constexpr DirectKernels<T> direct_table = {direct_scratch<T>, direct_block<T>};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
