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
    // Several threads per element, each for some channels, where there are that many.
    const int count = all * columns, teams = count > 0 && 2 * count <= threads ? threads / count : 1;
    const int team = teams > 1 ? thread_of_block() / count : 0, start = thread_of_block() - team * count;
    if (team >= teams) return;
    int row = start / columns, column = start - row * columns;
    const int down = threads / columns, right = threads % columns;
    while (row < all) {
        const int part = all == rows ? 0 : row / rows, part_y = part / of_x.parts, part_x = part - part_y * of_x.parts;
        const int at_y = (row - part * rows) * y.step + part_y * of_y.part_step + first_y;
        const int at_x = column * x.step + part_x * of_x.part_step + first_x;
        const int iy = outside.source(at_y, y.source), ix = outside.source(at_x, x.source);
        T* t = to + row * pitch + column;
        if (from && iy >= 0 && ix >= 0) {
            const T* f = from + int64_t(iy) * x.source + ix + team * source_size;
            t += team * channel;
            for (int c = team; c < channels; c += teams, t += teams * channel, f += teams * source_size) copy_async(t, f);
        } else {
            t += team * channel;
            for (int c = team; c < channels; c += teams, t += teams * channel) *t = T(0);
        }
        row += down, column += right;
        if (column >= columns) column -= columns, ++row;
    }
}

// Which tile of a pass a block makes. Blocks that read the same band are neighbours.
struct ConvPlace {
    int tiles, image, group, part;
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
    place.image = next(p.batch);
    place.part = int(rest);
    return place;
}

// The stages that a block sums: every tap of z times every chunk of source channels, dealt out to parts in runs.
struct ConvStages {
    int first, end;
    template <class T>
    __device__ __forceinline__ ConvStages(const ConvPass<T>& p, const ConvPlace& place, const ConvTaps& z) {
        const int all = z.count * p.chunks(), run = (all + p.parts - 1) / p.parts;
        first = min(all, place.part * run), end = min(all, first + run);
    }
};

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

// Threads of several splits have sums of the same results. Each of them finishes some `units`: which split a unit is of, and the
// elements of shared memory that a thread needs for what it gives to another (vectors of neighbours begin in other banks).
constexpr int owner_of(int unit, int units, int splits) { return int(unsigned(unit * splits) / unsigned(units)); }
constexpr int sums_pitch(int units, int of_unit, int splits) { return (units > splits ? units / splits : 1) * of_unit + 4; }

// Adds up the splits' sums, each unit in its owner, in a fixed order. Every thread of the block must call; the bands are overwritten.
template <int units, int of_unit, class T>
__device__ __forceinline__ void add_splits(T* sums, T* shared, int splits) {
    static_assert(of_unit % 4 == 0 && (units & (units - 1)) == 0);
    const int split = int(threadIdx.z), across = int(blockDim.x * blockDim.y), pitch = sums_pitch(units, of_unit, splits);
    T* const own = shared + thread_of_block() * pitch;
    for (int by = 1; by < splits; ++by) {
        const int to = split + by < splits ? split + by : split + by - splits, from = split >= by ? split - by : split - by + splits;
        __syncthreads();
        MEDECONV_UNROLL
        for (int u = 0; u < units; ++u) {
            if (owner_of(u, units, splits) != to) continue;
            T* const t = own + (u - to * units / splits) * of_unit;
            MEDECONV_UNROLL
            for (int i = 0; i < of_unit; i += 4) {
                const T* const s = sums + u * of_unit + i;
                *reinterpret_cast<Lanes<T, 4>*>(t + i) = {{s[0], s[1], s[2], s[3]}};
            }
        }
        __syncthreads();
        const T* const others = own + (from - split) * across * pitch;
        MEDECONV_UNROLL
        for (int u = 0; u < units; ++u) {
            if (owner_of(u, units, splits) != split) continue;
            MEDECONV_UNROLL
            for (int i = 0; i < of_unit; i += 4) {
                const Lanes<T, 4> other = load<4>(others + (u - split * units / splits) * of_unit + i);
                MEDECONV_UNROLL
                for (int k = 0; k < 4; ++k) sums[u * of_unit + i + k] += other.v[k];
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
