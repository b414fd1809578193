// Pass kernel of any shape: a thread sums `rows` rows (channels, or output phases of channels) at several positions, which
// lie `segment` elements of the band apart. With 32 a tile is one line of the band ("flat"): what lies between the rows is
// computed and not delivered. With 40 every position is in the next row, and tiles are 32 wide.
//
// A tap costs a thread one offset, its weights in vectors that the whole warp shares, and one conflict-free load per position;
// 16 rows × 4 positions are 64 multiply-adds for 9 loads, 32 × 2 for 11.
#pragma once
#include "conv_stage.cuh"

namespace medeconv::cuda {

template <class T, int rows>
constexpr int positions_of_tile = rows == 32 ? 2 : sizeof(T) == 8 || rows == 16 ? 4 : 8;
template <class T>
constexpr int most_rows = sizeof(T) == 8 ? 8 : 16;   // that are usual: 32 of float are for small images
constexpr int outside_of_all = INT32_MIN / 2;
template <int rows>
constexpr int units_of_tile = rows > 1 ? rows / 2 : 1;   // that a split finishes: phases stored in pairs stay together
template <class T, int rows>
constexpr int most_table_threads = rows >= 8 ? 256 : 512;

// What follows the two buffers in shared memory.
struct ConvTables {
    int64_t* weight;                 // of each row of the block: its channel's first weight, or -1
    int* channel;                    // its destination channel in the group, or -1
    int* phase;                      // its merged phases, a byte each
    int* tap_offset;                 // of each tap: in the band,
    int *tap_y, *tap_x;              // and its element in the kernel
    __device__ __forceinline__ ConvTables(void* memory, int rows, int taps)
        : weight(static_cast<int64_t*>(memory)), channel(reinterpret_cast<int*>(weight + rows)), phase(channel + rows),
          tap_offset(phase + rows), tap_y(tap_offset + taps), tap_x(tap_y + taps) {}
    static constexpr size_t bytes(int rows, int taps) { return size_t(rows) * 16 + size_t(taps) * 12; }
};

template <class T>
__device__ __forceinline__ void list_rows(const ConvPass<T>& p, const ConvPlace& place, const ConvTables& tables) {
    const int merged = p.merged();
    for (int row = thread_of_block(); row < p.teams * p.rows; row += threads_of_block()) {
        const int in_tile = row % p.rows, of_tile = in_tile / merged, phase = in_tile - of_tile * merged;
        const int channel = (place.tiles + row / p.rows) * p.channels + of_tile;
        const bool there = of_tile < p.channels && channel < p.destinations;
        const int x = phase % p.axis[2].merged, y = phase / p.axis[2].merged % p.axis[1].merged;
        const int z = phase / (p.axis[2].merged * p.axis[1].merged);
        tables.channel[row] = there ? channel : -1;
        tables.weight[row] = there ? place.group * p.group_stride + channel * p.destination_stride : -1;
        tables.phase[row] = z << 16 | y << 8 | x;
    }
}

// The taps [first_y, first_y + count_y) × [first_x, first_x + count_x).
template <class T>
__device__ __forceinline__ void list_taps(const ConvPass<T>& p, const ConvTables& tables, const ConvTaps& y, int first_y, int count_y,
                                          const ConvBand& of_y, const ConvTaps& x, int first_x, int count_x, const ConvBand& of_x) {
    for (int tap = thread_of_block(); tap < count_y * count_x; tap += threads_of_block()) {
        const int jy = tap / count_x, jx = tap - jy * count_x;
        const int part = part_of_tap(p.axis[1], jy, y.at_step) * of_x.parts + part_of_tap(p.axis[2], jx, x.at_step);
        tables.tap_offset[tap] = (part * of_y.length + place_of_tap(p.axis[1], jy, y.at_step)) * p.pitch +
                                 place_of_tap(p.axis[2], jx, x.at_step);
        tables.tap_y[tap] = y.element + (first_y + jy) * y.element_step;
        tables.tap_x[tap] = x.element + (first_x + jx) * x.element_step;
    }
}

// To [channels][taps][rows of the block]; a row has no weight where its phase has no such tap.
template <class T>
__device__ __forceinline__ void copy_weights(T* to, const ConvPass<T>& p, const ConvTables& tables, int first, int channels, int element_z,
                                             int taps) {
    const int rows = p.teams * p.rows, height = p.axis[1].kernel, width = p.axis[2].kernel;
    // Neighbours in memory are taps, or source channels of a single tap; rows are far apart. So a warp takes 4 of those for 8 rows,
    // and several threads share the channels of a weight where there are that many.
    const bool by_taps = rows % 8 == 0 && taps > 2, by_channels = rows % 8 == 0 && !by_taps;
    const int count = by_taps ? (taps + 3) / 4 * 4 * rows : by_channels ? 4 * taps * rows : taps * rows;
    const int threads = threads_of_block(), teams = 2 * count <= threads ? threads / count : 1;
    const int team = teams > 1 ? thread_of_block() / count : 0, step = by_channels ? 4 * teams : teams;
    if (team >= teams) return;
    for (int i = thread_of_block() - team * count; i < count; i += threads) {
        const int eight = i >> 5, quarter = i >> 3 & 3, element = rows % 8 == 0 ? eight << 3 | (i & 7) : i;   // of 4 taps or channels
        const int row = element & (rows - 1), tap = (element >> p.row_bits) * (by_taps ? 4 : 1) + (by_taps ? quarter : 0);
        if (tap >= taps) continue;
        const int phase = tables.phase[row], c0 = by_channels ? 4 * team + quarter : team;
        const int z = element_z + (phase >> 16), y = tables.tap_y[tap] + (phase >> 8 & 255), x = tables.tap_x[tap] + (phase & 255);
        const int64_t weight = tables.weight[row];
        T* t = to + (c0 * taps + tap) * rows + row;
        const int more = step * taps * rows;
        if (weight >= 0 && z < p.axis[0].kernel && y < height && x < width) {
            const T* f = p.weight + weight + (first + c0) * p.source_stride + (int64_t(z) * height + y) * width + x;
            for (int c = c0; c < channels; c += step, t += more, f += step * p.source_stride) copy_async(t, f);
        } else {
            for (int c = c0; c < channels; c += step, t += more) *t = T(0);
        }
    }
}

template <class T, int rows, int segment>
__global__ void __launch_bounds__(most_table_threads<T, rows>, sizeof(T) == 4 && rows >= 8 ? 2 : 1) conv_table(ConvPass<T> p) {
    constexpr int positions = positions_of_tile<T, rows>;
    DYN_SHARED(T, shared);
    const int block_rows = p.teams * rows, team = int(threadIdx.y), split = int(threadIdx.z);
    const ConvTables tables(shared + 2 * p.buffer, block_rows, p.taps_at_once());
    const ConvPlace place = place_of_block(p);
    const ConvTaps of_z = taps_of(p.axis[0], place.phase[0]), of_y = taps_of(p.axis[1], place.phase[1]);
    const ConvTaps of_x = taps_of(p.axis[2], place.phase[2]);
    list_rows(p, place, tables);
    const int start = int(threadIdx.x / 32) * (positions * segment) + int(threadIdx.x % 32);
    const int chunks = p.chunks();
    const ConvStages stages(p, place, of_z);
    T sums[rows][positions]{};
    for (int jy = 0; jy < of_y.count; jy += p.axis[1].taps_at_once)
        for (int jx = 0; jx < of_x.count; jx += p.axis[2].taps_at_once) {
            const int count_y = min(p.axis[1].taps_at_once, of_y.count - jy), count_x = min(p.axis[2].taps_at_once, of_x.count - jx);
            const int taps = count_y * count_x;
            const ConvBand band_y = band_of(p.axis[1], count_y, of_y.at_step), band_x = band_of(p.axis[2], count_x, of_x.at_step);
            const int first_y = place.at[1] * p.axis[1].step + of_y.at + jy * of_y.at_step;
            const int first_x = place.at[2] * p.axis[2].step + of_x.at + jx * of_x.at_step;
            if (jy + jx > 0) __syncthreads();   // nobody sums with the tables before any more
            list_taps(p, tables, of_y, jy, count_y, band_y, of_x, jx, count_x, band_x);
            auto fetch = [&](int stage) {
                const ConvStage<T> s(p, place, of_z, chunks, stage);
                T* to = shared + (stage & 1) * p.buffer;
                copy_bands(to, p.band, p.pitch, s.slice, p.source_size, s.channels, p.outside, p.axis[1], band_y, first_y, p.axis[2],
                           band_x, first_x);
                copy_weights(to + (p.buffer - p.weights), p, tables, s.first, s.channels, of_z.element + s.tap * of_z.element_step, taps);
            };
            for (int stage = stages.first - 1; stage < stages.end; ++stage) {
                copies_done();
                __syncthreads();   // the tables or this stage are there, and nobody sums the one before any more
                if (stage + 1 < stages.end) fetch(stage + 1);
                if (stage < stages.first) continue;
                const int channels = min(p.sources_at_once, p.sources - stage % chunks * p.sources_at_once);
                const T* band = shared + (stage & 1) * p.buffer;
                const T* weights = band + (p.buffer - p.weights) + team * rows;
                for (int c = split; c < channels; c += p.splits) {
                    const T* from = band + c * p.band + start;
                    const T* w = weights + c * taps * block_rows;
                    int next = tables.tap_offset[0];   // ahead: the values' addresses wait for it
                    for (int tap = 0; tap < taps; ++tap, w += block_rows) {
                        const T* f = from + next;
                        next = tables.tap_offset[tap + 1];   // the last one's is the next table's
                        T values[positions];
                        MEDECONV_UNROLL
                        for (int i = 0; i < positions; ++i) values[i] = f[i * segment];
                        const Lanes<T, rows> weight = load<rows>(w);
                        MEDECONV_UNROLL
                        for (int r = 0; r < rows; ++r) {
                            MEDECONV_UNROLL
                            for (int i = 0; i < positions; ++i) sums[r][i] += weight.v[r] * values[i];
                        }
                    }
                }
            }
        }
    if (p.splits > 1) add_splits<units_of_tile<rows>, rows * positions / units_of_tile<rows>>(&sums[0][0], shared, p.splits);
    if (of_y.count == 0 || of_x.count == 0) __syncthreads();   // a phase without taps: the rows' table is there
    const int width = p.axis[2].destination, height = p.axis[1].destination;
    const int shift_y = place.phase[1] - p.axis[1].crop, shift_x = place.phase[2] - p.axis[2].crop;
    int ys[positions], xs[positions];    // destination of the first merged phase; beyond the tile far outside
    MEDECONV_UNROLL
    for (int i = 0; i < positions; ++i) {
        const int at = start + i * segment, y = at / p.pitch, x = at - y * p.pitch;
        const bool there = y < min(p.axis[1].block, p.axis[1].count - place.at[1]) &&
                           x < min(p.axis[2].block, p.axis[2].count - place.at[2]);
        ys[i] = there ? (place.at[1] + y) * p.axis[1].phases + shift_y : outside_of_all;
        xs[i] = (place.at[2] + x) * p.axis[2].phases + shift_x;
    }
    T* const destination = p.destination + place.part * p.results() +
                           (int64_t(place.image) * p.groups + place.group) * p.destinations * p.destination_size;
    const int first_z = place.at[0] * p.axis[0].phases + place.phase[0] - p.axis[0].crop;
    MEDECONV_UNROLL
    for (int r = 0; r < rows; ++r) {
        const int row = team * rows + r, channel = tables.channel[row], phase = tables.phase[row], z = first_z + (phase >> 16);
        if (owner_of(r / 2, units_of_tile<rows>, p.splits) != split) continue;
        if (channel < 0 || unsigned(z) >= unsigned(p.axis[0].destination)) continue;
        const int more_y = phase >> 8 & 255, more_x = phase & 255;
        const T bias = p.bias ? p.bias[place.group * p.destinations + channel] : T(0);
        T* const to = destination + channel * p.destination_size + (int64_t(z) * height + more_y) * width + more_x;
        MEDECONV_UNROLL
        for (int i = 0; i < positions; ++i) {
            if (unsigned(ys[i] + more_y) >= unsigned(height) || unsigned(xs[i] + more_x) >= unsigned(width)) continue;
            T* const place_of = to + (int64_t(ys[i]) * width + xs[i]);
            const T value = finished(sums[r][i], bias, p.relu);
            if constexpr (rows > 1) {
                if (p.vectors) {   // the phases of x in pairs
                    if (r % 2 == 0) *reinterpret_cast<Lanes<T, 2>*>(place_of) = {{value, finished(sums[r + 1][i], bias, p.relu)}};
                    continue;
                }
            }
            *place_of = value;
        }
    }
}

}  // namespace medeconv::cuda
