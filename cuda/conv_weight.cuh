// The weight gradient: a thread owns `destinations` × `sources` × `taps` weights (taps: neighbours along x), and the positions of
// tiles of the gradient go by in shared memory, 4 at a time. Neighbouring threads own neighbouring channels, so that most loads
// are the same address for many lanes. What several threads or blocks sum of the same weight is added in a fixed order.
#pragma once
#include "conv_stage.cuh"

namespace medeconv::cuda {

constexpr int most_weight_threads = 320;

template <class T, int destinations, int sources, int taps>
__global__ void __launch_bounds__(most_weight_threads, sizeof(T) == 4 ? 2 : 1) conv_weight(ConvWeightPass<T> p) {
    DYN_SHARED(T, shared);
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    unsigned rest = blockIdx.x;
    auto next = [&rest](int count) {
        const unsigned quotient = rest / unsigned(count), value = rest - quotient * unsigned(count);
        rest = quotient;
        return int(value);
    };
    const int first_destination = next(p.destination_blocks()) * destinations * p.destination_threads;
    const int first_source = next(p.source_blocks()) * sources * p.source_threads;
    const int first_kx = next(p.x_blocks()) * taps * p.x_chunks, first_ky = next(p.y_blocks()) * p.y_taps;
    const int first_kz = next(p.z_blocks()) * p.z_taps, group = next(p.groups), part = int(rest);
    const int z_taps = min(p.z_taps, z.kernel - first_kz), y_taps = min(p.y_taps, y.kernel - first_ky);
    const int x_taps = min(taps * p.x_chunks, x.kernel - first_kx);

    // Which weights the thread owns.
    const int owners = p.destination_threads * p.source_threads * p.x_chunks * p.y_taps * p.z_taps;
    const int thread = thread_of_block(), split = thread / owners;
    rest = unsigned(thread - split * owners);
    const int own_destination = next(p.destination_threads), own_source = next(p.source_threads), chunk = next(p.x_chunks);
    const int ky = next(p.y_taps), kz = int(rest);

    // A single tap has a part of the band, others slide over one.
    const ConvBand band_y = band_of(y, y_taps, y.dilation);
    const ConvBand band_x = taps == 1 ? ConvBand{x_taps, x.dilation, x.block} : ConvBand{1, 0, x.block + x_taps - 1};
    const int part_of_y = part_of_tap(y, ky, y.dilation) * band_x.parts;
    const int tap_row = (taps == 1 ? part_of_y + chunk : part_of_y) * band_y.length + place_of_tap(y, ky, y.dilation);
    const int own_offset = kz * p.plane + tap_row * p.pitch + (taps == 1 ? 0 : 4 * chunk);
    const bool owner = split < p.splits && kz < z_taps && ky < y_taps && taps * chunk < x_taps;

    ConvAxis gradient_y{}, gradient_x{};
    gradient_y.source = y.count, gradient_x.source = x.count, gradient_y.step = gradient_x.step = 1;
    const int gradient_channels = min(destinations * p.destination_threads, p.destinations - first_destination);
    const int source_channels = min(sources * p.source_threads, p.sources - first_source);
    const int64_t tiles = p.tiles();
    struct Tile {
        int x, y, z, image;
    };
    auto tile_of = [&](int64_t index) {
        const int across = x.blocks(), down = y.blocks();
        const int64_t line = index / across, slice = line / down;
        return Tile{int(index - line * across) * x.block, int(line - slice * down) * y.block, int(slice % z.count), int(slice / z.count)};
    };
    auto fetch = [&](int64_t index, T* to) {
        const Tile t = tile_of(index);
        const T* gradient = p.gradient + ((int64_t(t.image) * p.groups + group) * p.destinations + first_destination) * p.gradient_size +
                            int64_t(t.z) * y.count * x.count;
        copy_bands(to, p.gradient_channel, p.gradient_pitch, gradient, p.gradient_size, gradient_channels, ConvOutside{true, Boundary::wrap},
                   gradient_y, ConvBand{1, 0, y.block}, t.y, gradient_x, ConvBand{1, 0, x.block}, t.x);
        to += p.gradients;
        const T* source = p.source + ((int64_t(t.image) * p.groups + group) * p.sources + first_source) * p.source_size;
        for (int k = 0; k < z_taps; ++k, to += p.plane) {
            const int iz = p.outside.source(t.z * z.step + z.first + (first_kz + k) * z.dilation, z.source);
            copy_bands(to, p.channel, p.pitch, iz < 0 ? nullptr : source + int64_t(iz) * y.source * x.source, p.source_size,
                       source_channels, p.outside, y, band_y, t.y * y.step + y.first + first_ky * y.dilation, x, band_x,
                       t.x * x.step + x.first + first_kx * x.dilation);
        }
    };

    T sums[destinations][sources][taps]{};
    int buffer = 1;
    for (int64_t index = int64_t(part) - p.parts; index < tiles; index += p.parts, buffer ^= 1) {
        copies_done();
        __syncthreads();   // this tile is there, and nobody sums the one before any more
        if (index + p.parts < tiles) fetch(index + p.parts, shared + (buffer ^ 1) * p.buffer);
        if (index < 0 || !owner) continue;
        const Tile t = tile_of(index);
        const int rows = min(y.block, y.count - t.y), columns = min(x.block, x.count - t.x), vectors = (columns + 3) / 4;
        const T* const gradients = shared + buffer * p.buffer + own_destination * p.gradient_channel;
        const T* const values = shared + buffer * p.buffer + p.gradients + own_source * p.channel + own_offset;
        int row = split / vectors, vector = split % vectors;
        const int down = p.splits / vectors, right = p.splits % vectors;
        while (row < rows) {
            const T* const g = gradients + row * p.gradient_pitch + 4 * vector;
            const T* const v = values + row * p.pitch + 4 * vector;
            const int left = columns - 4 * vector;
            if (left >= 4) {
                Lanes<T, 4> gs[destinations];
                MEDECONV_UNROLL
                for (int o = 0; o < destinations; ++o) gs[o] = load<4>(g + o * p.destination_threads * p.gradient_channel);
                MEDECONV_UNROLL
                for (int c = 0; c < sources; ++c) {
                    const T* const from = v + c * p.source_threads * p.channel;
                    const Lanes<T, 4> low = load<4>(from), high = taps > 1 ? load<4>(from + 4) : low;
                    MEDECONV_UNROLL
                    for (int k = 0; k < taps; ++k) {
                        MEDECONV_UNROLL
                        for (int i = 0; i < 4; ++i) {
                            const T value = i + k < 4 ? low.v[(i + k) % 4] : high.v[(i + k) % 4];
                            MEDECONV_UNROLL
                            for (int o = 0; o < destinations; ++o) sums[o][c][k] += gs[o].v[i] * value;
                        }
                    }
                }
            } else {   // the last of a row: what is not there is loaded, but nothing is made of it
                Lanes<T, 4> gs[destinations];
                MEDECONV_UNROLL
                for (int o = 0; o < destinations; ++o) gs[o] = load<4>(g + o * p.destination_threads * p.gradient_channel);
                MEDECONV_UNROLL
                for (int c = 0; c < sources; ++c) {
                    const T* const from = v + c * p.source_threads * p.channel;
                    const Lanes<T, 4> low = load<4>(from), high = taps > 1 ? load<4>(from + 4) : low;
                    MEDECONV_UNROLL
                    for (int i = 0; i < 3; ++i) {
                        if (i >= left) break;
                        MEDECONV_UNROLL
                        for (int k = 0; k < taps; ++k) {
                            const T value = i + k < 4 ? low.v[(i + k) % 4] : high.v[(i + k) % 4];
                            MEDECONV_UNROLL
                            for (int o = 0; o < destinations; ++o) sums[o][c][k] += gs[o].v[i] * value;
                        }
                    }
                }
            }
            row += down, vector += right;
            if (vector >= vectors) vector -= vectors, ++row;
        }
    }
    constexpr int own = destinations * sources * taps;   // an odd distance of threads' sums: other banks
    T* const all = &sums[0][0][0];
    if (p.splits > 1) {
        __syncthreads();   // nobody sums any more
        if (owner && split > 0) {
            MEDECONV_UNROLL
            for (int i = 0; i < own; ++i) shared[thread * (own | 1) + i] = all[i];
        }
        __syncthreads();
        if (owner && split == 0)
            for (int s = 1; s < p.splits; ++s) {
                MEDECONV_UNROLL
                for (int i = 0; i < own; ++i) all[i] += shared[(s * owners + thread) * (own | 1) + i];
            }
    }
    if (!owner || split > 0) return;
    T* const to = p.partial + part * p.size();
    const int64_t kernel = int64_t(z.kernel) * y.kernel * x.kernel;
    const int64_t tap = (int64_t(first_kz + kz) * y.kernel + first_ky + ky) * x.kernel + first_kx + taps * chunk;
    MEDECONV_UNROLL
    for (int o = 0; o < destinations; ++o) {
        MEDECONV_UNROLL
        for (int c = 0; c < sources; ++c) {
            MEDECONV_UNROLL
            for (int k = 0; k < taps; ++k) {
                const int channel = own_destination + o * p.destination_threads, source = own_source + c * p.source_threads;
                if (channel < gradient_channels && source < source_channels && taps * chunk + k < x_taps)
                    to[((int64_t(group) * p.destinations + first_destination + channel) * p.sources + first_source + source) * kernel + tap + k] =
                        sums[o][c][k];
            }
        }
    }
}

constexpr int parts_at_once = 8;

// What comes to the parts' sums, where they are not a weight's gradient.
template <class T>
struct ConvEnd {
    const T* bias;                   // per channel, or null
    int64_t size;                    // of a channel
    int channels;
    bool relu;
};

// The parts' results, added in their order: blockDim.y threads each take every blockDim.y-th part, several loads at a time.
template <class T>
__global__ void __launch_bounds__(256) add_parts(const T* partial, T* out, int64_t size, int parts, ConvEnd<T> end) {
    DYN_SHARED(T, shared);
    const int across = int(blockDim.x), stripes = int(blockDim.y), stripe = int(threadIdx.y);
    const int64_t i = int64_t(blockIdx.x) * across + threadIdx.x;
    T sum = 0;
    if (i < size)
        for (int part = stripe; part < parts; part += stripes * parts_at_once) {
            T values[parts_at_once];
            MEDECONV_UNROLL
            for (int k = 0; k < parts_at_once; ++k) {
                const int at = part + k * stripes;
                values[k] = at < parts ? partial[at * size + i] : T(0);
            }
            MEDECONV_UNROLL
            for (int k = 0; k < parts_at_once; ++k) sum += values[k];
        }
    if (stripes > 1) {
        shared[stripe * across + threadIdx.x] = sum;
        __syncthreads();
    }
    if (stripe > 0 || i >= size) return;
    for (int s = 1; s < stripes; ++s) sum += shared[s * across + threadIdx.x];
    out[i] = finished(sum, end.bias ? end.bias[i / end.size % end.channels] : T(0), end.relu);
}

}  // namespace medeconv::cuda
