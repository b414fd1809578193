// Small images of which every channel is filtered by itself. Structure: conv.hpp.
//
// A unit is some channels. Each is copied into the same frame of zeros, so that rows are copied as they lie and what is around
// them is written once; results are summed in registers, `frame_rows` rows at once, and stored where they belong.
#pragma once
#include "conv.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
struct DepthwiseScratch {
    ConvFrame frame;
    T *values, *weights;             // weights: [x taps][y taps]
    int64_t total;
};
template <class T>
DepthwiseScratch<T> depthwise_buffers(const ConvPass<T>& p, T* scratch) {
    DepthwiseScratch<T> s{};
    ScratchCutter<T> cut{scratch};
    s.frame = conv_frame(p.axis, p.y_taps, p.x_taps, lanes<T>);
    s.values = cut.take(s.frame.size());
    s.weights = cut.take(p.y_taps * p.x_taps);
    s.total = cut.total;
    return s;
}

// Every second of n values to `even`, the others to `odd`; zeros follow up to a whole vector.
template <class T>
MEDECONV_INLINE void part(const T* from, int64_t n, T* even, T* odd) {
    constexpr int L = lanes<T>;
    typename VectorOf<T>::index evens{}, odds{};
    for (int i = 0; i < L; ++i) evens[i] = 2 * i, odds[i] = 2 * i + 1;
    for (int64_t i = 0; i < n; i += 2 * L, even += L, odd += L) {
        const int64_t left = n - i;
        const Vec<T> a = left >= L ? load_unaligned(from + i) : load_first(from + i, left);
        const Vec<T> b = left >= 2 * L ? load_unaligned(from + i + L) : left > L ? load_first(from + i + L, left - L) : Vec<T>{};
        store_unaligned(even, __builtin_shuffle(a, b, evens));
        store_unaligned(odd, __builtin_shuffle(a, b, odds));
    }
}

// The rows of a channel to where they belong in the frame; rows and places that are zero are not written.
template <class T>
MEDECONV_INLINE void copy_into_frame(const ConvAxis& y, const ConvAxis& x, const T* channel, const ConvFrame& f, T* frame) {
    const int64_t rows = y.reach(y.count), columns = x.reach(x.count), inside = x.outer - x.inner;
    const int64_t shift = x.inner % x.step * f.pitch + x.inner / x.step;
    const int64_t other = (x.inner + 1) % x.step * f.pitch + (x.inner + 1) / x.step;
    for (int64_t b = 0; b < rows; ++b, frame += f.row) {
        if (y.index(b) < 0) continue;
        const T* row = channel + y.index(b) * x.length;
        if (inside > 0) {
            if (x.step == 1) copy_values(row + x.index(x.inner), inside, frame + shift);
            else part(row + x.index(x.inner), inside, frame + shift, frame + other);
        }
        auto continued = [&](int64_t first, int64_t last) MEDECONV_BODY {
            for (int64_t i = first; i < last; ++i)
                if (x.index(i) >= 0) frame[i % x.step * f.pitch + i / x.step] = row[x.index(i)];
        };
        if (inside == columns) continue;
        continued(0, x.inner), continued(x.outer, columns);
    }
}

// Rows of results from `from` on, `wide` vectors of each; as many of them as there are, and of the last vector `last` values.
template <int W, int taps, int step, class T>
MEDECONV_NOINLINE void sum_frame(const T* from, const ConvFrame& f, const T* weight, int64_t x_taps, T start, bool relu, int64_t rows,
                                 int64_t last, T* to, int64_t to_row) {
    constexpr int L = lanes<T>, R = int(frame_rows), read = (R - 1) * step + taps;
    Vec<T> sum[R * W];
    unroll<R * W>([&](auto i) MEDECONV_BODY { sum[i] = splat<T>(start); });
    for (int64_t k = 0; k < x_taps; ++k, weight += taps) {
        const T* at = from + k % step * f.pitch + k / step;
        Vec<T> v[read * W];
        unroll<read>([&](auto r) MEDECONV_BODY {
            unroll<W>([&](auto w) MEDECONV_BODY { v[r * W + w] = load_unaligned(at + r * f.row + w * L); });
        });
        unroll<taps>([&](auto j) MEDECONV_BODY {
            const Vec<T> t = in_register(splat<T>(weight[j]));
            unroll<R>([&](auto r) MEDECONV_BODY {
                unroll<W>([&](auto w) MEDECONV_BODY { sum[r * W + w] += v[(r * step + j) * W + w] * t; });
            });
        });
    }
    if (relu) unroll<R * W>([&](auto i) MEDECONV_BODY { sum[i] = sum[i] < Vec<T>{} ? Vec<T>{} : sum[i]; });  // keeps NaN
    unroll<R>([&](auto r) MEDECONV_BODY {
        if (r >= rows) return;
        T* out = to + r * to_row;
        unroll<W - 1>([&](auto w) MEDECONV_BODY { store_unaligned(out + w * L, sum[r * W + w]); });
        if (last == L) store_unaligned(out + (W - 1) * L, sum[r * W + W - 1]);
        else store_first(out + (W - 1) * L, sum[r * W + W - 1], last);
    });
}

// A channel's results; two vectors of each row at once, where there are registers for all that their sums read.
template <int taps, int step, class T>
void sum_channel(const ConvPass<T>& p, const DepthwiseScratch<T>& s, T start, T* to) {
    constexpr int64_t L = lanes<T>;
    constexpr bool two = 2 * (frame_rows + (frame_rows - 1) * step + taps) < (conv_sums == 24 ? 32 : 16);
    const int64_t rows = p.axis[1].count, columns = p.axis[2].count;
    for (int64_t y = 0; y < rows; y += frame_rows, to += frame_rows * columns) {
        const T* const from = s.values + y * step * s.frame.row;
        const int64_t some = rows - y < frame_rows ? rows - y : frame_rows;
        int64_t x = 0;
        if constexpr (two)
            for (; x + L < columns; x += 2 * L) {
                const int64_t last = columns - x - L < L ? columns - x - L : L;
                sum_frame<2, taps, step>(from + x, s.frame, s.weights, p.x_taps, start, p.relu, some, last, to + x, columns);
            }
        for (; x < columns; x += L) {
            const int64_t last = columns - x < L ? columns - x : L;
            sum_frame<1, taps, step>(from + x, s.frame, s.weights, p.x_taps, start, p.relu, some, last, to + x, columns);
        }
    }
}
template <int taps, class T>
MEDECONV_INLINE void sum_channel(const ConvPass<T>& p, const DepthwiseScratch<T>& s, T start, T* to) {
    if (p.axis[1].step == 1) sum_channel<taps, 1>(p, s, start, to);
    else sum_channel<taps, 2>(p, s, start, to);
}

template <class T>
void depthwise_unit(const ConvPass<T>& p, int64_t unit, T* scratch) {
    const DepthwiseScratch<T> s = depthwise_buffers(p, scratch);
    const ConvAxis &y = p.axis[1], &x = p.axis[2];
    const int64_t slices = p.axis[0].count, taps = p.y_taps * p.x_taps, source_size = y.length * x.length, size = y.count * x.count;
    const int64_t first = unit * p.channels_at_once, stop = first + p.channels_at_once, all = p.batch * p.groups * slices;
    std::memset(s.values, 0, size_t(s.frame.size()) * sizeof(T));
    for (int64_t channel = first; channel < (stop < all ? stop : all); ++channel) {
        const int64_t group = (slices == 1 ? channel : channel / slices) % p.groups;
        const T* const weight = p.weight + group * p.group_stride;
        for (int64_t ky = 0, i = 0; ky < p.y_taps; ++ky)
            for (int64_t kx = 0; kx < p.x_taps; ++kx, ++i) s.weights[kx * p.y_taps + ky] = weight[p.flipped ? taps - 1 - i : i];
        copy_into_frame(y, x, p.source + channel * source_size, s.frame, s.values);
        T* const to = p.destination + channel * size;
        const T start = p.bias ? p.bias[group] : T(0);
        if (p.y_taps == 3) sum_channel<3>(p, s, start, to);
        else if (p.y_taps == 5) sum_channel<5>(p, s, start, to);
        else sum_channel<7>(p, s, start, to);
        if (p.ends) end_row(p, channel * size, size, to);
    }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
