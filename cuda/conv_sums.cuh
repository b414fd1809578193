// What is left of a convolution's gradients: the fold of a padding that repeats values, and the sum over each channel.
#pragma once
#include "conv_stage.cuh"

namespace medeconv::cuda {

// Each position of the padded axis whose value is a repetition of `i`'s, `i` itself first.
template <class F>
__device__ __forceinline__ void for_repetitions(int i, int length, int low, int high, Boundary boundary, F f) {
    const int padded = low + length + high;
    if (boundary == Boundary::nearest || length == 1) {
        f(low + i);
        if (i == 0)
            for (int r = 0; r < low; ++r) f(r);
        if (i == length - 1)
            for (int r = low + length; r < padded; ++r) f(r);
        return;
    }
    const int period = boundary == Boundary::wrap ? length : 2 * length - 2;
    for (int r = low + i; r < padded; r += period) f(r);
    for (int r = low + i - period; r >= 0; r -= period) f(r);
    if (boundary == Boundary::wrap || i == 0 || i == length - 1) return;
    for (int r = low - i; r >= 0; r -= period) f(r);
    for (int r = low - i + period; r < padded; r += period) f(r);
}

struct ConvFold {
    int length[3], low[3], high[3];
    Boundary boundary;
    int channels;
    int64_t count;      // of results, all channels
};

template <class T>
__global__ void __launch_bounds__(256) conv_fold(const T* from, const T* bias, T* to, ConvFold p, bool relu) {
    const int64_t at = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (at >= p.count) return;
    const int64_t line = at / p.length[2], slice = line / p.length[1], channel = slice / p.length[0];
    const int x = int(at - line * p.length[2]), y = int(line - slice * p.length[1]), z = int(slice - channel * p.length[0]);
    int64_t padded[3];
    for (int a = 0; a < 3; ++a) padded[a] = p.low[a] + p.length[a] + p.high[a];
    const T* const own = from + channel * padded[0] * padded[1] * padded[2];
    T sum = 0;
    for_repetitions(z, p.length[0], p.low[0], p.high[0], p.boundary, [&](int rz) {
        for_repetitions(y, p.length[1], p.low[1], p.high[1], p.boundary, [&](int ry) {
            const T* const row = own + (rz * padded[1] + ry) * padded[2];
            for_repetitions(x, p.length[2], p.low[2], p.high[2], p.boundary, [&](int rx) { sum += row[rx]; });
        });
    });
    to[at] = finished(sum, bias ? bias[channel % p.channels] : T(0), relu);
}

constexpr int64_t sum_chunk = 4096;   // elements of a channel that a block adds at a time

// Chunks of all images of a channel are dealt out to `parts` blocks: partial [channels][parts].
template <class T>
__global__ void __launch_bounds__(256) sum_chunks(const T* x, int64_t batch, int64_t channels, int64_t size, int parts, double* partial) {
    DYN_SHARED(double, shared);
    const int64_t channel = blockIdx.x / parts, chunks = (size + sum_chunk - 1) / sum_chunk;
    double sum = 0;
    for (int64_t item = blockIdx.x % parts; item < batch * chunks; item += parts) {
        const int64_t image = item / chunks, start = (item - image * chunks) * sum_chunk;
        const T* const from = x + (image * channels + channel) * size;
        const int64_t stop = min(start + sum_chunk, size);
        for (int64_t i = start + threadIdx.x; i < stop; i += 256) sum += double(from[i]);
    }
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(~0u, sum, by);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < 8; ++warp) sum += shared[warp];
    partial[blockIdx.x] = sum;
}

// One warp per channel.
template <class T>
__global__ void __launch_bounds__(32) sum_parts(const double* partial, int parts, T* out) {
    double sum = 0;
    for (int part = int(threadIdx.x); part < parts; part += 32) sum += partial[int64_t(blockIdx.x) * parts + part];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(~0u, sum, by);
    if (threadIdx.x == 0) out[blockIdx.x] = T(sum);
}

}  // namespace medeconv::cuda
