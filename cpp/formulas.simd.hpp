// The formulas of shared/formulas.hpp on a row in L1, for every engine's last step.
#pragma once
#include "operands.hpp"
#include "simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class V>
struct Numbers {
    V background, eps, step, alpha;
};

// `row` holds the blurred values (or the correction) and receives what the next sweep gets. All is read before anything
// is written: operands may be destinations.
template <class V, class T, class Load, class Store>
MEDECONV_INLINE void formula_step(Formula formula, const Operands<T>& o, T* row, int64_t at, int64_t i, const Numbers<V>& numbers,
                                  Load get, Store put) {
    const V one = (numbers.eps - numbers.eps) + T(1);
    V c = get(row + i);
    if (formula == Formula::ratio) {
        c = ratio<V>(c, get(o.image + at + i), numbers.background, numbers.eps);
        if (o.weights) c = c * get(o.weights + at + i);
    } else if (formula == Formula::multiply) {
        c = multiply<V>(c, get(o.estimate + at + i), o.gain ? get(o.gain + at + i) : one);
    } else if (formula == Formula::residual) {
        c = residual<V>(c, get(o.image + at + i), numbers.background);
        if (o.weights) c = c * get(o.weights + at + i);
    } else if (formula == Formula::add) {
        c = add<V>(c, get(o.estimate + at + i), o.gain ? get(o.gain + at + i) : one, numbers.step, o.positive);
    }
    V next = c;
    if (o.previous) next = extrapolate<V>(c, get(o.previous + at + i), numbers.alpha);
    if (o.out) put(o.out + at + i, c);
    if (o.extrapolated) put(o.extrapolated + at + i, next);
    if (formula != Formula::copy || o.previous) put(row + i, next);
}
template <Formula formula, class T>
void formula_row(const Operands<T>& o, T* row, int64_t at, int64_t n) {
    constexpr int L = lanes<T>;
    const Numbers<T> number{o.background, o.eps, o.step, o.alpha};
    const Numbers<Vec<T>> vector{splat<T>(o.background), splat<T>(o.eps), splat<T>(o.step), splat<T>(o.alpha)};
    int64_t i = 0;
    for (; i + L <= n; i += L)
        formula_step<Vec<T>>(formula, o, row, at, i, vector,
                             [](const T* q) MEDECONV_BODY { return load_unaligned(q); },
                             [](T* q, Vec<T> v) MEDECONV_BODY { store_unaligned(q, v); });
    for (; i < n; ++i)
        formula_step<T>(formula, o, row, at, i, number,
                        [](const T* q) MEDECONV_BODY { return *q; }, [](T* q, T v) MEDECONV_BODY { *q = v; });
}
template <class T>
void apply_formula(Formula formula, const Operands<T>& o, T* row, int64_t at, int64_t n) {
    switch (formula) {
    case Formula::copy: return formula_row<Formula::copy>(o, row, at, n);
    case Formula::ratio: return formula_row<Formula::ratio>(o, row, at, n);
    case Formula::multiply: return formula_row<Formula::multiply>(o, row, at, n);
    case Formula::residual: return formula_row<Formula::residual>(o, row, at, n);
    case Formula::add: return formula_row<Formula::add>(o, row, at, n);
    }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
