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

// What arrays in GPU memory need of NumPy's arithmetic (medeconv_fast._device): out = a op b, comparisons as 1 or 0. A null
// pointer stands for the number beside it; out may be a or b. The last two take a alone.
enum class Pointwise : int { add, subtract, multiply, divide, maximum, minimum, less, less_equal, greater, greater_equal, square_root, copy };
template <class T>
void pointwise(Pointwise op, const T* a, T a_number, const T* b, T b_number, T* out, int64_t n, Stream stream);
// The sum of a (with b of a·b), the smallest and the largest value of a, NaN where one is: three doubles, before slots of their
// own, sums_size(formula_blocks(n)) in all (sums.hpp). The same on every device, and wherever a and b begin.
template <class T>
void statistics(const T* a, const T* b, int64_t n, double* results, Stream stream);
// out = x[start : start + length] on every axis.
template <class T>
void crop(const T* x, Shape shape, Shape start, Shape length, T* out, Stream stream);
template <class From, class To>
void convert(const From* x, To* out, int64_t n, Stream stream);

}  // namespace medeconv::cuda
