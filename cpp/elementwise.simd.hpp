// The formulas on whole arrays, built once per ISA. Contract: elementwise.hpp.
#pragma once
#include "elementwise.hpp"
#include "formulas.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
void formula_run(Formula formula, const Operands<T>& operands, const T* blurred, int64_t start, int64_t stop, int64_t slot) {
    constexpr int64_t block = 1 << 10;  // stays in L1; also of sums in T, before they are added in double
    alignas(64) T row[block];           // the caller's values are not to be replaced by what a next sweep would get
    for (int64_t first = start; first < stop; first += block) {
        const int64_t n = stop - first < block ? stop - first : block;
        std::memcpy(row, blurred + first, size_t(n) * sizeof(T));
        apply_formula<T>(formula, operands, row, first, n, slot);
    }
}

template <class T>
constexpr ElementwiseKernels<T> elementwise_table = {formula_run<T>};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
