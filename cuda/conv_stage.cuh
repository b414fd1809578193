// How a band comes into shared memory.
#pragma once
#include "conv.hpp"
#include "stage.cuh"

namespace medeconv::cuda {

__device__ __forceinline__ int thread_of_block() { return int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)); }
__device__ __forceinline__ int threads_of_block() { return int(blockDim.x * blockDim.y * blockDim.z); }

// The bands of `channels` channels, `channel` elements apart, for one source slice; `from`: its first channel's, or null: zeros.
template <class T>
__device__ __forceinline__ void copy_bands(T* to, int channel, int pitch, const T* from, int64_t source_size, int channels,
                                           const ConvOutside& outside, const ConvAxis& y, const ConvBand& of_y, int first_y,
                                           const ConvAxis& x, const ConvBand& of_x, int first_x) {
    const int threads = threads_of_block(), columns = of_x.length, rows = of_y.length, all = of_y.parts * of_x.parts * rows;
    int row = thread_of_block() / columns, column = thread_of_block() % columns;
    const int down = threads / columns, right = threads % columns;
    while (row < all) {
        const int part = all == rows ? 0 : row / rows, part_y = part / of_x.parts, part_x = part - part_y * of_x.parts;
        const int64_t at_y = int64_t(row - part * rows) * y.step + part_y * of_y.part_step + first_y;
        const int64_t at_x = int64_t(column) * x.step + part_x * of_x.part_step + first_x;
        const int iy = outside.source(at_y, y.source), ix = outside.source(at_x, x.source);
        T* t = to + row * pitch + column;
        if (from && iy >= 0 && ix >= 0) {
            const T* f = from + int64_t(iy) * x.source + ix;
            for (int c = 0; c < channels; ++c, t += channel, f += source_size) copy_async(t, f);
        } else {
            for (int c = 0; c < channels; ++c, t += channel) *t = T(0);
        }
        row += down, column += right;
        if (column >= columns) column -= columns, ++row;
    }
}

// Which tile of a pass a block makes. Blocks that read the same band are neighbours.
struct ConvPlace {
    int tiles, image, group;
    int at[3];        // first position, z, y, x
    int phase[3];     // of the axes whose phases are not merged
};
template <class T>
__device__ __forceinline__ ConvPlace place_of_block(const ConvPass<T>& p) {
    ConvPlace place;
    unsigned rest = blockIdx.x;
    auto next = [&rest](int count) {
        if (count == 1) return 0;
        const unsigned quotient = rest / unsigned(count), value = rest - quotient * unsigned(count);
        rest = quotient;
        return int(value);
    };
    place.tiles = next(p.tile_groups()) * p.teams;
    for (int a = 2; a >= 0; --a) place.phase[a] = next(p.axis[a].phases / p.axis[a].merged);
    for (int a = 2; a >= 0; --a) place.at[a] = next(p.axis[a].blocks()) * p.axis[a].block;
    place.group = next(p.groups);
    place.image = int(rest);
    return place;
}

// The source of stage `stage` of a place: which tap of z, from which channel, from which slice.
template <class T>
struct ConvStage {
    int tap, first, channels;
    const T* slice;                  // of channel `first`; null: zeros
    __device__ __forceinline__ ConvStage(const ConvPass<T>& p, const ConvPlace& place, const ConvTaps& z, int chunks, int stage) {
        tap = chunks == 1 ? stage : stage / chunks;
        first = (stage - tap * chunks) * p.sources_at_once;
        channels = min(p.sources_at_once, p.sources - first);
        const int at = place.at[0] * p.axis[0].step + z.at + tap * z.at_step;
        const int iz = p.outside.source(at, p.axis[0].source);
        const int64_t channel = (int64_t(place.image) * p.groups + place.group) * p.sources + first;
        slice = iz < 0 ? nullptr : p.source + channel * p.source_size + int64_t(iz) * p.axis[1].source * p.axis[2].source;
    }
};

// A thread's sums in shared memory: vectors of neighbouring threads begin in other banks, and offsets are known.
constexpr int sums_pitch(int n) { return n + 4; }

// Adds the splits' sums to the first's, in their order. Every thread of the block must call; the bands are overwritten.
template <int n, class T>
__device__ __forceinline__ void add_splits(T* sums, T* shared, int splits) {
    static_assert(n % 4 == 0);
    T* const own = shared + (threadIdx.x + blockDim.x * threadIdx.y) * sums_pitch(n);
    for (int split = 1; split < splits; ++split) {
        __syncthreads();
        if (int(threadIdx.z) == split) {
            MEDECONV_UNROLL
            for (int i = 0; i < n; i += 4) *reinterpret_cast<Lanes<T, 4>*>(own + i) = {{sums[i], sums[i + 1], sums[i + 2], sums[i + 3]}};
        }
        __syncthreads();
        if (threadIdx.z == 0) {
            MEDECONV_UNROLL
            for (int i = 0; i < n; i += 4) {
                const Lanes<T, 4> others = load<4>(own + i);
                MEDECONV_UNROLL
                for (int k = 0; k < 4; ++k) sums[i + k] += others.v[k];
            }
        }
    }
}

template <class T>
__device__ __forceinline__ T finished(T sum, T bias, bool relu) {
    sum += bias;
    return relu && sum < T(0) ? T(0) : sum;   // a NaN stays
}

}  // namespace medeconv::cuda
