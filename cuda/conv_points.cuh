// Pass kernel for few products per result (depthwise layers) where there are few results: a thread per result, from global memory.
// Outside is zero. Nothing is staged, so nothing is waited for but the loads themselves, 4 taps of a row at a time.
#pragma once
#include "conv_stage.cuh"

namespace medeconv::cuda {

constexpr int points_threads = 128;

// Which source position a tap of destination element `i` reads, or outside it: a zero, which is multiplied as well (the weight
// may be NaN), or no_tap: this phase has no such tap.
constexpr int outside = -1, no_tap = -2;
__device__ __forceinline__ int source_of(const ConvAxis& a, int i, int tap) {
    int at = i + a.crop - tap * a.dilation;
    if (!a.transposed) {
        at = i * a.step + tap * a.dilation;
    } else if (a.phases > 1) {
        const int whole = at / a.phases;
        if (whole * a.phases != at) return no_tap;
        at = whole;
    }
    at += a.first;
    return unsigned(at) < unsigned(a.source) ? at : outside;
}

template <class T>
__global__ void __launch_bounds__(points_threads) conv_points(ConvPass<T> p) {
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const unsigned index = blockIdx.x * unsigned(points_threads) + threadIdx.x;   // the plan sees to it that they are few enough
    if (index >= p.results()) return;
    const unsigned width = x.destination, height = y.destination, depth = z.destination;
    const unsigned line = index / width, slice = line / height, channel = slice / depth;
    const int to_x = int(index - line * width), to_y = int(line - slice * height), to_z = int(slice - channel * depth);
    const int channels = p.groups * p.destinations, image = int(channel) / channels, all = int(channel) - image * channels;
    const int group = all / p.destinations;
    const T* source = p.source + (int64_t(image) * p.groups + group) * p.sources * p.source_size;
    const T* weight = p.weight + group * p.group_stride + (all - group * p.destinations) * p.destination_stride;
    T sum = 0;
    for (int c = 0; c < p.sources; ++c, source += p.source_size, weight += p.source_stride)
        for (int kz = 0; kz < z.kernel; ++kz) {
            const int iz = source_of(z, to_z, kz);
            if (iz == no_tap) continue;
            for (int ky = 0; ky < y.kernel; ++ky) {
                const int iy = source_of(y, to_y, ky);
                if (iy == no_tap) continue;
                const T* const from = source + (int64_t(iz) * y.source + iy) * x.source;
                const T* const w = weight + (int64_t(kz) * y.kernel + ky) * x.kernel;
                for (int first = 0; first < x.kernel; first += 4) {
                    T values[4], weights[4];
                    bool there[4];
                    MEDECONV_UNROLL
                    for (int k = 0; k < 4; ++k) {
                        const int ix = first + k < x.kernel ? source_of(x, to_x, first + k) : no_tap;
                        there[k] = ix != no_tap;
                        values[k] = (iz | iy | ix) >= 0 ? from[ix] : T(0), weights[k] = there[k] ? w[first + k] : T(0);
                    }
                    MEDECONV_UNROLL
                    for (int k = 0; k < 4; ++k)
                        if (there[k]) sum += weights[k] * values[k];
                }
            }
        }
    p.destination[index] = finished(sum, p.bias ? p.bias[all] : T(0), p.relu);
}

}  // namespace medeconv::cuda
