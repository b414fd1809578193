// The input gradient of small images with many channels. Structure: conv.hpp.
//
// Its weights are read as they lie: for one source position, weight[o, c, k] · gradient[o] summed over o is a row of
// [channel][kernel element], whose vectors need no packing and no position that is not there. Rows are then added where
// they belong.
#pragma once
#include "conv_weight.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
struct ColumnScratch {
    int64_t row;                     // of a block's weights, in whole vectors
    T *weights, *sums;
    int32_t *offsets, *from, *to;    // what is added: sums[from] to destination[to], of a block's first channel
    int64_t total;
};
template <class T>
ColumnScratch<T> column_buffers(const ConvPass<T>& p, T* scratch) {
    constexpr int64_t L = lanes<T>;
    ColumnScratch<T> s{};
    ScratchCutter<T> cut{scratch};
    const int64_t kernel = p.z_taps * p.y_taps * p.x_taps;
    s.row = ceil_div(p.channels_at_once * kernel, L) * L;
    s.weights = cut.take(p.sources * s.row);
    s.sums = cut.take(p.positions_at_once * s.row);
    s.offsets = reinterpret_cast<int32_t*>(cut.take(p.sources));
    s.from = reinterpret_cast<int32_t*>(cut.take(p.positions_at_once * kernel));
    s.to = reinterpret_cast<int32_t*>(cut.take(p.positions_at_once * kernel));
    s.total = cut.total;
    return s;
}

// Fills `from` and `to` for source positions [first, stop).
template <class T>
MEDECONV_INLINE int64_t list_additions(const ConvPass<T>& p, const ColumnScratch<T>& s, int64_t first, int64_t stop) {
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    int64_t n = 0;
    for (int64_t q = first; q < stop; ++q) {
        const int64_t qx = q % x.length, qy = q / x.length % y.length, qz = q / x.length / y.length;
        int64_t from = (q - first) * s.row;
        for (int64_t kz = 0; kz < p.z_taps; ++kz)
            for (int64_t ky = 0; ky < p.y_taps; ++ky)
                for (int64_t kx = 0; kx < p.x_taps; ++kx, ++from) {
                    const int64_t to_z = qz * z.phases + kz * z.dilation - p.low[0];
                    const int64_t to_y = qy * y.phases + ky * y.dilation - p.low[1];
                    const int64_t to_x = qx * x.phases + kx * x.dilation - p.low[2];
                    if (to_z < 0 || to_y < 0 || to_x < 0 || to_z >= z.destination || to_y >= y.destination || to_x >= x.destination)
                        continue;
                    s.from[n] = int32_t(from);
                    s.to[n++] = int32_t((to_z * y.destination + to_y) * x.destination + to_x);
                }
    }
    return n;
}

// A unit: a block of destination channels of all images.
template <class T>
void column_unit(const ConvPass<T>& p, int64_t unit, T* scratch) {
    constexpr int64_t ahead = 8;     // rows of weights
    const ColumnScratch<T> s = column_buffers(p, scratch);
    const int64_t group = unit / p.column_blocks(), first = unit % p.column_blocks() * p.channels_at_once;
    const int64_t channels = p.destinations - first < p.channels_at_once ? p.destinations - first : p.channels_at_once;
    const int64_t kernel = p.z_taps * p.y_taps * p.x_taps, width = channels * kernel;
    const T* const weight = p.weight + group * p.group_stride + first * p.destination_stride;
    for (int64_t o = 0; o < p.sources; ++o) {
        const T* row = weight + o * p.source_stride;
        if (o + ahead < p.sources) prefetch_row(row + ahead * p.source_stride, width);
        copy_values(row, width, s.weights + o * s.row);
        s.offsets[o] = int32_t(o * s.row);
    }
    auto destination_of = [&](int64_t image) MEDECONV_BODY {
        return p.destination + ((image * p.groups + group) * p.destinations + first) * p.destination_size;
    };
    const T zero[conv_rows] = {};
    for (int64_t q = 0; q < p.source_size; q += p.positions_at_once) {
        const int64_t stop = q + p.positions_at_once < p.source_size ? q + p.positions_at_once : p.source_size;
        const int64_t additions = list_additions(p, s, q, stop);
        for (int64_t image = 0; image < p.batch; ++image) {
            T* to = destination_of(image);
            const T* const gradient = p.source + (image * p.groups + group) * p.sources * p.source_size + q;
            sum_matrix(static_cast<const T*>(s.weights), s.offsets, p.sources, gradient, p.source_size, stop - q, width, zero, s.sums, s.row);
            for (int64_t c = 0; c < channels; ++c, to += p.destination_size) {
                const T* from = s.sums + c * kernel;
                if (q == 0) {
                    const T bias = p.bias ? p.bias[group * p.destinations + first + c] : T(0);
                    for (int64_t i = 0; i < p.destination_size; ++i) to[i] = bias;
                }
                for (int64_t i = 0; i < additions; ++i) to[s.to[i]] += from[s.from[i]];
                if (p.relu && stop == p.source_size)
                    for (int64_t i = 0; i < p.destination_size; ++i) to[i] = to[i] < T(0) ? T(0) : to[i];
                if (p.ends && stop == p.source_size) end_row(p, to - p.destination, p.destination_size, to);
            }
        }
    }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
