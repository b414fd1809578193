// The separable engine: a PSF that is a product of one filter per axis, applied as three 1-D filters without an FFT.
//
// A sweep reads the source once and writes the result once. Per band of rows (a unit): for each source slice, the y
// filter (a few rows at once, in registers) fills row buffers in L1, the x filter takes them into a ring of filtered
// slices in L2; as soon as the ring has what a few output slices need, the z filter and the formula finish those.
#pragma once
#include <cstdint>

#include "operands.hpp"

namespace medeconv {

// One axis: destination i takes source positions i + base + m, m in [0, taps), times weight[m]; a position outside
// [0, source) is zero, or taken modulo `source` when periodic.
template <class T>
struct AxisFilter {
    int64_t source, destination, base, taps;
    const T* weight;
};

template <class T>
struct SeparablePass {
    AxisFilter<T> z, y, x;
    bool periodic;
    const T* input;
    T* kept;                 // destination-shaped, the result's place for the next sweep; null: not kept
    Formula formula;
    Operands<T> operands;
    int64_t band;            // rows per unit
};

template <class T>
struct SeparableKernels {
    int64_t (*scratch)(const SeparablePass<T>&);               // T elements per worker
    void (*band)(const SeparablePass<T>&, int64_t unit, T* scratch);
};

template <class T>
const SeparableKernels<T>& separable_kernels();                // of the active ISA (dispatch.cpp)

}  // namespace medeconv
