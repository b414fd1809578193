// Passes of the separable engine, built once per ISA. Structure: separable.hpp.
#pragma once
#include "rows.simd.hpp"
#include "separable.hpp"
#include "shared/butterflies.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// Outputs at once. Each keeps a sum and, for pairs, the line on either side of the centre that it uses now: 3 × 8 of 32
// registers, 3 × 4 of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int filtered_lines = 8;
#else
constexpr int filtered_lines = 4;
#endif

template <class T>
MEDECONV_INLINE int64_t padded(int64_t n) {
    return ceil_div(n, lanes<T>) * lanes<T>;
}

// sum[o] = sum_m weight[m] · line(o + m) for o in [0, filtered_lines), m in [0, taps); line(l) is a vector.
// From one m to the next, every output takes over its neighbour's line and one new line is loaded. Which register holds
// which line has period `filtered_lines`, so that many steps are written out.
template <class T, class Line>
MEDECONV_INLINE void filter_any(Vec<T>* sum, const T* weight, int64_t taps, Line line) {
    constexpr int O = filtered_lines;
    Vec<T> held[O];
    unroll<O>([&](auto o) MEDECONV_BODY { held[o] = in_register(line(o)), sum[o] = Vec<T>{}; });
    for (int64_t m = 0; m < taps;) {
        unroll<O>([&](auto p) MEDECONV_BODY {
            if (m >= taps) return;
            const Vec<T> t = in_register(splat<T>(weight[m]));
            unroll<O>([&](auto o) MEDECONV_BODY { sum[o] += t * held[(o + p) % O]; });
            if (++m < taps) held[p] = in_register(line(m + O - 1));
        });
    }
}
// The same where weight[m] == weight[taps - 1 - m]: one sum and one product for two taps.
template <class T, class Line>
MEDECONV_INLINE void filter_pairs(Vec<T>* sum, const T* weight, int64_t taps, Line line) {
    constexpr int O = filtered_lines;
    const int64_t pairs = taps / 2;
    Vec<T> left[O], right[O];
    unroll<O>([&](auto o) MEDECONV_BODY {
        left[o] = in_register(line(o)), right[o] = in_register(line(taps - 1 + o)), sum[o] = Vec<T>{};
    });
    for (int64_t m = 0;;) {
        bool done = false;
        unroll<O>([&](auto p) MEDECONV_BODY {
            if (done) return;
            const Vec<T> t = in_register(splat<T>(weight[m]));
            if (m == pairs) {
                if (taps & 1) unroll<O>([&](auto o) MEDECONV_BODY { sum[o] += t * left[(o + p) % O]; });
                done = true;
                return;
            }
            unroll<O>([&](auto o) MEDECONV_BODY { sum[o] += t * (left[(o + p) % O] + right[(o + O - p) % O]); });
            ++m;
            left[p] = in_register(line(m + O - 1));
            right[O - 1 - p] = in_register(line(taps - 1 - m));
        });
        if (done) return;
    }
}

template <bool pairs, class T, class Line>
MEDECONV_INLINE void filter(Vec<T>* sum, const AxisFilter<T>& f, Line line) {
    if constexpr (pairs) filter_pairs<T>(sum, f.weight, f.taps, line);
    else filter_any<T>(sum, f.weight, f.taps, line);
}
// The z filter: out[o][x] for x in [0, n); `from` is readable up to the next multiple of lanes.
template <bool pairs, class T>
MEDECONV_NOINLINE void filter_lines(const T* const* from, T* const* out, const AxisFilter<T>& f, int64_t n) {
    constexpr int L = lanes<T>, O = filtered_lines;
    for (int64_t x = 0; x < n; x += L) {
        Vec<T> sum[O];
        filter<pairs>(sum, f, [&](int64_t l) MEDECONV_BODY { return load(from[l] + x); });
        if (x + L <= n) unroll<O>([&](auto o) MEDECONV_BODY { store_unaligned(out[o] + x, sum[o]); });
        else unroll<O>([&](auto o) MEDECONV_BODY { store_first(out[o] + x, sum[o], n - x); });
    }
}
// A square of lanes rows by lanes columns: the y filter on from[row][x ..), transposed into `columns`, lanes values each.
template <bool pairs, class T>
MEDECONV_NOINLINE void filter_square(const T* const* from, int64_t x, const AxisFilter<T>& f, T* columns) {
    constexpr int L = lanes<T>, O = filtered_lines;
    alignas(64) T rows[(L + O) * L];  // L may be less than O
    for (int row = 0; row < L; row += O) {
        Vec<T> sum[O];
        filter<pairs>(sum, f, [&](int64_t l) MEDECONV_BODY { return load_unaligned(from[row + l] + x); });
        unroll<O>([&](auto o) MEDECONV_BODY { store(rows + (row + o) * L, sum[o]); });
    }
    Vec<T> v[L];
    unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(rows + i * L); });
    transpose<T>(v);
    unroll<L>([&](auto i) MEDECONV_BODY { store(columns + i * L, v[i]); });
}
// The x filter on columns of lanes rows each, back into rows: n columns, a multiple of lanes.
template <bool pairs, class T>
MEDECONV_NOINLINE void filter_columns(const T* columns, const AxisFilter<T>& f, T* out, int64_t pitch, int64_t n) {
    constexpr int L = lanes<T>, O = filtered_lines;
    alignas(64) T block[(L + O) * L];
    for (int64_t x = 0; x < n; x += L) {
        for (int column = 0; column < L; column += O) {
            Vec<T> sum[O];
            const T* from = columns + (x + column) * L;
            filter<pairs>(sum, f, [&](int64_t l) MEDECONV_BODY { return load(from + l * L); });
            unroll<O>([&](auto o) MEDECONV_BODY { store(block + (column + o) * L, sum[o]); });
        }
        Vec<T> v[L];
        unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(block + i * L); });
        transpose<T>(v);
        unroll<L>([&](auto i) MEDECONV_BODY { store(out + i * pitch + x, v[i]); });
    }
}

// Lines and images of few rows: too few to fill the lanes of a column. out[x] = sum_m weight[m] · at(m)[x] for x in [0, n).
template <class T, class At>
MEDECONV_INLINE void filter_row(const AxisFilter<T>& f, T* out, int64_t n, At at) {
    constexpr int L = lanes<T>, W = 8;  // enough sums in flight to hide the latency of one
    int64_t x = 0;
    for (; x + L * W <= n; x += L * W) {
        Vec<T> sum[W];
        unroll<W>([&](auto w) MEDECONV_BODY { sum[w] = Vec<T>{}; });
        for (int64_t m = 0; m < f.taps; ++m) {
            const Vec<T> t = splat<T>(f.weight[m]);
            const T* from = at(m) + x;
            unroll<W>([&](auto w) MEDECONV_BODY { sum[w] += t * load_unaligned(from + w * L); });
        }
        unroll<W>([&](auto w) MEDECONV_BODY { store_unaligned(out + x + w * L, sum[w]); });
    }
    for (; x < n; x += L) {
        const int64_t count = n - x < L ? n - x : L;
        Vec<T> sum = {};
        for (int64_t m = 0; m < f.taps; ++m) sum += splat<T>(f.weight[m]) * load_first(at(m) + x, count);
        store_first(out + x, sum, count);
    }
}
template <class T>
MEDECONV_NOINLINE void filter_few_rows(const SeparablePass<T>& p, const T* const* from, int64_t rows, T* row, T* extended, T* out,
                                      int64_t pitch) {
    for (int64_t y = 0; y < rows; ++y) {
        filter_row(p.y, row, p.x.source, [&](int64_t m) MEDECONV_BODY { return from[y + m]; });
        extend_row(row, p.x.source, p.x.base, p.boundary, extended, p.x.destination + p.x.taps - 1);
        filter_row(p.x, out + y * pitch, p.x.destination, [&](int64_t m) MEDECONV_BODY { return extended + m; });
    }
}

// Scratch of one worker.
template <class T>
struct SeparableScratch {
    int64_t ring_pitch;        // a filtered row
    int64_t ring_slots;
    int64_t slot_size;         // a band of filtered rows, off the powers of two: the z filter reads the same place in all
    int64_t lead, columns;     // columns before the source's, and all
    bool few_rows;
    T *zeros, *ends, *column, *results, *ring;
    const T** pointers;        // lines in, then lines out
    int64_t total;
};
template <class T>
SeparableScratch<T> separable_buffers(const SeparablePass<T>& p, T* scratch) {
    constexpr int L = lanes<T>, O = filtered_lines;
    SeparableScratch<T> s;
    s.ring_pitch = padded<T>(p.x.destination);
    s.ring_slots = p.z.taps + O - 1;
    s.lead = at_least(-p.x.base, 0);
    s.few_rows = p.y.destination * 4 <= L;
    s.columns = s.lead + at_least(padded<T>(p.x.source), p.x.base + s.ring_pitch + p.x.taps + 2 * O);
    T* at = scratch;
    s.zeros = at, at += at_least(padded<T>(p.x.source), s.ring_pitch);
    // a row and the same extended; or as many columns as a row has values
    s.column = at, at += s.few_rows ? padded<T>(p.x.source) + padded<T>(p.x.destination + p.x.taps) : s.columns * L;
    s.ends = at, at += (p.y.taps + L + O) * L;
    s.results = at, at += O * s.ring_pitch;
    s.slot_size = p.band * s.ring_pitch + 2 * 64 / int64_t(sizeof(T));
    s.ring = at, at += s.ring_slots * s.slot_size;
    const int64_t pointers = at_least(p.y.taps + L, p.z.taps) + 3 * O;
    s.pointers = reinterpret_cast<const T**>(at), at += ceil_div(pointers * int64_t(sizeof(T*)), 64) * 64 / int64_t(sizeof(T));
    s.total = at - scratch;
    return s;
}
template <class T>
int64_t separable_scratch(const SeparablePass<T>& p) {
    return separable_buffers<T>(p, nullptr).total;
}

// The y and x filters on rows [first, last) of source slice z (null: outside), into one slot of the ring.
template <class T>
void filter_slice(const SeparablePass<T>& p, const SeparableScratch<T>& s, const T* slice, const T* next, int64_t first, int64_t last,
                  T* slot) {
    constexpr int L = lanes<T>, O = filtered_lines;
    if (!slice) {
        std::memset(slot, 0, size_t(p.band * s.ring_pitch) * sizeof(T));
        return;
    }
    const T** from = s.pointers;
    const int64_t nx = p.x.source, lines = p.y.taps - 1 + at_least(L, O);
    for (int64_t y = first; y < last; y += L) {
        for (int64_t line = 0; line < lines; ++line) {
            const int64_t at = source_index(y + p.y.base + line, p.y.source, p.boundary);
            from[line] = at >= 0 ? slice + at * nx : s.zeros;
        }
        if (s.few_rows) {  // what this takes is less than two rows of columns, and there are as many as lanes
            T* extended = s.column + padded<T>(nx);
            filter_few_rows(p, from, last - first, s.column, extended, slot, s.ring_pitch);
            return;
        }
        // the rows that this step is the first of its slice to need
        const int64_t fresh = y == first ? 0 : p.y.taps - 1;
        T* column = s.column + s.lead * L;
        int64_t x = 0;
        for (; x + L <= nx; x += L, column += L * L) {
            if (next)
                for (int64_t line = fresh; line < lines; ++line)
                    if (from[line] != s.zeros) __builtin_prefetch(next + (from[line] - slice) + x, 0, 2);
            p.y.symmetric ? filter_square<true>(from, x, p.y, column) : filter_square<false>(from, x, p.y, column);
        }
        if (x < nx) {  // the rows' ends, with zeros behind them
            for (int64_t line = 0; line < lines; ++line) {
                T* end = s.ends + line * L;
                store(end, load_first(from[line] + x, nx - x));
                from[line] = end;
            }
            p.y.symmetric ? filter_square<true>(from, 0, p.y, column) : filter_square<false>(from, 0, p.y, column);
        }
        if (p.boundary != Boundary::zero) {
            auto copy = [&](int64_t at) MEDECONV_BODY {
                std::memcpy(s.column + (s.lead + at) * L, s.column + (s.lead + source_index(at, nx, p.boundary)) * L, L * sizeof(T));
            };
            const int64_t reached = p.x.base + p.x.destination + p.x.taps - 1;  // behind it lie columns that no result takes
            for (int64_t at = -s.lead; at < 0; ++at) copy(at);
            for (int64_t at = nx; at < reached; ++at) copy(at);
        }
        const T* columns = s.column + (s.lead + p.x.base) * L;
        T* rows = slot + (y - first) * s.ring_pitch;
        p.x.symmetric ? filter_columns<true>(columns, p.x, rows, s.ring_pitch, s.ring_pitch)
                      : filter_columns<false>(columns, p.x, rows, s.ring_pitch, s.ring_pitch);
    }
}

template <class T>
void separable_band(const SeparablePass<T>& p, int64_t unit, T* scratch) {
    constexpr int O = filtered_lines;
    const SeparableScratch<T> s = separable_buffers(p, scratch);
    const int64_t first = unit * p.band;
    const int64_t last = first + p.band < p.y.destination ? first + p.band : p.y.destination;
    std::memset(s.zeros, 0, size_t(s.ends - s.zeros) * sizeof(T));
    const T** from = s.pointers;
    T** out = const_cast<T**>(from + p.z.taps + O);

    // Where results go at once; null: through `results`, as the formula needs a place that is not the caller's.
    const bool copies = p.formula == Formula::copy && p.operands.plain();
    T* const place = p.kept ? p.kept : copies ? p.operands.out : nullptr;
    const T* const operand = p.operands.image ? p.operands.image : p.operands.estimate;
    auto row_at = [&](int64_t z, int64_t y) MEDECONV_BODY { return (z * p.y.destination + y) * p.x.destination; };
    auto slot = [&](int64_t z, int64_t y) MEDECONV_BODY { return z * p.y.destination + y; };
    auto ring_row = [&](int64_t z, int64_t y) MEDECONV_BODY {
        return s.ring + z % s.ring_slots * s.slot_size + (y - first) * s.ring_pitch;
    };
    int64_t filtered = 0;  // slices done, counted from the first that output 0 needs
    for (int64_t z = 0; z < p.z.destination; z += O) {
        const int64_t outputs = p.z.destination - z < O ? p.z.destination - z : O;
        const int64_t needed = z + outputs + p.z.taps - 1;
        for (; filtered < needed; ++filtered) {
            auto source_of = [&](int64_t i) MEDECONV_BODY { return source_index(i + p.z.base, p.z.source, p.boundary); };
            auto slice = [&](int64_t at) MEDECONV_BODY { return at >= 0 ? p.input + at * p.y.source * p.x.source : nullptr; };
            const int64_t at = source_of(filtered);
            T* const place = s.ring + filtered % s.ring_slots * s.slot_size;
            // Near the border the boundary may have brought the same slice before.
            int64_t same = filtered - 1, oldest = at_least(filtered - s.ring_slots + 1, 0);
            if (at < 0 || (at >= p.z.taps && at + p.z.taps < p.z.source)) same = oldest - 1;
            while (same >= oldest && source_of(same) != at) --same;
            if (same >= oldest)
                std::memcpy(place, s.ring + same % s.ring_slots * s.slot_size, size_t(p.band * s.ring_pitch) * sizeof(T));
            else filter_slice(p, s, slice(at), slice(source_of(filtered + 1)), first, last, place);
        }
        for (int64_t y = first; y < last; ++y) {
            if (p.z.taps == 1 && p.z.weight[0] == T(1)) {  // an image, or no blur along z
                for (int64_t o = 0; o < outputs; ++o)
                    finish_row(p.formula, p.operands, p.kept, ring_row(z + o, y), row_at(z + o, y), p.x.destination, slot(z + o, y));
                continue;
            }
            for (int64_t line = 0; line < O + p.z.taps - 1; ++line)
                from[line] = line < needed - z ? ring_row(z + line, y) : s.zeros;
            for (int64_t o = 0; o < O; ++o) {
                out[o] = place && o < outputs ? place + row_at(z + o, y) : s.results + o * s.ring_pitch;
                if (o >= outputs || y + 1 == last || p.formula == Formula::copy) continue;
                prefetch_rows(operand + row_at(z + o, 0), y + 1, y + 2, last, p.x.destination);
                if (p.operands.out) prefetch_rows(p.operands.out + row_at(z + o, 0), y + 1, y + 2, last, p.x.destination);
            }
            p.z.symmetric ? filter_lines<true>(from, out, p.z, p.x.destination)
                          : filter_lines<false>(from, out, p.z, p.x.destination);
            if (place && !p.kept) continue;
            for (int64_t o = 0; o < outputs; ++o)
                apply_formula<T>(p.formula, p.operands, out[o], row_at(z + o, y), p.x.destination, slot(z + o, y));
        }
    }
}

template <class T>
constexpr SeparableKernels<T> separable_table = {lanes<T>, filtered_lines, separable_scratch<T>, separable_band<T>};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
