// The separable engine: one filter per axis. x and y in one pass, z and the formula in another; where z has a single tap, the
// first pass is all. Pointers are the device's.
#pragma once
#include "direct.hpp"

namespace medeconv::cuda {

template <class T>
struct SeparablePass {
    AxisTaps z, y, x;
    bool periodic;
    const T *weight_z, *weight_y, *weight_x;
    const T* input;          // must not overlap anything written
    T* kept;                 // destination-shaped, what the next sweep gets; null: not kept
    Formula formula;
    Operands<T> operands;    // sums: sums_size(separable_blocks) doubles (sums.hpp)
};

// workspace: separable_workspace(pass) values.
template <class T>
void separable(const SeparablePass<T>& pass, T* workspace, Stream stream);
int64_t separable_blocks(AxisTaps z, AxisTaps y, AxisTaps x);
int64_t separable_workspace(AxisTaps z, AxisTaps y, AxisTaps x);

}  // namespace medeconv::cuda
