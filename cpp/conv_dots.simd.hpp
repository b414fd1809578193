// Small images with many channels. Structure: conv.hpp.
//
// Vectors along x would mostly lie beside such an image. Here they run along the weights of a destination channel, which are
// read as they lie; `bands` holds as many values for every position: what its taps read, in the order of the weights. A result
// is a dot product of the two.
#pragma once
#include "conv_weight.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// A tile, by how many sums fit the registers.
constexpr int dot_channels = conv_sums == 24 ? 3 : 2, dot_positions = conv_sums == 24 ? 7 : 5;
constexpr int64_t dot_sources = 16;  // channels of a unit of `bands`

// Values of a position, in whole vectors; an odd number of lines, or positions compete for the same sets of the cache.
template <class T>
MEDECONV_INLINE int64_t dot_row(const ConvPass<T>& p) {
    constexpr int64_t L = lanes<T>, line = 64 / int64_t(sizeof(T));
    return (ceil_div(ceil_div(p.source_values(), L) * L, line) | 1) * line;
}

// totals[c · Q + q] = the dot product of n values of channel c and position q. `ahead`: rows of weights not read before follow.
template <int C, int Q, class T>
MEDECONV_NOINLINE void dot_tile(const T* weight, int64_t weight_pitch, const T* values, int64_t pitch, int64_t n, bool ahead, T* totals) {
    constexpr int64_t L = lanes<T>;
    Vec<T> sum[C * Q];
    unroll<C * Q>([&](auto i) MEDECONV_BODY { sum[i] = Vec<T>{}; });
    auto add = [&](int64_t at, auto load) MEDECONV_BODY {
        Vec<T> w[C];
        unroll<C>([&](auto c) MEDECONV_BODY { w[c] = in_register(load(weight + c * weight_pitch + at)); });
        unroll<Q>([&](auto q) MEDECONV_BODY {
            const Vec<T> v = in_register(load_unaligned(values + q * pitch + at));
            unroll<C>([&](auto c) MEDECONV_BODY { sum[c * Q + q] += w[c] * v; });
        });
    };
    const auto whole = [](const T* from) MEDECONV_BODY { return load_unaligned(from); };
    int64_t i = 0;
    if (ahead)
        for (; i + L <= n; i += L) {
            unroll<C>([&](auto c) MEDECONV_BODY { __builtin_prefetch(weight + (C + c) * weight_pitch + i, 0, 3); });
            add(i, whole);
        }
    for (; i + L <= n; i += L) add(i, whole);
    if (i < n) add(i, [&](const T* from) MEDECONV_BODY { return load_first(from, n - i); });
    sum_lanes<C * Q, 1>(sum, totals);
}
template <int C, int Q, class T>
MEDECONV_INLINE void dot_tile_of(int64_t channels, int64_t positions, const T* weight, int64_t weight_pitch, const T* values, int64_t pitch,
                                 int64_t n, bool ahead, T* totals) {
    if constexpr (C > 1 && Q == dot_positions)
        if (channels < C) {
            dot_tile_of<C - 1, Q>(channels, positions, weight, weight_pitch, values, pitch, n, ahead, totals);
            return;
        }
    if (positions == Q) dot_tile<C, Q>(weight, weight_pitch, values, pitch, n, ahead, totals);
    else if constexpr (Q > 1)
        dot_tile_of<C, Q - 1>(channels, positions, weight, weight_pitch, values, pitch, n, ahead, totals);
}

// An image of one channel as it is continued, one position after the other.
struct DotFrame {
    int64_t row, plane, size;
};
template <class T>
MEDECONV_INLINE DotFrame dot_frame(const ConvPass<T>& p) {
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const int64_t row = x.reach(x.count), plane = row * y.reach(y.count);
    return {row, plane, plane * z.reach(z.count)};
}

// A unit of `bands`: some channels of an image, at all its positions.
template <class T>
int64_t dot_value_units(const ConvPass<T>& p) {
    return p.batch * p.groups * ceil_div(p.sources, dot_sources);
}
template <class T>
int64_t dot_scratch(const ConvPass<T>& p) {
    return dot_frame(p).size + lanes<T>;   // what the last vector reads beyond it
}
template <class T>
void dot_values(const ConvPass<T>& p, int64_t unit, T* bands, T* frame) {
    constexpr int64_t L = lanes<T>;
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const int64_t blocks = ceil_div(p.sources, dot_sources), both = unit / blocks, group = both % p.groups, image = both / p.groups;
    const int64_t first = unit % blocks * dot_sources, stop = first + dot_sources < p.sources ? first + dot_sources : p.sources;
    const int64_t row = dot_row(p), kernel = p.z_taps * p.y_taps * p.x_taps;
    const DotFrame f = dot_frame(p);
    ConvAxis line = x;
    line.step = 1;
    T* const to = bands + (group * p.batch + image) * p.destination_size * row;
    for (int64_t c = first; c < stop; ++c) {
        const T* const channel = p.source + (both * p.sources + c) * p.source_size;
        for (int64_t a = 0; a < z.reach(z.count); ++a)
            for (int64_t b = 0; b < y.reach(y.count); ++b) {
                T* const out = frame + a * f.plane + b * f.row;
                if (z.index(a) < 0 || y.index(b) < 0) std::memset(out, 0, size_t(f.row) * sizeof(T));
                else copy_row(line, channel + (z.index(a) * y.length + y.index(b)) * x.length, 0, f.row, out, 0, f.row);
            }
        T* position = to + c * kernel;
        for (int64_t qz = 0; qz < z.count; ++qz)
            for (int64_t qy = 0; qy < y.count; ++qy)
                for (int64_t qx = 0; qx < x.count; ++qx, position += row) {
                    const T* const from = frame + qz * z.step * f.plane + qy * y.step * f.row + qx * x.step;
                    T* out = position;
                    int64_t left = (stop - c) * kernel;
                    for (int64_t kz = 0; kz < p.z_taps; ++kz)
                        for (int64_t ky = 0; ky < p.y_taps; ++ky, out += p.x_taps, left -= p.x_taps) {
                            const T* const taps = from + kz * z.dilation * f.plane + ky * y.dilation * f.row;
                            if (x.dilation > 1)
                                for (int64_t k = 0; k < p.x_taps; ++k) out[k] = taps[k * x.dilation];
                            else if (p.x_taps < L && left >= L)   // what follows is yet to be written
                                store_unaligned(out, load_unaligned(taps));
                            else
                                copy_values(taps, p.x_taps, out);
                        }
                }
    }
    if (stop == p.sources)
        for (int64_t q = 0; q < p.destination_size; ++q)
            for (int64_t i = p.source_values(); i < row; ++i) to[q * row + i] = T(0);
}

// A unit: some destination channels of all images.
template <class T>
void dot_unit(const ConvPass<T>& p, int64_t unit) {
    constexpr int64_t L = lanes<T>, most = dot_channels * dot_positions;
    const int64_t group = unit / p.column_blocks(), first = unit % p.column_blocks() * p.channels_at_once;
    const int64_t channels = p.destinations - first < p.channels_at_once ? p.destinations - first : p.channels_at_once;
    const int64_t values = p.source_values(), vectors = ceil_div(values, L), parts = ceil_div(vectors, dot_vectors);
    const int64_t row = dot_row(p), size = p.destination_size, positions = p.batch * size, tiles = ceil_div(positions, dot_positions);
    const T* const weight = p.weight + group * p.group_stride + first * p.destination_stride;
    const T* const bands = p.bands + group * positions * row;
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t at = vectors * part / parts * L, stop = part + 1 < parts ? vectors * (part + 1) / parts * L : values;
        const bool relu = p.relu && part + 1 == parts;
        for (int64_t tile = 0; tile < tiles; ++tile) {
            const int64_t q = positions * tile / tiles, count = positions * (tile + 1) / tiles - q;
            T* to[dot_positions];
            for (int64_t i = 0; i < count; ++i)
                to[i] = p.destination + (((q + i) / size * p.groups + group) * p.destinations + first) * size + (q + i) % size;
            const bool row_of_image = q / size == (q + count - 1) / size;
            // The next tile's values, half of which another core may have written.
            for (int64_t i = 0; tile + 1 < tiles && i < dot_positions && q + count + i < positions; ++i)
                prefetch_row(bands + (q + count + i) * row + at, stop - at);
            for (int64_t c = 0; c < channels; c += dot_channels) {
                const int64_t rows = channels - c < dot_channels ? channels - c : dot_channels;
                T totals[ceil_div(most, L) * L + L];
                dot_tile_of<dot_channels, dot_positions>(rows, count, weight + c * p.destination_stride + at, p.destination_stride,
                                                         bands + q * row + at, row, stop - at, tile == 0, totals);
                for (int64_t r = 0; r < rows; ++r) {
                    const T* const sums = totals + r * count;
                    const T bias = p.bias ? p.bias[group * p.destinations + first + c + r] : T(0);
                    if (row_of_image) finish_sums(sums, part > 0, bias, relu, count, to[0] + (c + r) * size);
                    else
                        for (int64_t i = 0; i < count; ++i) finish_sums(sums + i, part > 0, bias, relu, 1, to[i] + (c + r) * size);
                }
            }
        }
    }
    if (!p.ends) return;
    const Range all[3] = {{0, p.axis[0].count}, {0, p.axis[1].count}, {0, p.axis[2].count}};
    for (int64_t image = 0; image < p.batch; ++image)
        end_channels(p, image, group * p.destinations + first, channels, all[0], all[1], all[2]);
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
