// What the kernels without transforms do with rows: fetch them, continue them beyond their ends, walk along them, finish them.
#pragma once
#include "formulas.simd.hpp"
#include "shared/boundary.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// Rows [first, last) of a slice, as far as they exist, into the cache: a unit's rows are too short for the hardware to
// see them coming.
template <class T>
MEDECONV_INLINE void prefetch_rows(const T* slice, int64_t first, int64_t last, int64_t rows, int64_t width) {
    first = at_least(first, 0);
    last = last < rows ? last : rows;
    for (const T *q = slice + first * width, *end = slice + last * width; q < end; q += 64 / sizeof(T)) __builtin_prefetch(q, 0, 2);
}

// to[i] = row[i + base] for i in [0, reach), `row` of n values continued by the boundary.
template <class T>
MEDECONV_INLINE void extend_row(const T* row, int64_t n, int64_t base, Boundary boundary, T* to, int64_t reach) {
    const int64_t begin = base < 0 ? (-base < reach ? -base : reach) : 0;
    int64_t end = n - base;
    end = end < begin ? begin : end > reach ? reach : end;
    auto outside = [&](int64_t first, int64_t last) MEDECONV_BODY {
        if (boundary == Boundary::zero) std::memset(to + first, 0, size_t(last - first) * sizeof(T));
        else
            for (int64_t i = first; i < last; ++i) to[i] = row[source_index(i + base, n, boundary)];
    };
    outside(0, begin);
    if (begin < end) std::memcpy(to + begin, row + begin + base, size_t(end - begin) * sizeof(T));
    outside(end, reach);
}

// The vectors of a row: f(i, load) for whole vectors, then for the rest, load reaching values past the row's end as its last.
template <class T, class F>
MEDECONV_INLINE void each_vector(int64_t width, F f) {
    constexpr int L = lanes<T>;
    int64_t i = 0;
    for (; i + L + 1 <= width; i += L)
        f(i, [](const T* row, int64_t at) MEDECONV_BODY { return load_unaligned(row + at); },
          [](T* row, int64_t at, Vec<T> v) MEDECONV_BODY { store_unaligned(row + at, v); });
    for (; i < width; i += L)
        f(i,
          [width](const T* row, int64_t at) MEDECONV_BODY {
              const int64_t count = width - at;
              if (count >= L) return load_unaligned(row + at);
              return first_of<T>(count) ? load_first(row + at, count) : splat(row[width - 1]);
          },
          [width](T* row, int64_t at, Vec<T> v) MEDECONV_BODY { store_first(row + at, v, width - at < L ? width - at : L); });
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
