// What a regularizer multiplies a Richardson-Lucy correction by: 1 / max(1 + weight · dU/dx, 0.1), one pass over the estimate.
// U is the penalty that the iteration descends (one step late, Green 1990); gradients are in units of the smallest voxel.
//   tv              sum |grad x|                 (Dey et al. 2006)    dU/dx = -div(grad x / |grad x|)
//   tikhonov        sum |grad x|² / level        (Dey et al. 2004)    dU/dx = -2 laplacian(x) / level
//   good_roughness  sum |grad x|² / x            (Good and Gaskins 1971; Verveer and Jovin 1997)
//                                                                     dU/dx = -4 laplacian(sqrt x) / sqrt x
//   entropy         sum x log(x / level) - x     (Frieden 1972)       dU/dx = log(x / level)
// Beyond the array lies its edge, repeated. `level` is the estimate's scale: results do not depend on the image's unit.
#pragma once
#include <array>
#include <cstdint>

#include "operands.hpp"

namespace medeconv {

// The order is part of the binding: bindings.cpp maps names to these values.
enum class Penalty : int { tv = 0, tikhonov = 1, good_roughness = 2, entropy = 3 };

template <class T>
struct PenaltyPass {
    Penalty penalty;
    int64_t depth, height, width;
    T inverse[3];            // of the voxel size along z, y, x, relative to the smallest one's; 0: the axis has length 1
    T weight, level;
    const T* x;
    T* out;
};

template <class T>
struct PenaltyKernels {
    int64_t (*scratch)(const PenaltyPass<T>&);                        // T elements per worker
    void (*rows)(const PenaltyPass<T>&, Range z, Range y, T* scratch);  // any ranges: rows do not depend on each other
};

template <class T>
const PenaltyKernels<T>& penalty_kernels();                           // of the active ISA (dispatch.cpp)

// x, out: (z, y, x) arrays of `shape`, which must not overlap.
template <class T>
void penalty(Penalty kind, const T* x, const std::array<int64_t, 3>& shape, const std::array<double, 3>& spacing, double weight,
             double level, T* out, int threads);

}  // namespace medeconv
