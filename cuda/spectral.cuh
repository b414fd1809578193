// Kernels of the spectral engine; what they are for: spectral.hpp.
#pragma once
#include <type_traits>

#include "formula.cuh"
#include "lines.cuh"

namespace medeconv::cuda {
namespace {

// With a number of blocks per multiprocessor that the compiler must allow it spills no registers for more of them.
constexpr int most_line_threads = 512;
// Threads of a multiprocessor that a row kernel's registers must be enough for: four blocks of 128, or three where the axis is known
// as the kernel runs only, or has a radix above 8, which take more of them.
template <class T, class A>
constexpr int row_threads_at_once = sizeof(T) > 4 ? most_row_threads : 384;
template <class T, int... radices>
constexpr int row_threads_at_once<T, FixedAxis<T, radices...>> = ((radices <= 8) && ...) ? 512 : 384;

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
template <class T, class A = AxisView<T>>
struct LinePass {
    A axis;
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
template <class B, class T, class A>
LinePass<T, B> with_axis(const LinePass<T, A>& p, B axis) {
    return {axis, p.source, p.destination, p.transfer, p.stride, p.width, p.pitch, p.bins, p.layers, p.layer_count, p.layer_stride,
            p.from, p.to_start, p.to_stop, p.scale, p.real, p.conjugated};
}

// Neighbouring lines of a block: as many as are 128 bytes wide, fewer where that leaves room for one block only, but at least a
// sector of device memory.
template <class T>
constexpr int lanes_of(int64_t n, size_t room) {
    int lanes = int(128 / sizeof(Pair<T>));
    while (size_t(lanes * n) * sizeof(Pair<T>) > room && size_t(lanes) * sizeof(Pair<T>) > 32) lanes /= 2;
    return lanes;
}
constexpr size_t room_of_lines = 72 << 10;

template <class T, Way way, class A>
__global__ void __launch_bounds__(most_line_threads, sizeof(T) == 4 ? 2 : 1) line_kernel(const LinePass<T, A> pass) {
    DYN_SHARED(Pair<T>, shared);
    const A& axis = pass.axis;
    const int n = axis.n, lane = int(threadIdx.x);
    int lanes = int(blockDim.x), team = int(blockDim.y);
    if constexpr (is_fixed<A>) {         // the launcher starts no others
        lanes = lanes_of<T>(A::n, room_of_lines);
        team = min(A::team, most_line_threads / lanes);
    }
    const Member me{int(threadIdx.y), team};
    const int column = int(blockIdx.x) * lanes + lane;
    const bool active = column < pass.width && column % pass.pitch < pass.bins;
    const int64_t origin = column + pass.layers.position(int(blockIdx.y), pass.layer_count) * pass.layer_stride;
    auto place = [=](int base, int jump) MEDECONV_BODY -> Pair<T>& { return shared[base * lanes + lane + jump * lanes]; };
    auto spare = [=](int i) MEDECONV_BODY -> Pair<T>& { return shared[(n + i) * lanes + lane]; };
    auto held = [=](int base, int jump) MEDECONV_BODY { return loaded(place(base, jump)); };
    auto hold = [=](int base, int jump, Complex<T> v) MEDECONV_BODY { place(base, jump) = stored(v); };

    if constexpr (way != Way::inverse) {
        const bool whole = pass.from.start == 0 && pass.from.count == n;
        forward_first_of<T>(axis, me,
                            [&](auto r, int k, int part, Complex<T>* x) MEDECONV_BODY {
                                constexpr int R = decltype(r)::value;
                                const Pair<T>* const source = pass.source + origin;
                                const Complex<T> zero{T(0), T(0)};
                                if (!active)
                                    unroll<R>([&](auto j) MEDECONV_BODY { x[j] = zero; });
                                else if (whole)
                                    unroll<R>([&](auto j) MEDECONV_BODY { x[j] = loaded(source[(k + int(j) * part) * pass.stride]); });
                                else
                                    unroll<R>([&](auto j) MEDECONV_BODY {
                                        const int at = pass.from.index(k + int(j) * part, n);
                                        x[j] = at < 0 ? zero : loaded(source[pass.from.position(at, n) * pass.stride]);
                                    });
                            },
                            hold);
        __syncthreads();
        forward_middle<T>(axis, me, place, spare);
    }
    if constexpr (way == Way::forward)
        forward_last<T>(axis, me, held, [&](int base, int jump, Complex<T> v) MEDECONV_BODY {
            if (!active) return;
            const int64_t at = origin + (base + jump) * pass.stride;
            if (pass.real) static_cast<T*>(pass.destination)[at] = v.re * pass.scale;
            else static_cast<Pair<T>*>(pass.destination)[at] = {v.re * pass.scale, v.im * pass.scale};
        });
    if constexpr (way == Way::filter)
        turn_last<T>(axis, me, place,
                     [&](int slot, auto count, Complex<T>* h) MEDECONV_BODY {
                         constexpr int R = decltype(count)::value;
                         const int64_t at = origin + slot * pass.stride;
                         if (!active) return;
                         if (pass.real)
                             unroll<R>([&](auto j) MEDECONV_BODY { h[j].re = static_cast<const T*>(pass.transfer)[at + int(j) * pass.stride]; });
                         else
                             unroll<R>([&](auto j) MEDECONV_BODY {
                                 h[j] = loaded(static_cast<const Pair<T>*>(pass.transfer)[at + int(j) * pass.stride]);
                             });
                     },
                     [&](auto count, Complex<T>* v, const Complex<T>* h) MEDECONV_BODY {
                         constexpr int R = decltype(count)::value;
                         if (pass.real)
                             unroll<R>([&](auto j) MEDECONV_BODY { v[j] = {v[j].re * h[j].re, v[j].im * h[j].re}; });
                         else if (pass.conjugated)
                             unroll<R>([&](auto j) MEDECONV_BODY { v[j] = product<true>(v[j], h[j]); });
                         else
                             unroll<R>([&](auto j) MEDECONV_BODY { v[j] = product<false>(v[j], h[j]); });
                     });
    if constexpr (way == Way::inverse)
        inverse_last<T>(axis, me,
                        [&](int base, int jump) MEDECONV_BODY {
                            if (!active) return Complex<T>{T(0), T(0)};
                            return loaded(pass.source[origin + (base + jump) * pass.stride]);
                        },
                        hold);
    if constexpr (way != Way::forward) {
        __syncthreads();
        inverse_middle<T>(axis, me, place, spare);
        inverse_first<T>(axis, me, held, [&](int base, int jump, Complex<T> v) MEDECONV_BODY {
            const int i = base + jump;
            if (active && i >= pass.to_start && i < pass.to_stop)
                static_cast<Pair<T>*>(pass.destination)[origin + i * pass.stride] = stored(v);
        });
    }
}

// Pairs of rows, one as the real part and one as the imaginary part of a line; threadIdx.y: pairs to a block.
template <class T, class A = AxisView<T>>
struct RowPass {
    A axis;
    Pair<T>* spectrum;
    int pitch, bins;
    const T* input;                      // forward only
    Part x, y, z;                        // the box that the real arrays cover; x: continued
    int y_length, z_length;
    bool forward;                        // the result goes to the spectrum
    Operands<T> operands;                // sums: totals, then a slot per block
};
template <class B, class T, class A>
RowPass<T, B> with_axis(const RowPass<T, A>& p, B axis) {
    return {axis, p.spectrum, p.pitch, p.bins, p.input, p.x, p.y, p.z, p.y_length, p.z_length, p.forward, p.operands};
}

template <class T>
struct Row {
    bool exists;
    int64_t values;                      // its first one in the real arrays
    Pair<T>* bins;
};
template <class Pass>
__device__ __forceinline__ auto row_of(const Pass& pass, int number) {
    const int z = number / pass.y.count, y = number - z * pass.y.count;
    const bool exists = z < pass.z.count;
    const int64_t line = int64_t(pass.z.position(exists ? z : 0, pass.z_length)) * pass.y_length + pass.y.position(y, pass.y_length);
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(pass.input)>>;
    return Row<T>{exists, int64_t(number) * pass.x.count, pass.spectrum + line * pass.pitch};
}

// plain: the formula works on the registers between the last inverse and the first forward stage. Else, with sums, every operand
// and the continuation, it has a pass of its own over shared memory.
template <class T, bool inverse, bool plain, Formula formula, class A>
__global__ void __launch_bounds__(row_threads_at_once<T, A>, 1) row_kernel(const RowPass<T, A> pass) {
    DYN_SHARED(Pair<T>, shared);
    const A& axis = pass.axis;
    const int n = axis.n;
    int team = int(blockDim.x);
    if constexpr (is_fixed<A>) team = A::team;   // the launcher starts no others
    const Member me{int(threadIdx.x), team};
    const int pair = int(blockIdx.x * blockDim.y + threadIdx.y);
    const Row<T> a = row_of(pass, 2 * pair), b = row_of(pass, 2 * pair + 1);
    const int line_length = spread<T>(n) * (axis.spare ? 2 : 1);
    Pair<T>* const line = shared + int(threadIdx.y) * line_length;
    auto place = [=](int base, int jump) MEDECONV_BODY -> Pair<T>& { return line[spread(axis, base, jump)]; };
    auto spare = [=](int i) MEDECONV_BODY -> Pair<T>& { return line[spread<T>(n) + spread<T>(i)]; };
    auto held = [=](int base, int jump = 0) MEDECONV_BODY { return loaded(place(base, jump)); };
    auto hold = [=](int base, int jump, Complex<T> v) MEDECONV_BODY { place(base, jump) = stored(v); };

    // What each value needs from device memory is asked for early, for all of a thread's values at once.
    const Reads<T> reads = inverse ? reads_of(formula, pass.operands) : Reads<T>{pass.input, nullptr};
    auto index_of = [&](int position) MEDECONV_BODY {   // in the box, if below its length as numbers without a sign
        const int i = position - pass.x.start;
        if constexpr (is_fixed<A>) return i;            // the launcher takes those boxes only that do not go on at 0
        return i < 0 ? i + n : i;
    };
    auto ask = [&](const T* from, const Row<T>& row, int position) MEDECONV_BODY {
        const int i = index_of(position);
        const T* const values = from + row.values;
        return row.exists && position < n && unsigned(i) < unsigned(pass.x.count) ? values[i] : T(0);
    };
    T first[2][largest_butterfly<T>] = {};
    const auto stage = first_stage(axis);
    const auto part = part_of(axis, stage);
    const bool once = part <= me.team;   // each thread has one butterfly of the stage that ends in values
    auto ask_row = [&](auto r, const T* from, const Row<T>& row, int k, T* to) MEDECONV_BODY {
        if (from) unroll<decltype(r)::value>([&](auto j) MEDECONV_BODY { to[j] = ask(from, row, k + int(j) * part); });
    };
    auto ask_first = [&](auto r, int k) MEDECONV_BODY {
        ask_row(r, reads.first, a, k, first[0]);
        ask_row(r, reads.first, b, k, first[1]);
    };
    if constexpr (plain)
        if (once && me.thread < part) with_radix(axis, stage, [&](auto r) MEDECONV_BODY { ask_first(r, me.thread); });

    if constexpr (inverse) {
        // Frequencies f, f + n/R, … are neighbours in slot order. Of the pair A + iB the frequency -f is conj A + i conj B.
        const auto last = last_stage(axis);
        with_radix(axis, last, [&](auto r) MEDECONV_BODY {
            constexpr int R = decltype(r)::value;
            const int apart = butterflies_of(axis, last);
            for (int f = me.thread; f < apart; f += me.team) {
                Complex<T> v[R];
                unroll<R>([&](auto i) MEDECONV_BODY {
                    constexpr int j = decltype(i)::value;
                    const int frequency = f + j * apart;
                    const bool mirrored = 2 * j > R ? true : 2 * j == R ? f > 0 : 2 * j + 2 <= R ? false : 2 * frequency > n;
                    const int bin = mirrored ? n - frequency : frequency;
                    Complex<T> p{T(0), T(0)}, q{T(0), T(0)};
                    if (a.exists) p = loaded(a.bins[bin]);
                    if (b.exists) q = loaded(b.bins[bin]);
                    v[j] = mirrored ? Complex<T>{p.re + q.im, q.re - p.im} : Complex<T>{p.re - q.im, p.im + q.re};
                });
                Dft<T, R, -1>::run(v);
                scatter<R>(v, slot_of(axis, f), 1, hold);
            }
        });
        __syncthreads();
        inverse_middle<T>(axis, me, place, spare);
    }

    const auto number = numbers_of(pass.operands);
    T sums[sums_of_a_sweep] = {};
    auto value_of = [&](const Row<T>& row, int position, T c, T first, T second) MEDECONV_BODY {
        const int i = index_of(position);
        const bool wanted = row.exists && unsigned(i) < unsigned(pass.x.count);
        if constexpr (!inverse) c = first;
        // Without a branch; nothing but `first` and `second` is read.
        const T next = scalar::formula_step<formula, true>(
            pass.operands, c, number, [=](const T* q) MEDECONV_BODY { return q == reads.first ? first : second; },
            [&](T* q, T v) MEDECONV_BODY {
                T* const values = q + row.values;
                if (wanted) values[i] = v;
            },
            sums);
        return wanted ? next : T(0);
    };

    if constexpr (plain) {
        with_radix(axis, stage, [&](auto r) MEDECONV_BODY {
            constexpr int R = decltype(r)::value;
            for (int k = me.thread; k < part; k += me.team) {
                constexpr bool together = R <= 8;  // of both rows; more are more registers than there are
                Complex<T> v[R] = {};
                T second[together ? 2 : 1][R] = {};
                if (!once) ask_first(r, k);
                if constexpr (together) ask_row(r, reads.second, a, k, second[0]), ask_row(r, reads.second, b, k, second[1]);
                if constexpr (inverse) {
                    gather<R>(v, k, part, held);
                    twiddle<-1, R>(axis, stage, k, v);
                    Dft<T, R, -1>::run(v);
                }
                auto finish_a = [&](auto j) MEDECONV_BODY { v[j].re = value_of(a, k + int(j) * part, v[j].re, first[0][j], second[0][j]); };
                auto finish_b = [&](auto j) MEDECONV_BODY {
                    v[j].im = value_of(b, k + int(j) * part, v[j].im, first[1][j], second[together][j]);
                };
                if constexpr (together) {
                    unroll<R>([&](auto j) MEDECONV_BODY { finish_a(j), finish_b(j); });
                } else {
                    ask_row(r, reads.second, a, k, second[0]);
                    unroll<R>(finish_a);
                    ask_row(r, reads.second, b, k, second[0]);
                    unroll<R>(finish_b);
                }
                if (!pass.forward) continue;
                Dft<T, R, 1>::run(v);
                twiddle<1, R>(axis, stage, k, v);
                scatter<R>(v, k, part, hold);
            }
        });
    } else {
        if constexpr (inverse) {
            inverse_first<T>(axis, me, held, hold);
            __syncthreads();
        }
        constexpr int some = 4;
        for (int i = me.thread; i < n; i += some * me.team) {
            // Both rows: all that is read of either is asked for first.
            auto there = [&](const Row<T>& row) MEDECONV_BODY {
                return [&](int k) MEDECONV_BODY {
                    const int position = i + k * me.team;
                    return row.exists && position < n && unsigned(index_of(position)) < unsigned(pass.x.count);
                };
            };
            auto at = [&](const Row<T>& row) MEDECONV_BODY {
                return [&](int k) MEDECONV_BODY { return row.values + index_of(i + k * me.team); };
            };
            Asked<formula, false, some, T> asked_a{}, asked_b{};
            T values_a[some], values_b[some];
            asked_a.ask(pass.operands, there(a), at(a));
            asked_b.ask(pass.operands, there(b), at(b));
            unroll<some>([&](auto k) MEDECONV_BODY {
                const int position = i + int(k) * me.team;
                if constexpr (inverse) {
                    const Complex<T> c = position < n ? held(position) : Complex<T>{T(0), T(0)};
                    values_a[k] = c.re, values_b[k] = c.im;
                } else {
                    values_a[k] = ask(pass.input, a, position), values_b[k] = ask(pass.input, b, position);
                }
            });
            asked_a.finish(pass.operands, number, values_a, there(a), at(a), sums);
            asked_b.finish(pass.operands, number, values_b, there(b), at(b), sums);
            unroll<some>([&](auto k) MEDECONV_BODY {
                const int position = i + int(k) * me.team;
                if (position >= n) return;
                hold(position, 0, Complex<T>{there(a)(k) ? values_a[k] : T(0), there(b)(k) ? values_b[k] : T(0)});
            });
        }
        if (pass.forward) {
            __syncthreads();
            if (pass.x.low + pass.x.high > 0) {
                for (int i = me.thread; i < pass.x.low + pass.x.high; i += me.team) {
                    const bool behind = i < pass.x.high;
                    place(behind ? pass.x.count + i : n - 1 - (i - pass.x.high), 0) =
                        place(behind ? i : pass.x.count - 1 - (i - pass.x.high), 0);
                }
                __syncthreads();
            }
            forward_first<T>(axis, me, held, hold);
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
    forward_middle<T>(axis, me, place, spare);
    forward_last<T>(axis, me, held, hold);
    __syncthreads();
    for (int f = me.thread; f < pass.bins; f += me.team) {
        const Complex<T> p = held(slot_of(axis, f)), q = held(slot_of(axis, f ? n - f : 0));
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
