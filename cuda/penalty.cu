// Total variation: a block goes along z, with one thread for each voxel of a tile of a slice and one for each on the tile's upper
// and left edge, whose directions the tile needs: each direction, a root and a division, is taken once. Other penalties: one thread
// a voxel, whose neighbours come from the caches.
#include "penalty.hpp"

#include <algorithm>

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

template <Penalty kind, class T>
__device__ __forceinline__ T slope(const Volume<T>& v, int64_t z, int64_t y, int64_t x) {
    if constexpr (kind == Penalty::entropy) {
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

template <class T>
__device__ __forceinline__ T factor_of(T slope, T weight) {
    return T(1) / scalar::larger_of<T>(T(1) + slope * weight, T(smallest_divisor_of_a_correction));
}

constexpr int tile_x = 32, tile_y = 8, most_slices = 64;
// Warps: one for each row of the tile, one for the row above it, one for the column left of it.
template <class T>
__global__ void __launch_bounds__(tile_x * (tile_y + 2)) tv_factors(Volume<T> v, T* out, int slices, unsigned across,
                                                                              unsigned down) {
    DYN_SHARED(T, shared);
    constexpr int pitch = tile_x + 1, of_y = tile_y * pitch, all = of_y + (tile_y + 1) * tile_x;
    const int lane = threadIdx.x, warp = threadIdx.y;
    const bool own = warp < tile_y, above = warp == tile_y, left = warp == tile_y + 1;
    const unsigned row = blockIdx.x / across, part = row / down;
    const int64_t x0 = int64_t(blockIdx.x - row * across) * tile_x, y0 = int64_t(row - part * down) * tile_y;
    const int64_t z0 = int64_t(part) * slices, z1 = min(z0 + slices, v.depth);
    const int64_t x = left ? x0 - 1 : x0 + lane, y = left ? y0 + lane : above ? y0 - 1 : y0 + warp;
    // Before the array no gradient points anywhere; behind it nothing is asked for.
    const bool there = x >= 0 && y >= 0 && x < v.width && y < v.height && (!left || lane < tile_y);
    const T tiny = T(smallest_gradient) * v.level, least = tiny * tiny;
    const int64_t right = x + 1 < v.width ? 1 : 0, below = y + 1 < v.height ? v.width : 0, slice = v.height * v.width;
    const T* from = v.x + y * v.width + x;
    T* const to = out + y * v.width + x;
    T before = 0, here = 0;
    int64_t z = max(z0 - 1, int64_t(0));   // a slice earlier, for its directions along z
    if (there) here = from[z * slice];
    for (; z < z1; ++z) {
        T dz = 0, dy = 0, dx = 0, next = 0;
        if (there) {
            const T* const at = from + z * slice;
            next = z + 1 < v.depth ? at[slice] : here;
            dz = (next - here) * v.inverse[0], dy = (at[below] - here) * v.inverse[1], dx = (at[right] - here) * v.inverse[2];
            const T scale = T(1) / sqrt(dz * dz + dy * dy + dx * dx + least);
            dz *= scale, dy *= scale, dx *= scale;
        }
        if (z >= z0) {
            T* const turn = shared + int(z & 1) * all;   // two of each: one barrier a slice
            if (left) {
                if (lane < tile_y) turn[lane * pitch] = dx;
            } else {
                if (own) turn[warp * pitch + 1 + lane] = dx;
                turn[of_y + (above ? 0 : warp + 1) * tile_x + lane] = dy;
            }
            __syncthreads();
            if (own && there) {
                const T from_left = turn[warp * pitch + lane], from_above = turn[of_y + warp * tile_x + lane];
                const T slope = -((dz - before) * v.inverse[0] + (dy - from_above) * v.inverse[1] + (dx - from_left) * v.inverse[2]);
                to[z * slice] = factor_of(slope, v.weight);
            }
        }
        before = dz, here = next;
    }
}

template <Penalty kind, class T>
__global__ void __launch_bounds__(threads) factors(Volume<T> v, T* out, int64_t pieces) {
    const int64_t row = blockIdx.x / pieces, x = blockIdx.x % pieces * threads + threadIdx.x;
    if (x >= v.width) return;
    out[row * v.width + x] = factor_of(slope<kind>(v, row / v.height, row % v.height, x), v.weight);
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
    case Penalty::tv: {
        const int slices = int(std::min<int64_t>(most_slices, shape[0]));
        const int64_t across = ceil_div(shape[2], tile_x), down = ceil_div(shape[1], tile_y);
        const size_t shared = 2 * size_t(tile_y * (tile_x + 1) + (tile_y + 1) * tile_x) * sizeof(T);
        return launch(tv_factors<T>, blocks(across * down * ceil_div(shape[0], slices)), dim3(tile_x, tile_y + 2), shared, stream, volume,
                      out, slices, unsigned(across), unsigned(down));
    }
    case Penalty::tikhonov: return run(factors<Penalty::tikhonov, T>);
    case Penalty::good_roughness: return run(factors<Penalty::good_roughness, T>);
    case Penalty::entropy: return run(factors<Penalty::entropy, T>);
    }
}

template void penalty<float>(Penalty, const float*, Shape, const std::array<double, 3>&, double, double, float*, Stream);
template void penalty<double>(Penalty, const double*, Shape, const std::array<double, 3>&, double, double, double*, Stream);

}  // namespace medeconv::cuda
