// Network convolution on the GPU: what its kernels work on, shared by the plan (conv.cu) and the kernels (conv_*.cuh).
//
// Forward and input gradient are one *pass*, as on the processor (cpp/conv.hpp): destination channel o at position
// q = (z, y, x) is a sum over source channels c and taps t of weight[o, c, t] · source[c, q · step + e(t)], the source
// continued by the padding rule. The input gradient of a stride s has s output phases per axis, each with taps of its own;
// they are either blocks of their own or rows of the same thread's tile. Nothing is ever scattered.
//
// A block makes a tile of one z slice; source channels and the taps of z are summed one after the other. For some of them at
// a time the part of the source that the tile needs (a *band*) is copied to shared memory, with what lies outside written out
// beside it and steps split into parts, and their weights beside it; while one buffer is summed, the next is filled. Where there
// would be too few blocks, the same tile is made by `parts` blocks, each of some source channels and taps of z; what they leave
// in the workspace is added in order (add_parts), and there the bias comes to it. Then
//   table     a thread sums `rows` channels or phases × several positions; a tap is an offset into the band (conv_table.cuh)
//   Toeplitz  one channel per group: a thread sums 4 neighbours of one row or of four (conv_rows.cuh)
//   points    few products and few results: a thread per result, nothing in shared memory (conv_points.cuh)
//   weights   the weight gradient: a thread owns some weights, the positions go by in shared memory (conv_weight.cuh)
#pragma once
#include <cstdint>

#include "runtime.hpp"
#include "shared/boundary.hpp"

namespace medeconv::cuda {

// One axis of a pass. Transposed: destination q of phase f is element q · phases + f - crop.
struct ConvAxis {
    int source;               // length
    int count, block;         // destination positions, of each phase; and how many of them a block makes
    int step;                 // source positions per destination position; 1 when transposed
    int first;                // source position that belongs to destination 0: forward that of its first tap
    int kernel, dilation;
    bool transposed;
    int phases, merged;       // of these, rows of a thread's tile: all or 1
    int crop, destination;
    int taps_at_once;
    MEDECONV_INLINE int blocks() const { return (count + block - 1) / block; }
};

// The taps of one phase: tap j is the kernel's element + j · element_step (+ f for a merged phase f) and reads position
// q · step + at + j · at_step.
struct ConvTaps {
    int count, element, element_step, at, at_step;
};
MEDECONV_INLINE ConvTaps taps_of(const ConvAxis& a, int phase) {
    if (!a.transposed) return {a.kernel, 0, 1, a.first, a.dilation};
    // Tap k reaches element i of the destination from source (i + crop - k · dilation) / phases, where that is whole.
    const int d = a.dilation % a.phases;
    int period = 1, k = 0;
    for (int r = d; r != 0; r = (r + d) % a.phases) ++period;
    for (int r = 0; r != phase && k < period; r = (r + d) % a.phases) ++k;
    if (k >= period || k >= a.kernel) return {0, 0, 0, 0, 0};
    const int count = (a.kernel - 1 - k) / period + 1, last = k + (count - 1) * period;
    return {count, last, -period, a.first - int(int64_t(last) * a.dilation / a.phases), int(int64_t(period) * a.dilation / a.phases)};
}

// Along one axis a band has `parts` of `length` positions each; place c of a part p is position c · step + p · part_step
// after the first. So that a tap is the same offset for all destinations.
struct ConvBand {
    int parts, part_step, length;
};
MEDECONV_INLINE ConvBand band_of(const ConvAxis& a, int taps, int at_step) {
    if (a.step == 1) return {1, 0, a.block + (taps - 1) * at_step};
    if (at_step == 1) return {taps < a.step ? taps : a.step, 1, a.block + (taps - 1) / a.step};
    return {taps, at_step, a.block};
}
MEDECONV_INLINE int part_of_tap(const ConvAxis& a, int tap, int at_step) { return a.step == 1 ? 0 : at_step == 1 ? tap % a.step : tap; }
MEDECONV_INLINE int place_of_tap(const ConvAxis& a, int tap, int at_step) {
    return a.step == 1 ? tap * at_step : at_step == 1 ? tap / a.step : 0;
}

// How the source goes on outside.
struct ConvOutside {
    bool zeros;
    Boundary boundary;
    MEDECONV_INLINE int source(int position, int length) const {   // -1: zero
        if (unsigned(position) < unsigned(length)) return position;
        return zeros ? -1 : int(scalar::source_index(position, length, boundary));
    }
};

template <class T>
struct ConvPass {
    ConvAxis axis[3];                // z, y, x
    ConvOutside outside;
    int batch, groups, sources, destinations;       // channels per group
    int64_t source_size, destination_size;          // elements of a channel
    const T* source;
    T* destination;
    const T* weight;                 // destination_stride, source_stride, kernel elements
    const T* bias;                   // per destination channel, or null
    bool relu;
    int64_t destination_stride, source_stride, group_stride;
    bool toeplitz, points;
    int rows, channels;              // of a thread's tile: rows = channels · merged phases, rounded up to a power of two
    int segment;                     // table: elements of the band between a thread's positions
    int row_bits;                    // table: a block has teams · rows = 1 << row_bits rows
    int threads, teams, splits;      // of a block: for positions × for channels (Toeplitz: rows) × for source channels
    int sources_at_once;             // a multiple of `splits` where there are several
    int parts;                       // blocks that share a tile's sums: each has its own `results()` elements of `destination`
    int pitch, band;                 // a row's and a channel's elements in shared memory
    int buffer, weights;             // elements of one buffer: bands, weights
    size_t shared_bytes;
    bool vectors;                    // neighbouring results may be stored together: alignment allows it
    MEDECONV_INLINE int merged() const { return axis[0].merged * axis[1].merged * axis[2].merged; }
    MEDECONV_INLINE int taps_at_once() const { return axis[1].taps_at_once * axis[2].taps_at_once; }
    MEDECONV_INLINE int tile_groups() const {
        const int tiles = (destinations + channels - 1) / channels;
        return toeplitz ? tiles : (tiles + teams - 1) / teams;
    }
    MEDECONV_INLINE int64_t results() const { return int64_t(batch) * groups * destinations * destination_size; }
    MEDECONV_INLINE int chunks() const { return (sources + sources_at_once - 1) / sources_at_once; }
    MEDECONV_INLINE int64_t blocks() const {
        if (points) return (results() + threads - 1) / threads;
        int64_t count = int64_t(parts) * batch * groups * tile_groups();
        for (const ConvAxis& a : axis) count *= int64_t(a.blocks()) * (a.phases / a.merged);
        return count;
    }
};

// The weight gradient: weight[o, c, k] = sum over images and q of gradient[o, q] · source[c, q · step + k · dilation]. Tiles of
// positions are dealt out to `parts` blocks, each of which makes a partial result of its own; they are added in order.
template <class T>
struct ConvWeightPass {
    ConvAxis axis[3];
    ConvOutside outside;
    int batch, groups, sources, destinations;
    int64_t source_size, gradient_size;
    const T* source;
    const T* gradient;
    T* partial;                      // [parts][groups · destinations][sources][kernel]
    int own_destinations, own_sources, own_taps;    // a thread's weights: the latter along x
    int destination_threads, source_threads;        // the others of a block
    int z_taps, y_taps, x_chunks;    // of a block; a chunk is own_taps taps
    int splits;                      // threads that own the same weights and share the positions
    int threads, parts;
    int gradient_pitch, gradient_channel, pitch, plane, channel;   // elements in shared memory
    int gradients, buffer;           // elements of one buffer: gradient, all
    size_t shared_bytes;
    MEDECONV_INLINE int destination_blocks() const { return up(destinations, own_destinations * destination_threads); }
    MEDECONV_INLINE int source_blocks() const { return up(sources, own_sources * source_threads); }
    MEDECONV_INLINE int z_blocks() const { return up(axis[0].kernel, z_taps); }
    MEDECONV_INLINE int y_blocks() const { return up(axis[1].kernel, y_taps); }
    MEDECONV_INLINE int x_blocks() const { return up(axis[2].kernel, x_chunks * own_taps); }
    MEDECONV_INLINE int64_t size() const {
        return int64_t(groups) * destinations * sources * axis[0].kernel * axis[1].kernel * axis[2].kernel;
    }
    MEDECONV_INLINE int64_t tiles() const { return int64_t(batch) * axis[0].count * axis[1].blocks() * axis[2].blocks(); }
    MEDECONV_INLINE int64_t blocks() const {
        return int64_t(parts) * groups * destination_blocks() * source_blocks() * z_blocks() * y_blocks() * x_blocks();
    }
    MEDECONV_INLINE static int up(int a, int b) { return (a + b - 1) / b; }
};

}  // namespace medeconv::cuda
