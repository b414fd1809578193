// One thread a voxel; neighbours come from the caches. A step takes two kernels: all values are made before any vector moves.
#include "denoise.hpp"

#include "gpu.hpp"

namespace medeconv::cuda {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void __launch_bounds__(threads) values(DenoisePass<T> p, T* out, int64_t pieces) {
    const int64_t row = blockIdx.x / pieces, x = blockIdx.x % pieces * threads + threadIdx.x;
    if (x >= p.width) return;
    const int64_t at = row * p.width + x;
    T v = p.z[at];
    if (p.ahead[0]) {
        T flow = p.ahead[0][at];
        if (row >= p.height) flow -= p.ahead[0][at - p.height * p.width];
        v += flow * p.weight[0];
    }
    if (p.ahead[1]) {
        T flow = p.ahead[1][at];
        if (row % p.height > 0) flow -= p.ahead[1][at - p.width];
        v += flow * p.weight[1];
    }
    if (p.ahead[2]) {
        T flow = p.ahead[2][at];
        if (x > 0) flow -= p.ahead[2][at - 1];
        v += flow * p.weight[2];
    }
    out[at] = scalar::larger_of<T>(v, p.lowest);
}

template <class T>
__global__ void __launch_bounds__(threads) ascend(DenoisePass<T> p, const T* from, int64_t pieces) {
    const int64_t row = blockIdx.x / pieces, x = blockIdx.x % pieces * threads + threadIdx.x;
    if (x >= p.width) return;
    const int64_t at = row * p.width + x, plane = p.height * p.width;
    const T here = from[at];
    const T after[3] = {row / p.height + 1 < p.depth ? from[at + plane] : here, row % p.height + 1 < p.height ? from[at + p.width] : here,
                        x + 1 < p.width ? from[at + 1] : here};
    T moved[3] = {0, 0, 0}, square = 0;
#pragma unroll
    for (int a = 0; a < 3; ++a)
        if (p.ahead[a]) {
            moved[a] = p.ahead[a][at] + (after[a] - here) * p.step[a];
            square += moved[a] * moved[a];
        }
    const T shorter = T(1) / scalar::larger_of<T>(sqrt(square), T(1));
#pragma unroll
    for (int a = 0; a < 3; ++a)
        if (p.ahead[a]) {
            const T now = moved[a] * shorter, before = p.dual[a][at];
            p.dual[a][at] = now;
            p.ahead[a][at] = now + (now - before) * p.momentum;
        }
}

}  // namespace

template <class T>
void denoised(const DenoisePass<T>& pass, T* x, Stream stream) {
    const int64_t pieces = ceil_div(pass.width, threads);
    launch(values<T>, blocks(pass.depth * pass.height * pieces), dim3(threads), 0, stream, pass, x, pieces);
}

template <class T>
void denoise_step(const DenoisePass<T>& pass, T* x, Stream stream) {
    denoised(pass, x, stream);
    const int64_t pieces = ceil_div(pass.width, threads);
    launch(ascend<T>, blocks(pass.depth * pass.height * pieces), dim3(threads), 0, stream, pass, static_cast<const T*>(x), pieces);
}

template void denoised(const DenoisePass<float>&, float*, Stream);
template void denoised(const DenoisePass<double>&, double*, Stream);
template void denoise_step(const DenoisePass<float>&, float*, Stream);
template void denoise_step(const DenoisePass<double>&, double*, Stream);

}  // namespace medeconv::cuda
