// A regularizer's factor for each voxel; contract as in cpp/penalty.hpp. Pointers are the device's.
#pragma once
#include <array>

#include "elementwise.hpp"

namespace medeconv::cuda {

// The order is cpp/penalty.hpp's.
enum class Penalty : int { tv = 0, tikhonov = 1, good_roughness = 2, entropy = 3 };

template <class T>
void penalty(Penalty kind, const T* x, Shape shape, const std::array<double, 3>& spacing, double weight, double level, T* out,
             Stream stream);

}  // namespace medeconv::cuda
