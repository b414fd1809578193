// Total-variation denoising by its dual problem; contract as in cpp/denoise.hpp. Pointers are the device's.
#pragma once
#include <array>

#include "elementwise.hpp"

namespace medeconv::cuda {

template <class T>
struct DenoisePass {
    int64_t depth, height, width;
    const T* z;
    T *ahead[3], *dual[3];      // components along z, y, x; null: the axis has length 1
    T weight[3], step[3];       // times what differences along the axis are multiplied by
    T momentum, lowest;
};

// x of pass.ahead; pass.dual is not looked at.
template <class T>
void denoised(const DenoisePass<T>& pass, T* x, Stream stream);
// x: room for as many values as z has.
template <class T>
void denoise_step(const DenoisePass<T>& pass, T* x, Stream stream);

}  // namespace medeconv::cuda
