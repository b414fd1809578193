// Pass kernel for one channel per group, steps and dilations of 1 within a slice: a thread sums 4 neighbouring positions of one
// row or of each of 4 rows. A row of the band is read 4 values at a time; with the 3 values before them they serve 4 taps of
// 4 positions, in every row of the thread that the row reaches.
#pragma once
#include "conv_stage.cuh"

namespace medeconv::cuda {

constexpr int most_rows_threads = 512;

// sums[i] += weight[k] · value i + k, of `taps` weights; `low`: values 0 to 3, `high`: 4 to 7.
template <int taps, class T>
__device__ __forceinline__ void slide(T* sums, const Lanes<T, 4>& weight, const Lanes<T, 4>& low, const Lanes<T, 4>& high) {
    MEDECONV_UNROLL
    for (int k = 0; k < taps; ++k) {
        MEDECONV_UNROLL
        for (int i = 0; i < 4; ++i) sums[i] += weight.v[k] * (i + k < 4 ? low.v[(i + k) % 4] : high.v[(i + k) % 4]);
    }
}

// `tail`: x taps beyond whole vectors of 4, 1 to 4.
template <class T, int rows, int tail>
__global__ void __launch_bounds__(most_rows_threads, 1) conv_rows(ConvPass<T> p) {
    DYN_SHARED(T, shared);
    const int split = int(threadIdx.z), own_row = int(threadIdx.y) * rows, own_column = int(threadIdx.x) * 4;
    const ConvPlace place = place_of_block(p);
    const ConvTaps of_z = taps_of(p.axis[0], 0), of_y = taps_of(p.axis[1], 0), of_x = taps_of(p.axis[2], 0);
    const int chunks = p.chunks();
    const ConvStages stages(p, place, of_z);
    const int vectors = (of_x.count - tail) / 4, weight_pitch = 4 * vectors + 4, kernel_width = of_x.count;
    const ConvBand band_x = band_of(p.axis[2], of_x.count, 1);
    T sums[rows][4]{};
    for (int jy = 0; jy < of_y.count; jy += p.axis[1].taps_at_once) {
        const int count_y = min(p.axis[1].taps_at_once, of_y.count - jy);
        const ConvBand band_y = band_of(p.axis[1], count_y, 1);
        auto fetch = [&](int stage) {
            const ConvStage<T> s(p, place, of_z, chunks, stage);
            T* to = shared + (stage & 1) * p.buffer;
            copy_bands(to, p.band, p.pitch, s.slice, p.source_size, s.channels, p.outside, p.axis[1], band_y,
                       place.at[1] + of_y.at + jy, p.axis[2], band_x, place.at[2] + of_x.at);
            to += p.buffer - p.weights;
            const T* from = p.weight + place.group * p.group_stride + s.first * p.source_stride +
                            int64_t(of_z.element + s.tap * of_z.element_step) * p.axis[1].kernel * kernel_width;
            for (int i = thread_of_block(); i < s.channels * count_y * weight_pitch; i += threads_of_block()) {
                const int line = i / weight_pitch, x = i - line * weight_pitch, c = line / count_y, y = jy + line - c * count_y;
                if (x < kernel_width)
                    copy_async(to + i, from + c * p.source_stride + (of_y.element + y * of_y.element_step) * kernel_width +
                                           of_x.element + x * of_x.element_step);
            }
        };
        for (int stage = stages.first - 1; stage < stages.end; ++stage) {
            copies_done();
            __syncthreads();   // this stage is there, and nobody sums the one before any more
            if (stage + 1 < stages.end) fetch(stage + 1);
            if (stage < stages.first) continue;
            const int channels = min(p.sources_at_once, p.sources - stage % chunks * p.sources_at_once);
            const T* band = shared + (stage & 1) * p.buffer;
            const T* weights = band + (p.buffer - p.weights);
            for (int c = split; c < channels; c += p.splits) {
                const T* from = band + c * p.band + own_row * p.pitch + own_column;
                const T* w = weights + c * count_y * weight_pitch;
                for (int y = 0; y < count_y + rows - 1; ++y, from += p.pitch) {
                    Lanes<T, 4> low = load<4>(from);
                    for (int k = 0; k < vectors; ++k) {
                        const Lanes<T, 4> high = load<4>(from + 4 * k + 4);
                        MEDECONV_UNROLL
                        for (int r = 0; r < rows; ++r)
                            if (y >= r && y - r < count_y) slide<4>(sums[r], load<4>(w + (y - r) * weight_pitch + 4 * k), low, high);
                        low = high;
                    }
                    const Lanes<T, 4> high = tail > 1 ? load<4>(from + 4 * vectors + 4) : low;
                    MEDECONV_UNROLL
                    for (int r = 0; r < rows; ++r)
                        if (y >= r && y - r < count_y) slide<tail>(sums[r], load<4>(w + (y - r) * weight_pitch + 4 * vectors), low, high);
                }
            }
        }
    }
    if (p.splits > 1) add_splits<rows, 4>(&sums[0][0], shared, p.splits);
    const int64_t width = p.axis[2].destination, x = int64_t(place.at[2]) + own_column;
    const int64_t channel = int64_t(place.image) * p.groups + place.group;
    const T bias = p.bias ? p.bias[place.group] : T(0);
    MEDECONV_UNROLL
    for (int r = 0; r < rows; ++r) {
        const int64_t y = int64_t(place.at[1]) + own_row + r;
        if (owner_of(r, rows, p.splits) != split || y >= p.axis[1].destination) continue;
        T* const to = p.destination + place.part * p.results() + channel * p.destination_size +
                      (int64_t(place.at[0]) * p.axis[1].destination + y) * width + x;
        Lanes<T, 4> values;
        MEDECONV_UNROLL
        for (int i = 0; i < 4; ++i) values.v[i] = finished(sums[r][i], bias, p.relu);
        if (p.vectors) {
            if (x < width) *reinterpret_cast<Lanes<T, 4>*>(to) = values;
        } else {
            MEDECONV_UNROLL
            for (int i = 0; i < 4; ++i)
                if (x + i < width) to[i] = values.v[i];
        }
    }
}

}  // namespace medeconv::cuda
