// One thread a voxel. Neighbours are read again by several threads and come from the caches.
#include "penalty.hpp"

#include "gpu.hpp"

namespace medeconv::cuda {
namespace {

constexpr int threads = 256;
constexpr double smallest_gradient = 1e-5;  // of the level: below it a gradient has no direction
constexpr double smallest_divisor_of_a_correction = 0.1;

template <class T>
struct Volume {
    const T* x;
    int64_t depth, height, width;
    T inverse[3];  // of the voxel size along z, y, x, relative to the smallest one's; 0: the axis has length 1
    T weight, level;

    // Beyond the array lies its edge.
    __device__ __forceinline__ T at(int64_t z, int64_t y, int64_t x_) const {
        z = z < 0 ? 0 : z >= depth ? depth - 1 : z;
        y = y < 0 ? 0 : y >= height ? height - 1 : y;
        x_ = x_ < 0 ? 0 : x_ >= width ? width - 1 : x_;
        return x[(z * height + y) * width + x_];
    }
};

// The gradient's direction at a voxel, by differences to the next ones, along one axis.
template <int axis, class T>
__device__ __forceinline__ T direction(const Volume<T>& v, int64_t z, int64_t y, int64_t x) {
    if (z < 0 || y < 0 || x < 0) return 0;
    const T here = v.at(z, y, x), tiny = T(smallest_gradient) * v.level;
    const T step[3] = {(v.at(z + 1, y, x) - here) * v.inverse[0], (v.at(z, y + 1, x) - here) * v.inverse[1],
                       (v.at(z, y, x + 1) - here) * v.inverse[2]};
    return step[axis] / sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2] + tiny * tiny);
}

template <Penalty kind, class T>
__device__ __forceinline__ T slope(const Volume<T>& v, int64_t z, int64_t y, int64_t x) {
    if constexpr (kind == Penalty::tv) {
        const T dz = direction<0>(v, z, y, x) - direction<0>(v, z - 1, y, x);
        const T dy = direction<1>(v, z, y, x) - direction<1>(v, z, y - 1, x);
        const T dx = direction<2>(v, z, y, x) - direction<2>(v, z, y, x - 1);
        return -(dz * v.inverse[0] + dy * v.inverse[1] + dx * v.inverse[2]);
    } else if constexpr (kind == Penalty::entropy) {
        return scalar::logarithm<T>(scalar::larger_of<T>(v.at(z, y, x) * (T(1) / v.level), T(1e-6)));
    } else {
        constexpr bool of_root = kind == Penalty::good_roughness;
        auto value = [&](int64_t zz, int64_t yy, int64_t xx) {
            const T found = v.at(zz, yy, xx);
            return of_root ? T(sqrt(scalar::larger_of<T>(found, v.level * T(1e-6)))) : found;
        };
        const T here = value(z, y, x);
        const T sum = (value(z - 1, y, x) + value(z + 1, y, x) - here * T(2)) * (v.inverse[0] * v.inverse[0]) +
                      (value(z, y - 1, x) + value(z, y + 1, x) - here * T(2)) * (v.inverse[1] * v.inverse[1]) +
                      (value(z, y, x - 1) + value(z, y, x + 1) - here * T(2)) * (v.inverse[2] * v.inverse[2]);
        return of_root ? sum * T(-4) / here : sum * (T(-2) / v.level);
    }
}

template <Penalty kind, class T>
__global__ void __launch_bounds__(threads) factors(Volume<T> v, T* out, int64_t pieces) {
    const int64_t row = blockIdx.x / pieces, x = blockIdx.x % pieces * threads + threadIdx.x;
    if (x >= v.width) return;
    const T divisor = T(1) + slope<kind>(v, row / v.height, row % v.height, x) * v.weight;
    out[row * v.width + x] = T(1) / scalar::larger_of<T>(divisor, T(smallest_divisor_of_a_correction));
}

}  // namespace

template <class T>
void penalty(Penalty kind, const T* x, Shape shape, const std::array<double, 3>& spacing, double weight, double level, T* out,
             Stream stream) {
    Volume<T> volume{x, shape[0], shape[1], shape[2], {}, T(weight), T(level)};
    double smallest = 0;
    for (size_t a = 0; a < 3; ++a) {
        if (!(spacing[a] > 0)) throw std::invalid_argument("spacing: must be positive");
        if (shape[a] > 1 && (smallest == 0 || spacing[a] < smallest)) smallest = spacing[a];
    }
    for (size_t a = 0; a < 3; ++a) volume.inverse[a] = shape[a] > 1 ? T(smallest / spacing[a]) : T(0);
    const int64_t pieces = ceil_div(shape[2], threads);
    auto run = [&](auto kernel) { launch(kernel, blocks(shape[0] * shape[1] * pieces), dim3(threads), 0, stream, volume, out, pieces); };
    switch (kind) {
    case Penalty::tv: return run(factors<Penalty::tv, T>);
    case Penalty::tikhonov: return run(factors<Penalty::tikhonov, T>);
    case Penalty::good_roughness: return run(factors<Penalty::good_roughness, T>);
    case Penalty::entropy: return run(factors<Penalty::entropy, T>);
    }
}

template void penalty<float>(Penalty, const float*, Shape, const std::array<double, 3>&, double, double, float*, Stream);
template void penalty<double>(Penalty, const double*, Shape, const std::array<double, 3>&, double, double, double*, Stream);

}  // namespace medeconv::cuda
