// The formulas of shared/formulas.hpp on a row in L1, for every engine's last step.
#pragma once
#include "operands.hpp"
#include "simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// `row` holds the blurred values (or the correction) and receives the result.
template <class V, class T, class Load, class Store>
MEDECONV_INLINE void formula_step(Formula formula, const Operands<T>& o, T* row, int64_t at, int64_t i, V background, V eps,
                                  Load get, Store put) {
    V c = get(row + i);
    if (formula == Formula::ratio) {
        c = ratio<V>(c, get(o.image + at + i), background, eps);
        if (o.weights) c = c * get(o.weights + at + i);
        put(row + i, c);
    } else if (formula == Formula::multiply) {
        const V one = (background - background) + T(1);
        c = multiply<V>(c, get(o.estimate + at + i), o.gain ? get(o.gain + at + i) : one);
        put(row + i, c);
    }
    if (o.out) put(o.out + at + i, c);
}
template <Formula formula, class T>
void formula_row(const Operands<T>& o, T* row, int64_t at, int64_t n) {
    constexpr int L = lanes<T>;
    const Vec<T> background = splat<T>(o.background), eps = splat<T>(o.eps);
    int64_t i = 0;
    for (; i + L <= n; i += L)
        formula_step<Vec<T>>(formula, o, row, at, i, background, eps,
                             [](const T* q) MEDECONV_BODY { return load_unaligned(q); },
                             [](T* q, Vec<T> v) MEDECONV_BODY { store_unaligned(q, v); });
    for (; i < n; ++i)
        formula_step<T>(formula, o, row, at, i, o.background, o.eps,
                        [](const T* q) MEDECONV_BODY { return *q; }, [](T* q, T v) MEDECONV_BODY { *q = v; });
}
template <class T>
void apply_formula(Formula formula, const Operands<T>& o, T* row, int64_t at, int64_t n) {
    switch (formula) {
    case Formula::copy: return formula_row<Formula::copy>(o, row, at, n);
    case Formula::ratio: return formula_row<Formula::ratio>(o, row, at, n);
    case Formula::multiply: return formula_row<Formula::multiply>(o, row, at, n);
    }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
