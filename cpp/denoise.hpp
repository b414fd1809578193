// Total-variation denoising by its dual problem (A. Beck and M. Teboulle, IEEE Trans. Image Process. 18, 2419 (2009)): the minimiser
// of 1/2 |x - z|² + weight · sum |grad x|, not below `lowest`, is x(p) = max(z + weight · div p, lowest), with p one vector a voxel,
// none longer than 1, that ascends along grad x(p).
//   denoised       x(p)
//   denoise_step   p <- project(q + step · grad x(q)), q <- p + momentum · (p - p before), with q the point ahead of p
// Differences go to the next voxel and are 0 at the end of an axis; so are the components of p and q there, which must begin so.
#pragma once
#include <array>
#include <cstdint>

#include "operands.hpp"

namespace medeconv {

template <class T>
struct DenoisePass {
    int64_t depth, height, width;
    const T* z;
    std::array<T*, 3> ahead, dual;      // components along z, y, x; null: the axis has length 1
    std::array<T, 3> weight, step;      // times what differences along the axis are multiplied by
    T momentum, lowest;
};

template <class T>
struct DenoiseKernels {
    void (*values)(const DenoisePass<T>&, int64_t slice, T* x);                       // x(ahead) of the slice
    void (*ascend)(const DenoisePass<T>&, int64_t slice, const T* x, const T* next);  // x of the slice and of the one behind, or null
};

// By the axes that are longer than 1: bits 1, 2 and 4 for z, y and x.
template <class T>
const DenoiseKernels<T>* denoise_kernels();                                     // of the active ISA (dispatch.cpp)

// x of pass.ahead; pass.dual is not looked at.
template <class T>
void denoised(DenoisePass<T> pass, T* x, int threads);
template <class T>
void denoise_step(DenoisePass<T> pass, int threads);

}  // namespace medeconv
