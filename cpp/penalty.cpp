#include "penalty.hpp"

#include <algorithm>
#include <stdexcept>

#include "memory.hpp"
#include "threads.hpp"

namespace medeconv {
namespace {

// Each range computes part of the slice or row before it again.
constexpr int64_t slices_per_unit = 4, values_per_unit = 1 << 15;

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
    // An image is cut into rows, a volume into slices.
    const bool flat = shape[0] == 1;
    const int64_t length = flat ? shape[1] : shape[0], thick = flat ? std::max<int64_t>(4, values_per_unit / shape[2]) : slices_per_unit;
    const int64_t size = (kernels.scratch(pass) + 63) / 64 * 64, units = (length + thick - 1) / thick;
    const Buffer<T> scratch = acquire<T>(size * threads);
    parallel_for(units, threads, [&](int64_t unit, int worker) {
        const Range part{unit * thick, std::min(length, (unit + 1) * thick)};
        kernels.rows(pass, flat ? Range{0, 1} : part, flat ? part : Range{0, shape[1]}, scratch.get() + worker * size);
    });
}

template void penalty<float>(Penalty, const float*, const std::array<int64_t, 3>&, const std::array<double, 3>&, double, double, float*, int);
template void penalty<double>(Penalty, const double*, const std::array<int64_t, 3>&, const std::array<double, 3>&, double, double, double*, int);

}  // namespace medeconv
