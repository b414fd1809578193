// Transforms of lines in shared memory, a team of threads to each: the stages that the kernels are made of.
//
// A stage takes the elements of its butterflies through `get(base, jump)` and hands them to `put(base, jump, value)`, of the index
// base + jump; both may be shared memory, or one of them global memory. A butterfly reads and writes the same indices, so that a
// stage works in place and one barrier between stages is enough. Butterflies: ../cpp/shared/butterflies.hpp.
//
// The axis is an AxisView (or a PowerOfTwo), known as the kernel runs, or, for the commonest lengths, a FixedAxis, with which every
// stage, distance and place in shared memory is a constant: a third of the instructions are gone, and nothing else differs.
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

constexpr int most_row_threads = 256;    // that share a row

// Of a length with these radices, the same as factorise() gives.
template <class T, int... radices>
struct FixedAxis {
    static constexpr int n = (radices * ...), stages = int(sizeof...(radices));
    static constexpr bool spare = false;
    const Pair<T>* twiddles;

    static constexpr int radix_of(int stage) {
        constexpr int all[] = {radices...};
        return all[stage];
    }
    static constexpr int part_of(int stage) {
        int part = n;
        for (int s = 0; s <= stage; ++s) part /= radix_of(s);
        return part;
    }
    static constexpr int first_twiddle_of(int stage) {
        int count = 0;
        for (int s = 0; s < stage; ++s) count += part_of(s) * (radix_of(s) - 1);
        return count;
    }
    static constexpr int first_part = part_of(0);
    static constexpr bool power_of_two = (n & (n - 1)) == 0;
    static constexpr int team = team_for(stages, [](int stage) { return n / radix_of(stage); }, most_row_threads);
    static bool is(const AxisView<T>& view) {
        bool same = view.n == n && view.stages == stages;
        for (int s = 0; same && s < stages; ++s) same = view.radix[s] == radix_of(s);
        return same;
    }
};
template <class A>
constexpr bool is_fixed = true;
template <class T>
constexpr bool is_fixed<AxisView<T>> = false;
template <class T>
constexpr bool is_fixed<PowerOfTwo<T>> = false;
template <class A>
constexpr bool has_any_radix = false;
template <class T>
constexpr bool has_any_radix<AxisView<T>> = true;

// What a stage of an axis is made of; of a FixedAxis stages are Index<s>, and the answers are constants as well.
template <class T>
__device__ __forceinline__ int part_of(const AxisView<T>& a, int stage) { return a.part[stage]; }
template <class T>
__device__ __forceinline__ int butterflies_of(const AxisView<T>& a, int stage) { return a.butterflies[stage]; }
template <class T>
__device__ __forceinline__ int first_twiddle_of(const AxisView<T>& a, int stage) { return a.first_twiddle[stage]; }
template <class T>
__device__ __forceinline__ int first_stage(const AxisView<T>&) { return 0; }
template <class T>
__device__ __forceinline__ int last_stage(const AxisView<T>& a) { return a.stages - 1; }
template <class T>
__device__ __forceinline__ int slot_of(const AxisView<T>& a, int frequency) { return a.slot[frequency]; }
template <class T, int... R, int S>
__device__ __forceinline__ Index<FixedAxis<T, R...>::part_of(S)> part_of(const FixedAxis<T, R...>&, Index<S>) { return {}; }
template <class T, int... R, int S>
__device__ __forceinline__ Index<FixedAxis<T, R...>::n / FixedAxis<T, R...>::radix_of(S)> butterflies_of(const FixedAxis<T, R...>&, Index<S>) { return {}; }
template <class T, int... R, int S>
__device__ __forceinline__ Index<FixedAxis<T, R...>::first_twiddle_of(S)> first_twiddle_of(const FixedAxis<T, R...>&, Index<S>) { return {}; }
template <class T, int... R>
__device__ __forceinline__ Index<0> first_stage(const FixedAxis<T, R...>&) { return {}; }
template <class T, int... R>
__device__ __forceinline__ Index<int(sizeof...(R)) - 1> last_stage(const FixedAxis<T, R...>&) { return {}; }
template <class T, int... R>
__device__ __forceinline__ int slot_of(const FixedAxis<T, R...>&, int frequency) {
    unsigned slot = 0, left = unsigned(frequency), m = unsigned(FixedAxis<T, R...>::n);
    ((m /= unsigned(R), slot += left % unsigned(R) * m, left /= unsigned(R)), ...);
    return int(slot);
}

// Where element base + jump of a line of its own lies: elements a power of two apart fall into different banks.
template <class T>
__host__ __device__ __forceinline__ int spread(int i) {
    return sizeof(T) == 4 ? i + (i >> 4) + (i >> 8) : i + (i >> 3) + (i >> 6);
}
template <class T>
__device__ __forceinline__ int spread(const AxisView<T>&, int base, int jump) { return spread<T>(base + jump); }
// Base and jumps of a butterfly are spread one by one: of a power of two they share no carry into the multiples of 16; of others
// one element is left out behind each part of the first stage, where either the base or the jumps are below such a part.
template <class T, int... R>
__device__ __forceinline__ int spread(const FixedAxis<T, R...>&, int base, int jump) {
    static_assert(sizeof(T) == 4);
    using A = FixedAxis<T, R...>;
    constexpr unsigned part = A::power_of_two ? 16 : A::first_part;
    return int(unsigned(base) + unsigned(base) / part) + int(unsigned(jump) + unsigned(jump) / part);
}

// u / part, for both below 2^15, part above 1.
__device__ __forceinline__ int quotient(int u, unsigned reciprocal) {
    return int((uint64_t(unsigned(u)) * reciprocal) >> 32);
}
template <class T>
__device__ __forceinline__ int quotient(const AxisView<T>& a, int stage, int u) { return quotient(u, a.reciprocal[stage]); }
template <class T, int... R, int S>
__device__ __forceinline__ int quotient(const FixedAxis<T, R...>&, Index<S>, int u) {
    return int(unsigned(u) / unsigned(FixedAxis<T, R...>::part_of(S)));
}

template <class T, class F>
__device__ __forceinline__ void with_radix(const AxisView<T>& axis, int stage, F body) {
    if constexpr (largest_butterfly<T> == 10) {
        if (axis.radix[stage] == 10) return body(Index<10>{});
        if (axis.radix[stage] == 9) return body(Index<9>{});
    }
    switch (axis.radix[stage]) {
        case 8: return body(Index<8>{});
        case 7: return body(Index<7>{});
        case 6: return body(Index<6>{});
        case 5: return body(Index<5>{});
        case 4: return body(Index<4>{});
        case 3: return body(Index<3>{});
        case 2: return body(Index<2>{});
        default: return body(Index<1>{});
    }
}
template <class T, class F>
__device__ __forceinline__ void with_radix(const PowerOfTwo<T>& axis, int stage, F body) {
    if (axis.radix[stage] == 8) body(Index<8>{});
    else body(Index<4>{});
}
template <class T, int... R, int S, class F>
__device__ __forceinline__ void with_radix(const FixedAxis<T, R...>&, Index<S>, F body) {
    body(Index<FixedAxis<T, R...>::radix_of(S)>{});
}

// Multiplies element p of butterfly k of a stage by exp(-S 2πi kp·step/n).
template <int S, int R, class A, class Stage, class T>
__device__ __forceinline__ void twiddle(const A& axis, Stage stage, int k, Complex<T>* x) {
    const Pair<T>* const table = axis.twiddles + first_twiddle_of(axis, stage) + k;
    unroll<R - 1>([&](auto i) MEDECONV_BODY {
        constexpr int p = decltype(i)::value + 1;
        const Complex<T> w = loaded(table[(p - 1) * part_of(axis, stage)]);
        x[p] = rotate<S>(x[p], w.re, w.im);
    });
}

template <int R, class T, class Get>
__device__ __forceinline__ void gather(Complex<T>* x, int base, int part, Get get) {
    unroll<R>([&](auto j) MEDECONV_BODY { x[j] = get(base, int(j) * part); });
}
template <int R, class T, class Put>
__device__ __forceinline__ void scatter(const Complex<T>* x, int base, int part, Put put) {
    unroll<R>([&](auto j) MEDECONV_BODY { put(base, int(j) * part, x[j]); });
}

// The member `thread` of a team of `team` threads that share a line.
struct Member {
    int thread, team;
};

// First stage forward: its butterflies are k = 0 … n/R - 1. `take(R, k, part, x)` gets all elements of one.
template <class T, class A, class Take, class Put>
__device__ __forceinline__ void forward_first_of(const A& axis, Member me, Take take, Put put) {
    const auto first = first_stage(axis);
    with_radix(axis, first, [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        const int part = part_of(axis, first);
        for (int k = me.thread; k < part; k += me.team) {
            Complex<T> x[R];
            take(r, k, part, x);
            Dft<T, R, 1>::run(x);
            twiddle<1, R>(axis, first, k, x);
            scatter<R>(x, k, part, put);
        }
    });
}
template <class T, class A, class Get, class Put>
__device__ __forceinline__ void forward_first(const A& axis, Member me, Get get, Put put) {
    forward_first_of<T>(axis, me,
                        [&](auto r, int k, int part, Complex<T>* x) MEDECONV_BODY { gather<decltype(r)::value>(x, k, part, get); }, put);
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

// Stages between the first and the last, in place, each with a barrier behind it; forwards or backwards.
template <bool forwards, class T, class F>
__device__ __forceinline__ void each_middle(const AxisView<T>& axis, F body) {
    for (int s = 1; s < axis.stages - 1; ++s) body(forwards ? s : axis.stages - 1 - s);
}
template <bool forwards, class T, int... R, class F>
__device__ __forceinline__ void each_middle(const FixedAxis<T, R...>&, F body) {
    constexpr int stages = int(sizeof...(R));
    unroll<stages - 2>([&](auto s) MEDECONV_BODY { body(Index<(forwards ? decltype(s)::value + 1 : stages - 2 - decltype(s)::value)>{}); });
}
template <int S, class T, class A, class Place, class Spare>
__device__ __forceinline__ void middle(const A& axis, Member me, Place place, Spare spare) {
    each_middle<(S > 0)>(axis, [&](auto stage) MEDECONV_BODY {
        if constexpr (has_any_radix<A>) {
            if (axis.radix[stage] > largest_butterfly<T>) {
                written_out<S>(axis, stage, me, [&](int i) MEDECONV_BODY -> Pair<T>& { return place(i, 0); }, spare);
                __syncthreads();
                return;
            }
        }
        with_radix(axis, stage, [&](auto r) MEDECONV_BODY {
            constexpr int R = decltype(r)::value;
            const auto part = part_of(axis, stage);
            for (int u = me.thread; u < butterflies_of(axis, stage); u += me.team) {
                const int block = quotient(axis, stage, u), k = u - block * part, base = block * part * R + k;
                Complex<T> x[R];
                gather<R>(x, base, part, [&](int b, int jump) MEDECONV_BODY { return loaded(place(b, jump)); });
                if constexpr (S < 0) twiddle<S, R>(axis, stage, k, x);
                Dft<T, R, S>::run(x);
                if constexpr (S > 0) twiddle<S, R>(axis, stage, k, x);
                scatter<R>(x, base, part, [&](int b, int jump, Complex<T> v) MEDECONV_BODY { place(b, jump) = stored(v); });
            }
        });
        __syncthreads();
    });
}
template <class T, class A, class Place, class Spare>
__device__ __forceinline__ void forward_middle(const A& axis, Member me, Place place, Spare spare) {
    middle<1, T>(axis, me, place, spare);
}
// The inverse takes the stages in the opposite order.
template <class T, class A, class Place, class Spare>
__device__ __forceinline__ void inverse_middle(const A& axis, Member me, Place place, Spare spare) {
    middle<-1, T>(axis, me, place, spare);
}

// Last stage: neighbouring slots.
template <int S, class T, class A, class Get, class Put>
__device__ __forceinline__ void last(const A& axis, Member me, Get get, Put put) {
    const auto stage = last_stage(axis);
    with_radix(axis, stage, [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        for (int u = me.thread; u < butterflies_of(axis, stage); u += me.team) {
            Complex<T> x[R];
            gather<R>(x, u * R, 1, get);
            Dft<T, R, S>::run(x);
            scatter<R>(x, u * R, 1, put);
        }
    });
}
template <class T, class A, class Get, class Put>
__device__ __forceinline__ void forward_last(const A& axis, Member me, Get get, Put put) {
    last<1, T>(axis, me, get, put);
}
template <class T, class A, class Get, class Put>
__device__ __forceinline__ void inverse_last(const A& axis, Member me, Get get, Put put) {
    last<-1, T>(axis, me, get, put);
}
template <class T, class A, class Get, class Put>
__device__ __forceinline__ void inverse_first(const A& axis, Member me, Get get, Put put) {
    const auto first = first_stage(axis);
    with_radix(axis, first, [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        const int part = part_of(axis, first);
        for (int k = me.thread; k < part; k += me.team) {
            Complex<T> x[R];
            gather<R>(x, k, part, get);
            twiddle<-1, R>(axis, first, k, x);
            Dft<T, R, -1>::run(x);
            scatter<R>(x, k, part, put);
        }
    });
}
// Last stage forward, `change(R, values, fetched)` of what it made, and its inverse: in registers. `fetch(slot, R, fetched)` asks
// for what the R slots from there on are changed by, all of it before the butterfly begins: one wait for device memory, not R.
template <class T, class A, class Place, class Fetch, class Change>
__device__ __forceinline__ void turn_last(const A& axis, Member me, Place place, Fetch fetch, Change change) {
    const auto stage = last_stage(axis);
    with_radix(axis, stage, [&](auto r) MEDECONV_BODY {
        constexpr int R = decltype(r)::value;
        for (int u = me.thread; u < butterflies_of(axis, stage); u += me.team) {
            Complex<T> x[R], fetched[R] = {};
            fetch(u * R, r, fetched);
            gather<R>(x, u * R, 1, [&](int base, int jump) MEDECONV_BODY { return loaded(place(base, jump)); });
            Dft<T, R, 1>::run(x);
            change(r, x, fetched);
            Dft<T, R, -1>::run(x);
            scatter<R>(x, u * R, 1, [&](int base, int jump, Complex<T> v) MEDECONV_BODY { place(base, jump) = stored(v); });
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
