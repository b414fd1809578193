// What the engines without transforms do with rows: fetch them, continue them beyond their ends, finish them.
#pragma once
#include "formulas.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

MEDECONV_INLINE int64_t wrapped(int64_t i, int64_t n) {
    i %= n;
    return i < 0 ? i + n : i;
}

// Rows [first, last) of a slice, as far as they exist, into the cache: a unit's rows are too short for the hardware to
// see them coming.
template <class T>
MEDECONV_INLINE void prefetch_rows(const T* slice, int64_t first, int64_t last, int64_t rows, int64_t width) {
    first = at_least(first, 0);
    last = last < rows ? last : rows;
    for (const T *q = slice + first * width, *end = slice + last * width; q < end; q += 64 / sizeof(T)) __builtin_prefetch(q, 0, 2);
}

// to[i] = row[i + base] for i in [0, reach), `row` of n values continued by zeros or periodically.
template <class T>
MEDECONV_INLINE void extend_row(const T* row, int64_t n, int64_t base, bool periodic, T* to, int64_t reach) {
    if (periodic) {
        for (int64_t i = 0, at = wrapped(base, n); i < reach; at = 0) {
            const int64_t run = n - at < reach - i ? n - at : reach - i;
            std::memcpy(to + i, row + at, size_t(run) * sizeof(T));
            i += run;
        }
        return;
    }
    const int64_t begin = base < 0 ? (-base < reach ? -base : reach) : 0;
    int64_t end = n - base;
    end = end < begin ? begin : end > reach ? reach : end;
    std::memset(to, 0, size_t(begin) * sizeof(T));
    if (begin < end) std::memcpy(to + begin, row + begin + base, size_t(end - begin) * sizeof(T));
    std::memset(to + end, 0, size_t(reach - end) * sizeof(T));
}

// The formula on n blurred values in `row`, which lie at `at` in the result; `kept`, if not null, receives it as well.
// slot: of the row's sums.
template <class T>
MEDECONV_INLINE void finish_row(Formula formula, const Operands<T>& operands, T* kept, T* row, int64_t at, int64_t n, int64_t slot) {
    if (kept) {
        std::memcpy(kept + at, row, size_t(n) * sizeof(T));
        row = kept + at;
    }
    apply_formula<T>(formula, operands, row, at, n, slot);
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
