// Kernels outside the fused passes: padding by a boundary rule, its exact transpose, and the unfused formulas.
#pragma once
#include <array>
#include <cstdint>

#include "operands.hpp"
#include "shared/boundary.hpp"

namespace medeconv {

template <class T>
struct ElementwiseKernels {
    // The formula on values [start, stop), their sums added to a slot, counted in slots.
    void (*formula)(Formula, const Operands<T>&, const T* blurred, int64_t start, int64_t stop, int64_t slot);
};
template <class T>
const ElementwiseKernels<T>& elementwise_kernels();   // of the active ISA (dispatch.cpp)

// out[i] = x[source(i - low)] per axis; out has shape `shape` + low + high.
template <class T>
void pad(const T* x, std::array<int64_t, 3> shape, std::array<int64_t, 3> low, std::array<int64_t, 3> high, Boundary boundary, T* out,
         int threads);
// The transpose: out[source(i - low)] += y[i]; out has shape `shape`, y the padded one. Fixed order of summation.
template <class T>
void fold(const T* y, std::array<int64_t, 3> shape, std::array<int64_t, 3> low, std::array<int64_t, 3> high, Boundary boundary, T* out,
          int threads);
// The formulas of a sweep on whole arrays of n values; `blurred` is c, the result goes to operands.out.
template <class T>
void apply_formula(Formula formula, const T* blurred, Operands<T> operands, int64_t n, int threads);

}  // namespace medeconv
