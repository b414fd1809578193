// Kernels outside the fused passes: padding by a boundary rule, its exact transpose, and the unfused formulas.
#pragma once
#include <array>

#include "shared/boundary.hpp"
#include "spectral_plan.hpp"

namespace medeconv {

// out[i] = x[source(i - low)] per axis; out has shape `shape` + low + high.
template <class T>
void pad(const T* x, Shape shape, Shape low, Shape high, Boundary boundary, T* out, int threads);
// The transpose: out[source(i - low)] += y[i]; out has shape `shape`, y the padded one. Fixed order of summation.
template <class T>
void fold(const T* y, Shape shape, Shape low, Shape high, Boundary boundary, T* out, int threads);
// The formulas of a sweep on whole arrays of n values; `blurred` is c, the result goes to operands.out.
template <class T>
void apply_formula(Formula formula, const T* blurred, Operands<T> operands, int64_t n, int threads);

}  // namespace medeconv
