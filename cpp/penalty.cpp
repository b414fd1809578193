#include "penalty.hpp"

#include <algorithm>
#include <stdexcept>

#include "memory.hpp"
#include "threads.hpp"

namespace medeconv {
namespace {

constexpr int64_t slices_per_unit = 4;  // each range computes part of the slice before it again

}  // namespace

template <class T>
void penalty(Penalty kind, const T* x, const std::array<int64_t, 3>& shape, const std::array<double, 3>& spacing, double weight,
             double level, T* out, int threads) {
    PenaltyPass<T> pass{kind, shape[0], shape[1], shape[2], {}, T(weight), T(level), x, out};
    double smallest = 0;
    for (size_t a = 0; a < 3; ++a)
        if (shape[a] > 1 && (smallest == 0 || spacing[a] < smallest)) smallest = spacing[a];
    for (size_t a = 0; a < 3; ++a) {
        if (!(spacing[a] > 0)) throw std::invalid_argument("spacing: must be positive");
        pass.inverse[a] = shape[a] > 1 ? T(smallest / spacing[a]) : T(0);
    }
    const PenaltyKernels<T>& kernels = penalty_kernels<T>();
    const int64_t size = (kernels.scratch(pass) + 63) / 64 * 64, units = (shape[0] + slices_per_unit - 1) / slices_per_unit;
    const Buffer<T> scratch = acquire<T>(size * threads);
    parallel_for(units, threads, [&](int64_t unit, int worker) {
        kernels.slices(pass, {unit * slices_per_unit, std::min(shape[0], (unit + 1) * slices_per_unit)}, scratch.get() + worker * size);
    });
}

template void penalty<float>(Penalty, const float*, const std::array<int64_t, 3>&, const std::array<double, 3>&, double, double, float*, int);
template void penalty<double>(Penalty, const double*, const std::array<int64_t, 3>&, const std::array<double, 3>&, double, double, double*, int);

}  // namespace medeconv
