// The formulas of shared/formulas.hpp on a row in L1, for every engine's last step.
#pragma once
#include "formula_step.hpp"
#include "simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// Lane by lane, so that short rows of the same piece of work cost no sums across lanes.
template <class T>
struct LaneSums {
    Vec<T> lane[sums_of_a_sweep]{};
    MEDECONV_INLINE void add_to(double* slot) const {
        for (int k = 0; k < sums_of_a_sweep; ++k)
            for (int i = 0; i < lanes<T>; ++i) slot[k] += double(lane[k][i]);
    }
};

// How the formula reaches L neighbouring values at offset `at` of the operands; careful: only the first `count` exist.
template <bool careful, class T>
struct Reached {
    int64_t at, count;
    MEDECONV_INLINE Vec<T> operator()(const T* p) const {
        __builtin_prefetch(p + at + lanes<T>, 0, 2);  // the same row of the next plane
        if constexpr (careful) return load_first(p + at, count);
        else return load_unaligned(p + at);
    }
    MEDECONV_INLINE void operator()(T* p, Vec<T> v) const {
        if constexpr (careful) store_first(p + at, v, count);
        else store_unaligned(p + at, v);
    }
};

// Sums of rows of one vector each, of which the first `count` lanes are the image's: beyond them lies anything, not numbers
// included.
template <class T>
MEDECONV_INLINE void add_lanes(const Vec<T>* of_rows, int64_t count, double* slot) {
    LaneSums<T> sums;
    for (int k = 0; k < sums_of_a_sweep; ++k) sums.lane[k] = first_lanes<T>(of_rows[k], count);
    sums.add_to(slot);
}

template <Formula formula, bool plain, class T>
void formula_row(const Operands<T>& o, T* row, int64_t at, int64_t n, LaneSums<T>* sums) {
    constexpr int L = lanes<T>;
    const Numbers<Vec<T>> vector(o, [](T x) MEDECONV_BODY { return splat<T>(x); });
    constexpr bool writes = formula != Formula::copy || !plain;
    Vec<T> of_lanes[sums_of_a_sweep]{};
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        const Vec<T> next = formula_step<formula, plain>(
            o, load_unaligned(row + i), vector, [&](const T* q) MEDECONV_BODY { return load_unaligned(q + at + i); },
            [&](T* q, Vec<T> v) MEDECONV_BODY { store_unaligned(q + at + i, v); }, of_lanes);
        if (writes) store_unaligned(row + i, next);
    }
    if (i < n) {
        const int64_t count = n - i;
        Vec<T> of_rest[sums_of_a_sweep]{};
        const Vec<T> next = formula_step<formula, plain>(
            o, load_first(row + i, count), vector, [&](const T* q) MEDECONV_BODY { return load_first(q + at + i, count); },
            [&](T* q, Vec<T> v) MEDECONV_BODY { store_first(q + at + i, v, count); }, of_rest);
        if (writes) store_first(row + i, next, count);
        if (!plain && sums)
            for (int k = 0; k < sums_of_a_sweep; ++k) of_lanes[k] += first_lanes<T>(of_rest[k], count);
    }
    if (!plain && sums)
        for (int k = 0; k < sums_of_a_sweep; ++k) sums->lane[k] += of_lanes[k];
}
// `row` holds the blurred values (or the correction), which lie at `at` in the operands, and receives what the next sweep gets.
template <class T>
void apply_formula(Formula formula, const Operands<T>& o, T* row, int64_t at, int64_t n, LaneSums<T>* sums = nullptr) {
#define MEDECONV_CASE(F)                                                     \
    case Formula::F:                                                         \
        return o.plain() ? formula_row<Formula::F, true>(o, row, at, n, sums) \
                         : formula_row<Formula::F, false>(o, row, at, n, sums);
    switch (formula) {
        MEDECONV_EACH_FORMULA(MEDECONV_CASE)
    }
#undef MEDECONV_CASE
}
// The same for rows that are a piece of work each; slot: where its sums go, counted in slots.
template <class T>
MEDECONV_INLINE void apply_formula(Formula formula, const Operands<T>& o, T* row, int64_t at, int64_t n, int64_t slot) {
    if (!o.sums) return apply_formula<T>(formula, o, row, at, n);
    LaneSums<T> sums;
    apply_formula<T>(formula, o, row, at, n, &sums);
    sums.add_to(o.sums + slot * sums_of_a_sweep);
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
