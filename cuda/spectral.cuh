// Kernels of the spectral engine; what they are for: spectral.hpp.
#pragma once
#include "formula.cuh"
#include "lines.cuh"

namespace medeconv::cuda {
namespace {

// With a number of blocks per multiprocessor that the compiler must allow it spills no registers for more of them.
constexpr int most_line_threads = 512, most_row_threads = 256;

// A part of an axis, taken modulo its length n, and what is repeated beyond it.
struct Part {
    int start, count, low, high;
    // Of a position on the axis the index in the part that lies there, or -1: zero.
    __device__ __forceinline__ int index(int position, int n) const {
        int d = position - start;
        if (d < 0) d += n;
        if (d < count) return d;
        if (d < count + high) return d - count;
        if (d >= n - low) return d - n + count;
        return -1;
    }
    // Where the part's index lies on the axis.
    __device__ __forceinline__ int position(int index, int n) const {
        const int p = start + index;
        return p < n ? p : p - n;
    }
};

enum class Way { forward, inverse, filter };

// Lines along an axis whose elements are `stride` apart; `lanes` neighbouring ones to a block.
template <class T>
struct LinePass {
    AxisView<T> axis;
    const Pair<T>* source;
    void* destination;                   // Pair<T>, or T if `real`; may be the source
    const void* transfer;                // filter: laid out as the source
    int64_t stride;
    int width;                           // lines side by side, of which column % pitch >= bins are none
    int pitch, bins;
    Part layers;                         // blockIdx.y: of `layer_count` layers `layer_stride` apart
    int layer_count;
    int64_t layer_stride;
    Part from;                           // forward, filter: elements that are not zero
    int to_start, to_stop;               // inverse, filter: elements that are wanted
    T scale;                             // forward
    bool real, conjugated;
};

template <class T, Way way>
__global__ void __launch_bounds__(most_line_threads, sizeof(T) == 4 ? 2 : 1) line_kernel(const LinePass<T> pass) {
    DYN_SHARED(Pair<T>, shared);
    const AxisView<T>& axis = pass.axis;
    const int lanes = int(blockDim.x), lane = int(threadIdx.x), n = axis.n;
    const Member me{int(threadIdx.y), int(blockDim.y)};
    const int column = int(blockIdx.x) * lanes + lane;
    const bool active = column < pass.width && column % pass.pitch < pass.bins;
    const int64_t origin = column + pass.layers.position(int(blockIdx.y), pass.layer_count) * pass.layer_stride;
    auto place = [=](int i) MEDECONV_BODY -> Pair<T>& { return shared[i * lanes + lane]; };
    auto spare = [=](int i) MEDECONV_BODY -> Pair<T>& { return shared[(n + i) * lanes + lane]; };
    auto held = [=](int i) MEDECONV_BODY { return loaded(place(i)); };
    auto hold = [=](int i, Complex<T> v) MEDECONV_BODY { place(i) = stored(v); };

    if constexpr (way != Way::inverse) {
        forward_first(axis, me,
                      [&](int i) MEDECONV_BODY {
                          const int at = pass.from.index(i, n);
                          if (!active || at < 0) return Complex<T>{T(0), T(0)};
                          return loaded(pass.source[origin + pass.from.position(at, n) * pass.stride]);
                      },
                      hold);
        __syncthreads();
        forward_middle(axis, me, place, spare);
    }
    if constexpr (way == Way::forward)
        forward_last(axis, me, held, [&](int slot, Complex<T> v) MEDECONV_BODY {
            if (!active) return;
            const int64_t at = origin + slot * pass.stride;
            if (pass.real) static_cast<T*>(pass.destination)[at] = v.re * pass.scale;
            else static_cast<Pair<T>*>(pass.destination)[at] = {v.re * pass.scale, v.im * pass.scale};
        });
    if constexpr (way == Way::filter)
        turn_last(axis, me, place, [&](int slot, Complex<T> v) MEDECONV_BODY {
            if (!active) return v;
            const int64_t at = origin + slot * pass.stride;
            if (pass.real) {
                const T h = static_cast<const T*>(pass.transfer)[at];
                return Complex<T>{v.re * h, v.im * h};
            }
            Complex<T> h = loaded(static_cast<const Pair<T>*>(pass.transfer)[at]);
            if (pass.conjugated) h.im = -h.im;
            return product<false>(v, h);
        });
    if constexpr (way == Way::inverse)
        inverse_last(axis, me,
                     [&](int slot) MEDECONV_BODY {
                         if (!active) return Complex<T>{T(0), T(0)};
                         return loaded(pass.source[origin + slot * pass.stride]);
                     },
                     hold);
    if constexpr (way != Way::forward) {
        __syncthreads();
        inverse_middle(axis, me, place, spare);
        inverse_first(axis, me, held, [&](int i, Complex<T> v) MEDECONV_BODY {
            if (active && i >= pass.to_start && i < pass.to_stop)
                static_cast<Pair<T>*>(pass.destination)[origin + i * pass.stride] = stored(v);
        });
    }
}

// Pairs of rows, one as the real part and one as the imaginary part of a line; threadIdx.y: pairs to a block.
template <class T>
struct RowPass {
    AxisView<T> axis;
    Pair<T>* spectrum;
    int pitch, bins;
    const T* input;                      // forward only
    Part x, y, z;                        // the box that the real arrays cover; x: continued
    int y_length, z_length;
    bool forward;                        // the result goes to the spectrum
    Formula formula;
    Operands<T> operands;                // sums: totals, then a slot per block
};

template <class T>
struct Row {
    bool exists;
    int64_t values;                      // its first one in the real arrays
    Pair<T>* bins;
};
template <class T>
__device__ __forceinline__ Row<T> row_of(const RowPass<T>& pass, int number) {
    const int z = number / pass.y.count, y = number - z * pass.y.count;
    const bool exists = z < pass.z.count;
    const int64_t line = int64_t(pass.z.position(exists ? z : 0, pass.z_length)) * pass.y_length + pass.y.position(y, pass.y_length);
    return {exists, int64_t(number) * pass.x.count, pass.spectrum + line * pass.pitch};
}

// plain: `formula` works on the registers between the last inverse and the first forward stage. Else the pass's formula, with
// sums, every operand and the continuation, has a pass of its own over shared memory.
template <class T, bool inverse, bool plain, Formula formula = Formula::copy>
__global__ void __launch_bounds__(most_row_threads, 1) row_kernel(const RowPass<T> pass) {
    DYN_SHARED(Pair<T>, shared);
    const AxisView<T>& axis = pass.axis;
    const int n = axis.n;
    const Member me{int(threadIdx.x), int(blockDim.x)};
    const int pair = int(blockIdx.x * blockDim.y + threadIdx.y);
    const Row<T> a = row_of(pass, 2 * pair), b = row_of(pass, 2 * pair + 1);
    const int line_length = spread<T>(n) * (axis.spare ? 2 : 1);
    Pair<T>* const line = shared + int(threadIdx.y) * line_length;
    auto place = [=](int i) MEDECONV_BODY -> Pair<T>& { return line[spread<T>(i)]; };
    auto spare = [=](int i) MEDECONV_BODY -> Pair<T>& { return line[spread<T>(n) + spread<T>(i)]; };
    auto held = [=](int i) MEDECONV_BODY { return loaded(place(i)); };
    auto hold = [=](int i, Complex<T> v) MEDECONV_BODY { place(i) = stored(v); };

    if constexpr (inverse) {
        // Frequencies f, f + n/R, … are neighbours in slot order. Of the pair A + iB the frequency -f is conj A + i conj B.
        const int last = axis.stages - 1;
        with_radix(axis.radix[last], [&](auto r) MEDECONV_BODY {
            constexpr int R = decltype(r)::value;
            const int apart = axis.butterflies[last];
            for (int f = me.thread; f < apart; f += me.team) {
                Complex<T> v[R];
                gather<R>(v, f, apart, [&](int frequency) MEDECONV_BODY {
                    const bool mirrored = 2 * frequency > n;
                    const int bin = mirrored ? n - frequency : frequency;
                    Complex<T> p{T(0), T(0)}, q{T(0), T(0)};
                    if (a.exists) p = loaded(a.bins[bin]);
                    if (b.exists) q = loaded(b.bins[bin]);
                    return mirrored ? Complex<T>{p.re + q.im, q.re - p.im} : Complex<T>{p.re - q.im, p.im + q.re};
                });
                Dft<T, R, -1>::run(v);
                scatter<R>(v, axis.slot[f], 1, hold);
            }
        });
        __syncthreads();
        inverse_middle(axis, me, place, spare);
    }

    const auto number = numbers_of(pass.operands);
    T sums[sums_of_a_sweep] = {};
    auto value_of = [&](const Row<T>& row, int i, T c) MEDECONV_BODY {   // at index i of the box
        if (!row.exists) return T(0);
        const int64_t at = row.values + i;
        if constexpr (!inverse) c = pass.input[at];
        if constexpr (plain) return finish_value<formula, true>(pass.operands, number, c, at, sums);
        else return finish_value(inverse ? pass.formula : Formula::copy, pass.operands, number, c, at, sums);
    };
    auto result_of = [&](int position, Complex<T> c) MEDECONV_BODY {
        int i = position - pass.x.start;
        if (i < 0) i += n;
        if (i >= pass.x.count) return Complex<T>{T(0), T(0)};
        return Complex<T>{value_of(a, i, c.re), value_of(b, i, c.im)};
    };

    if constexpr (plain) {
        with_radix(axis.radix[0], [&](auto r) MEDECONV_BODY {
            constexpr int R = decltype(r)::value;
            const int part = axis.part[0];
            for (int k = me.thread; k < part; k += me.team) {
                Complex<T> v[R] = {};
                if constexpr (inverse) {
                    gather<R>(v, k, part, held);
                    twiddle<-1, R>(axis, 0, k, v);
                    Dft<T, R, -1>::run(v);
                }
                unroll<R>([&](auto j) MEDECONV_BODY { v[j] = result_of(k + int(j) * part, v[j]); });
                if (!pass.forward) continue;
                Dft<T, R, 1>::run(v);
                twiddle<1, R>(axis, 0, k, v);
                scatter<R>(v, k, part, hold);
            }
        });
    } else {
        if constexpr (inverse) {
            inverse_first(axis, me, held, hold);
            __syncthreads();
        }
        for (int i = me.thread; i < n; i += me.team) {
            Complex<T> c{T(0), T(0)};
            if constexpr (inverse) c = held(i);
            hold(i, result_of(i, c));
        }
        if (pass.forward) {
            __syncthreads();
            if (pass.x.low + pass.x.high > 0) {
                for (int i = me.thread; i < pass.x.low + pass.x.high; i += me.team) {
                    const bool behind = i < pass.x.high;
                    place(behind ? pass.x.count + i : n - 1 - (i - pass.x.high)) = place(behind ? i : pass.x.count - 1 - (i - pass.x.high));
                }
                __syncthreads();
            }
            forward_first(axis, me, held, hold);
        }
        if (pass.operands.sums) {
            double mine[sums_of_a_sweep];
            for (int k = 0; k < sums_of_a_sweep; ++k) mine[k] = double(sums[k]);
            // Lines may be in use: the sums lie behind them.
            double* const partial = reinterpret_cast<double*>(shared + int(blockDim.y) * line_length);
            sum_of_block<sums_of_a_sweep>(mine, partial, pass.operands.sums + (1 + int64_t(blockIdx.x)) * sums_of_a_sweep);
        }
    }
    if (!pass.forward) return;

    __syncthreads();
    forward_middle(axis, me, place, spare);
    forward_last(axis, me, held, hold);
    __syncthreads();
    for (int f = me.thread; f < pass.bins; f += me.team) {
        const Complex<T> p = held(axis.slot[f]), q = held(axis.slot[f ? n - f : 0]);
        if (a.exists) a.bins[f] = {p.re + q.re, p.im - q.im};
        if (b.exists) b.bins[f] = {p.im + q.im, q.re - p.re};
    }
}

// Totals of `count` slots of `width` sums each, in a fixed order; one block per sum.
__global__ void total_kernel(const double* slots, int64_t count, int width, double* totals) {
    DYN_SHARED(double, shared);
    double mine = 0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) mine += slots[i * width + blockIdx.x];
    sum_of_block<1>(&mine, shared, totals + blockIdx.x);
}

template <class T>
struct FilterPass {
    const Pair<T>*psf, *regularizer;
    Pair<T>* made;
    int64_t size;
    int pitch, bins;
    double balance, scale;               // stored transfers are true ones times `scale`
};
template <class T>
__global__ void wiener_kernel(FilterPass<T> pass) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= pass.size || int(at % pass.pitch) >= pass.bins) return;
    const double h_re = pass.psf[at].re / pass.scale, h_im = pass.psf[at].im / pass.scale;
    const double r_re = pass.regularizer[at].re / pass.scale, r_im = pass.regularizer[at].im / pass.scale;
    const double divisor = h_re * h_re + h_im * h_im + pass.balance * (r_re * r_re + r_im * r_im);
    const double factor = divisor > 0 ? pass.scale / divisor : 0;
    pass.made[at] = {T(h_re * factor), T(-h_im * factor)};
}

constexpr int balances_at_once = 4;
template <class T>
struct ValidationPass {
    const Pair<T>*image, *psf, *regularizer;
    int64_t size;
    int pitch, bins, n;
    double balance[balances_at_once];
    double power_scale;
    double* slots;                       // one per block: g²|Y|² and g of each balance
};
template <class T>
__global__ void __launch_bounds__(256) validation_kernel(const ValidationPass<T> pass) {
    DYN_SHARED(double, shared);
    double mine[2 * balances_at_once] = {};
    for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < pass.size; at += int64_t(gridDim.x) * blockDim.x) {
        const int bin = int(at % pass.pitch);
        if (bin >= pass.bins) continue;
        const double weight = bin == 0 || 2 * bin == pass.n ? 1 : 2;   // a bin stands for its negative too
        const Complex<T> y = loaded(pass.image[at]), h = loaded(pass.psf[at]), r = loaded(pass.regularizer[at]);
        const double power = (double(y.re) * y.re + double(y.im) * y.im) * pass.power_scale;
        const double h2 = double(h.re) * h.re + double(h.im) * h.im, r2 = double(r.re) * r.re + double(r.im) * r.im;
        unroll<balances_at_once>([&](auto b) MEDECONV_BODY {
            const double divisor = h2 + pass.balance[b] * r2, g = divisor > 0 ? pass.balance[b] * r2 / divisor : 0;
            mine[2 * b] += weight * g * g * power;
            mine[2 * b + 1] += weight * g;
        });
    }
    sum_of_block<2 * balances_at_once>(mine, shared, pass.slots + int64_t(blockIdx.x) * 2 * balances_at_once);
}

}  // namespace
}  // namespace medeconv::cuda
