// Transforms of lines in shared memory, a team of threads to each: the stages that the kernels are made of.
//
// A stage takes the elements of its butterflies through `get(index)` and hands them to `put(index, value)`; both may be shared
// memory, or one of them global memory. A butterfly reads and writes the same indices, so that a stage works in place and one
// barrier between stages is enough. Butterflies: ../cpp/shared/butterflies.hpp.
#pragma once
#include "gpu.hpp"

#include "axis.hpp"
#include "shared/butterflies.hpp"

namespace medeconv::cuda {
namespace {

using namespace medeconv::MEDECONV_ISA_NS;

template <class T>
__device__ __forceinline__ Complex<T> loaded(const Pair<T>& p) {
    const Pair<T> q = p;
    return {q.re, q.im};
}
template <class T>
__device__ __forceinline__ Pair<T> stored(Complex<T> c) {
    return {c.re, c.im};
}

// Where element i of a line of its own lies: elements a power of two apart fall into different banks.
template <class T>
__host__ __device__ __forceinline__ int spread(int i) {
    return sizeof(T) == 4 ? i + (i >> 4) + (i >> 8) : i + (i >> 3) + (i >> 6);
}

// u / part, for both below 2^15, part above 1.
__device__ __forceinline__ int quotient(int u, unsigned reciprocal) {
    return int((uint64_t(unsigned(u)) * reciprocal) >> 32);
}

template <class F>
__device__ __forceinline__ void with_radix(int radix, F body) {
    switch (radix) {
        case 8: return body(Index<8>{});
        case 7: return body(Index<7>{});
        case 5: return body(Index<5>{});
        case 4: return body(Index<4>{});
        case 3: return body(Index<3>{});
        case 2: return body(Index<2>{});
        default: return body(Index<1>{});
    }
}

// Multiplies element p of butterfly k of a stage by exp(-S 2πi kp·step/n).
template <int S, int R, class T>
__device__ __forceinline__ void twiddle(const AxisView<T>& axis, int stage, int k, Complex<T>* x) {
    const Pair<T>* const table = axis.twiddles + axis.first_twiddle[stage] + k;
    unroll<R - 1>([&](auto i) MEDECONV_BODY {
        constexpr int p = decltype(i)::value + 1;
        const Complex<T> w = loaded(table[(p - 1) * axis.part[stage]]);
        x[p] = rotate<S>(x[p], w.re, w.im);
    });
}

template <int R, class T, class Get>
__device__ __forceinline__ void gather(Complex<T>* x, int base, int part, Get get) {
    unroll<R>([&](auto j) MEDECONV_BODY { x[j] = get(base + int(j) * part); });
}
template <int R, class T, class Put>
__device__ __forceinline__ void scatter(const Complex<T>* x, int base, int part, Put put) {
    unroll<R>([&](auto j) MEDECONV_BODY { put(base + int(j) * part, x[j]); });
}

// The member `thread` of a team of `team` threads that share a line.
struct Member {
    int thread, team;
};

// First stage forward: its butterflies are k = 0 … n/R - 1.
template <class T, class Get, class Put>
__device__ __forceinline__ void forward_first(const AxisView<T>& axis, Member me, Get get, Put put) {
    with_radix(axis.radix[0], [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        const int part = axis.part[0];
        for (int k = me.thread; k < part; k += me.team) {
            Complex<T> x[R];
            gather<R>(x, k, part, get);
            Dft<T, R, 1>::run(x);
            twiddle<1, R>(axis, 0, k, x);
            scatter<R>(x, k, part, put);
        }
    });
}
// A stage of any radix: `spare` gets it value by value, and is copied back.
template <int S, class T, class Place, class Spare>
__device__ __forceinline__ void written_out(const AxisView<T>& axis, int stage, Member me, Place place, Spare spare) {
    const int n = axis.n, radix = axis.radix[stage], part = axis.part[stage], step = axis.step[stage];
    const int root = axis.butterflies[stage];  // exp(2πi/radix) is number n/radix
    for (int i = me.thread; i < n; i += me.team) {
        const int at = part > 1 ? quotient(i, axis.reciprocal[stage]) : i, k = i - at * part, block = at / radix, p = at - block * radix;
        // Forward: the sum over j of x[j] exp(-2πi jp/radix), turned by kp·step/n; inverse: element j is turned by kj·step/n first.
        const int turn = (S > 0 ? p * root : p * root + k * step) % n;
        Complex<T> sum{T(0), T(0)};
        for (int j = 0, number = 0; j < radix; ++j) {
            const Complex<T> w = loaded(axis.roots[number]), x = rotate<S>(loaded(place(block * radix * part + j * part + k)), w.re, w.im);
            sum = sum + x;
            number += turn;
            if (number >= n) number -= n;
        }
        if (S > 0) {
            const Complex<T> w = loaded(axis.roots[k * step * p]);
            sum = rotate<S>(sum, w.re, w.im);
        }
        spare(i) = stored(sum);
    }
    __syncthreads();
    for (int i = me.thread; i < n; i += me.team) place(i) = spare(i);
}

// Stages between the first and the last, in place, each with a barrier behind it.
template <class T, class Place, class Spare>
__device__ __forceinline__ void forward_middle(const AxisView<T>& axis, Member me, Place place, Spare spare) {
    for (int stage = 1; stage < axis.stages - 1; ++stage) {
        if (axis.radix[stage] > largest_butterfly) written_out<1>(axis, stage, me, place, spare);
        else
        with_radix(axis.radix[stage], [&](auto r) MEDECONV_BODY {
            constexpr int R = decltype(r)::value;
            const int part = axis.part[stage];
            for (int u = me.thread; u < axis.butterflies[stage]; u += me.team) {
                const int block = quotient(u, axis.reciprocal[stage]), k = u - block * part, base = block * part * R + k;
                Complex<T> x[R];
                gather<R>(x, base, part, [&](int i) MEDECONV_BODY { return loaded(place(i)); });
                Dft<T, R, 1>::run(x);
                twiddle<1, R>(axis, stage, k, x);
                scatter<R>(x, base, part, [&](int i, Complex<T> v) MEDECONV_BODY { place(i) = stored(v); });
            }
        });
        __syncthreads();
    }
}
// Last stage: neighbouring slots.
template <class T, class Get, class Put>
__device__ __forceinline__ void forward_last(const AxisView<T>& axis, Member me, Get get, Put put) {
    const int last = axis.stages - 1;
    with_radix(axis.radix[last], [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        for (int u = me.thread; u < axis.butterflies[last]; u += me.team) {
            Complex<T> x[R];
            gather<R>(x, u * R, 1, get);
            Dft<T, R, 1>::run(x);
            scatter<R>(x, u * R, 1, put);
        }
    });
}

// The inverse takes the stages in the opposite order.
template <class T, class Get, class Put>
__device__ __forceinline__ void inverse_last(const AxisView<T>& axis, Member me, Get get, Put put) {
    const int last = axis.stages - 1;
    with_radix(axis.radix[last], [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        for (int u = me.thread; u < axis.butterflies[last]; u += me.team) {
            Complex<T> x[R];
            gather<R>(x, u * R, 1, get);
            Dft<T, R, -1>::run(x);
            scatter<R>(x, u * R, 1, put);
        }
    });
}
template <class T, class Place, class Spare>
__device__ __forceinline__ void inverse_middle(const AxisView<T>& axis, Member me, Place place, Spare spare) {
    for (int stage = axis.stages - 2; stage > 0; --stage) {
        if (axis.radix[stage] > largest_butterfly) written_out<-1>(axis, stage, me, place, spare);
        else
        with_radix(axis.radix[stage], [&](auto r) MEDECONV_BODY {
            constexpr int R = decltype(r)::value;
            const int part = axis.part[stage];
            for (int u = me.thread; u < axis.butterflies[stage]; u += me.team) {
                const int block = quotient(u, axis.reciprocal[stage]), k = u - block * part, base = block * part * R + k;
                Complex<T> x[R];
                gather<R>(x, base, part, [&](int i) MEDECONV_BODY { return loaded(place(i)); });
                twiddle<-1, R>(axis, stage, k, x);
                Dft<T, R, -1>::run(x);
                scatter<R>(x, base, part, [&](int i, Complex<T> v) MEDECONV_BODY { place(i) = stored(v); });
            }
        });
        __syncthreads();
    }
}
template <class T, class Get, class Put>
__device__ __forceinline__ void inverse_first(const AxisView<T>& axis, Member me, Get get, Put put) {
    with_radix(axis.radix[0], [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        const int part = axis.part[0];
        for (int k = me.thread; k < part; k += me.team) {
            Complex<T> x[R];
            gather<R>(x, k, part, get);
            twiddle<-1, R>(axis, 0, k, x);
            Dft<T, R, -1>::run(x);
            scatter<R>(x, k, part, put);
        }
    });
}
// Last stage forward, `change(slot, value)` of what it made, and its inverse: in registers.
template <class T, class Place, class Change>
__device__ __forceinline__ void turn_last(const AxisView<T>& axis, Member me, Place place, Change change) {
    const int last = axis.stages - 1;
    with_radix(axis.radix[last], [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        for (int u = me.thread; u < axis.butterflies[last]; u += me.team) {
            Complex<T> x[R];
            gather<R>(x, u * R, 1, [&](int i) MEDECONV_BODY { return loaded(place(i)); });
            Dft<T, R, 1>::run(x);
            unroll<R>([&](auto j) MEDECONV_BODY { x[j] = change(u * R + int(j), x[j]); });
            Dft<T, R, -1>::run(x);
            scatter<R>(x, u * R, 1, [&](int i, Complex<T> v) MEDECONV_BODY { place(i) = stored(v); });
        }
    });
}

// What each thread of a block has of `width` sums, added in a fixed order; thread 0 writes them to `to`.
// `shared`: width doubles per thread; a barrier stands between its earlier use and this one.
template <int width>
__device__ __forceinline__ void sum_of_block(const double* mine, double* shared, double* to) {
    const int thread = threadIdx.x + blockDim.x * threadIdx.y, threads = blockDim.x * blockDim.y;
    __syncthreads();
    for (int k = 0; k < width; ++k) shared[thread * width + k] = mine[k];
    __syncthreads();
    for (int left = threads; left > 1;) {
        const int half = (left + 1) / 2;
        if (thread + half < left)
            for (int k = 0; k < width; ++k) shared[thread * width + k] += shared[(thread + half) * width + k];
        __syncthreads();
        left = half;
    }
    if (thread == 0)
        for (int k = 0; k < width; ++k) to[k] = shared[k];
}

}  // namespace
}  // namespace medeconv::cuda
