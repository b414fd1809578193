// The separable engine: a PSF that is a product of one filter per axis, applied as three 1-D filters without an FFT.
//
// A sweep reads the source once and writes the result once. Per band of rows (a unit): each source slice goes through the
// y and x filters into a ring of filtered slices in L2; as soon as the ring has what a few output slices need, the z filter
// and the formula finish those.
//
// All three filters are one kernel that works across lines. For x, as many rows as a vector has lanes are transposed on the
// way (the y filter's results, a square of lanes × lanes at a time, in registers): a column is then a line, at any tap count
// without a shifted load. Taps that read the same in both directions are added in pairs before they are multiplied.
#pragma once
#include <cstdint>

#include "operands.hpp"
#include "shared/boundary.hpp"

namespace medeconv {

// One axis: destination i takes source positions i + base + m, m in [0, taps), times weight[m]; a position outside
// [0, source) is what the boundary says.
template <class T>
struct AxisFilter {
    int64_t source, destination, base, taps;
    const T* weight;
    bool symmetric;          // weight[m] == weight[taps - 1 - m]
};

template <class T>
struct SeparablePass {
    AxisFilter<T> z, y, x;
    Boundary boundary;
    const T* input;
    T* kept;                 // destination-shaped, the result's place for the next sweep; null: not kept
    Formula formula;
    Operands<T> operands;
    int64_t band;            // rows per unit, a multiple of rows_at_once
};

template <class T>
struct SeparableKernels {
    int rows_at_once;                                          // rows that go through the x filter together
    int slices_at_once;                                        // slices that the z filter finishes together
    int64_t (*scratch)(const SeparablePass<T>&);               // T elements per worker
    void (*band)(const SeparablePass<T>&, int64_t unit, T* scratch);
};

template <class T>
const SeparableKernels<T>& separable_kernels();                // of the active ISA (dispatch.cpp)

}  // namespace medeconv
