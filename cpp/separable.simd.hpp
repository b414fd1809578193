// Passes of the separable engine, built once per ISA. Structure: separable.hpp.
#pragma once
#include "rows.simd.hpp"
#include "separable.hpp"
#include "shared/butterflies.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int filtered_lines = 4;    // lines filtered at once: each loaded value serves them all
constexpr int vectors_at_once = 2;   // 4 × 2 accumulators and 2 loaded values: what 16 registers hold

template <class T>
MEDECONV_INLINE int64_t padded(int64_t n) {
    return ceil_div(n, lanes<T> * vectors_at_once) * lanes<T> * vectors_at_once;
}

// out[o][x] = sum_m weight[m] · from[o + m][x] for o in [0, filtered_lines), x in [0, n), n a multiple of
// lanes · vectors_at_once; `from` has filtered_lines + taps - 1 lines (a line of zeros where there is none).
template <class T>
MEDECONV_NOINLINE void filter_lines(const T* const* from, T* const* out, const T* weight, int64_t taps, int64_t n) {
    constexpr int L = lanes<T>, O = filtered_lines, W = vectors_at_once;
    for (int64_t x = 0; x < n; x += L * W) {
        Vec<T> sum[O * W];
        unroll<O * W>([&](auto i) MEDECONV_BODY { sum[i] = Vec<T>{}; });
        for (int64_t line = 0; line < taps + O - 1; ++line) {
            Vec<T> v[W];
            unroll<W>([&](auto w) MEDECONV_BODY { v[w] = load_unaligned(from[line] + x + w * L); });
            // output o uses this line with weight[line - o]; `weight` has O - 1 zeros on both sides
            unroll<O>([&](auto o) MEDECONV_BODY {
                const Vec<T> t = splat<T>(weight[line - o]);
                unroll<W>([&](auto w) MEDECONV_BODY { sum[o * W + w] += t * v[w]; });
            });
        }
        unroll<O>([&](auto o) MEDECONV_BODY {
            unroll<W>([&](auto w) MEDECONV_BODY { store_unaligned(out[o] + x + w * L, sum[o * W + w]); });
        });
    }
}

// out[x] = sum_m weight[m] · from[x + m], n a multiple of lanes · vectors_at_once.
template <class T>
MEDECONV_NOINLINE void filter_row(const T* from, T* out, const T* weight, int64_t taps, int64_t n) {
    constexpr int L = lanes<T>, W = 4 * vectors_at_once;  // enough sums in flight to hide the latency of one
    int64_t x = 0;
    for (; x + L * W <= n; x += L * W) {
        Vec<T> sum[W];
        unroll<W>([&](auto w) MEDECONV_BODY { sum[w] = Vec<T>{}; });
        for (int64_t m = 0; m < taps; ++m) {
            const Vec<T> t = splat<T>(weight[m]);
            unroll<W>([&](auto w) MEDECONV_BODY { sum[w] += t * load_unaligned(from + x + m + w * L); });
        }
        unroll<W>([&](auto w) MEDECONV_BODY { store_unaligned(out + x + w * L, sum[w]); });
    }
    for (; x < n; x += L) {
        Vec<T> sum = {};
        for (int64_t m = 0; m < taps; ++m) sum += splat<T>(weight[m]) * load_unaligned(from + x + m);
        store_unaligned(out + x, sum);
    }
}

// Scratch of one worker.
template <class T>
struct SeparableScratch {
    int64_t row_pitch;         // a source row, padded
    int64_t extended_pitch;    // a row with what the x filter reaches beyond it
    int64_t ring_pitch;        // a filtered row
    int64_t ring_slots;
    int64_t slot_size;         // a band of filtered rows, off the powers of two: the z filter reads the same place in all
    T *zeros, *rows, *extended, *results, *ring;
    const T** pointers;        // lines in, then lines out
    int64_t total;
};
template <class T>
SeparableScratch<T> separable_buffers(const SeparablePass<T>& p, T* scratch) {
    SeparableScratch<T> s;
    s.row_pitch = padded<T>(p.x.source);
    s.ring_pitch = padded<T>(p.x.destination);
    s.extended_pitch = padded<T>(s.ring_pitch + p.x.taps);
    s.ring_slots = p.z.taps + filtered_lines - 1;
    const int64_t widest = at_least(s.row_pitch, s.ring_pitch);
    T* at = scratch;
    s.zeros = at, at += widest;
    s.rows = at, at += filtered_lines * s.row_pitch;
    s.extended = at, at += s.extended_pitch;
    s.results = at, at += filtered_lines * s.ring_pitch;
    s.slot_size = p.band * s.ring_pitch + 2 * 64 / int64_t(sizeof(T));
    s.ring = at, at += s.ring_slots * s.slot_size;
    const int64_t pointers = at_least(p.y.taps, p.z.taps) + 3 * filtered_lines;
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
void filter_slice(const SeparablePass<T>& p, const SeparableScratch<T>& s, const T* slice, const T* next, int64_t first, int64_t last, T* slot) {
    constexpr int O = filtered_lines;
    if (!slice) {
        std::memset(slot, 0, size_t((last - first) * s.ring_pitch) * sizeof(T));
        return;
    }
    const T** from = s.pointers;
    T** out = const_cast<T**>(from + p.y.taps + O);
    const int64_t whole_vectors = p.x.source / (lanes<T> * vectors_at_once) * lanes<T> * vectors_at_once;
    const int64_t rest = p.x.source - whole_vectors;
    for (int o = 0; o < O; ++o) out[o] = s.rows + o * s.row_pitch;
    for (int64_t y = first; y < last; y += O) {
        const int64_t lines = p.y.taps + O - 1;
        for (int64_t line = 0; line < lines; ++line) {
            int64_t at = y + p.y.base + line;
            if (p.periodic) at = wrapped(at, p.y.source);
            from[line] = at >= 0 && at < p.y.source ? slice + at * p.x.source : s.zeros;
        }
        if (next) {  // the rows that this step is the first of its slice to need
            const int64_t newest = y + p.y.base + (y == first ? 0 : p.y.taps - 1);
            prefetch_rows(next, newest, y + p.y.base + lines, p.y.source, p.x.source);
        }
        filter_lines(from, out, p.y.weight, p.y.taps, whole_vectors);
        for (int o = 0; rest && o < O; ++o)  // what is left of the rows, without reading beyond their end
            for (int64_t x = whole_vectors; x < p.x.source; ++x) {
                T sum = 0;
                for (int64_t m = 0; m < p.y.taps; ++m) sum += p.y.weight[m] * from[o + m][x];
                out[o][x] = sum;
            }
        for (int64_t o = 0; o < O && y + o < last; ++o) {
            const T* row = s.rows + o * s.row_pitch;
            extend_row(row, p.x.source, p.x.base, p.periodic, s.extended, s.ring_pitch + p.x.taps);
            filter_row(s.extended, slot + (y + o - first) * s.ring_pitch, p.x.weight, p.x.taps, s.ring_pitch);
        }
    }
}

template <class T>
void separable_band(const SeparablePass<T>& p, int64_t unit, T* scratch) {
    constexpr int O = filtered_lines;
    const SeparableScratch<T> s = separable_buffers(p, scratch);
    const int64_t first = unit * p.band;
    const int64_t last = first + p.band < p.y.destination ? first + p.band : p.y.destination;
    std::memset(s.zeros, 0, size_t(s.rows - s.zeros) * sizeof(T));
    const T** from = s.pointers;
    T** out = const_cast<T**>(from + p.z.taps + O);

    auto finish = [&](T* row, int64_t z, int64_t y) MEDECONV_BODY {
        finish_row(p.formula, p.operands, p.kept, row, (z * p.y.destination + y) * p.x.destination, p.x.destination);
    };
    int64_t filtered = 0;  // slices done, counted from the first that output 0 needs
    for (int64_t z = 0; z < p.z.destination; z += O) {
        const int64_t outputs = p.z.destination - z < O ? p.z.destination - z : O;
        const int64_t needed = z + outputs + p.z.taps - 1;
        for (; filtered < needed; ++filtered) {
            auto source_slice = [&](int64_t at) -> const T* {
                if (p.periodic) at = wrapped(at, p.z.source);
                return at >= 0 && at < p.z.source ? p.input + at * p.y.source * p.x.source : nullptr;
            };
            const T *slice = source_slice(filtered + p.z.base), *next = source_slice(filtered + 1 + p.z.base);
            filter_slice(p, s, slice, next, first, last, s.ring + filtered % s.ring_slots * s.slot_size);
        }
        for (int64_t y = first; y < last; ++y) {
            if (p.z.taps == 1 && p.z.weight[0] == T(1)) {  // an image, or no blur along z
                for (int64_t o = 0; o < outputs; ++o)
                    finish(s.ring + (z + o) % s.ring_slots * s.slot_size + (y - first) * s.ring_pitch, z + o, y);
                continue;
            }
            for (int64_t line = 0; line < O + p.z.taps - 1; ++line)
                from[line] = line < needed - z ? s.ring + (z + line) % s.ring_slots * s.slot_size + (y - first) * s.ring_pitch : s.zeros;
            for (int o = 0; o < O; ++o) out[o] = s.results + o * s.ring_pitch;
            filter_lines(from, out, p.z.weight, p.z.taps, s.ring_pitch);
            for (int64_t o = 0; o < outputs; ++o) finish(out[o], z + o, y);
        }
    }
}

template <class T>
constexpr SeparableKernels<T> separable_table = {separable_scratch<T>, separable_band<T>};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
