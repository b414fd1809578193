// Kernels outside the sweeps; contracts as in cpp/elementwise.hpp. Pointers are the device's.
#pragma once
#include <array>

#include "operands.hpp"
#include "runtime.hpp"
#include "shared/boundary.hpp"

namespace medeconv::cuda {

using Shape = std::array<int64_t, 3>;  // (z, y, x)

template <class T>
void pad(const T* x, Shape shape, Shape low, Shape high, Boundary boundary, T* out, Stream stream);
template <class T>
void fold(const T* y, Shape shape, Shape low, Shape high, Boundary boundary, T* out, Stream stream);
// operands.sums: sums_size(formula_blocks(n)) doubles (sums.hpp).
template <class T>
void apply_formula(Formula formula, const T* blurred, Operands<T> operands, int64_t n, Stream stream);
int64_t formula_blocks(int64_t n);

}  // namespace medeconv::cuda
