// How a kernel ends: the formula of its sweep on the values that it has computed, and their sums.
#pragma once
#include "formula_step.hpp"
#include "stage.cuh"
#include "sums.hpp"

namespace medeconv::cuda {

constexpr size_t sums_shared_bytes = 32 * sums_of_a_sweep * sizeof(double);  // one slot per warp

// Calls call(Formula constant, bool constant): with the instance of a kernel that has nothing more to do than is asked for.
template <class T, class F>
void with_formula(Formula formula, const Operands<T>& operands, F call) {
#define MEDECONV_CASE(F_)                                                                                                    \
    case Formula::F_:                                                                                                        \
        return operands.plain() ? call(std::integral_constant<Formula, Formula::F_>(), std::true_type())                     \
                                : call(std::integral_constant<Formula, Formula::F_>(), std::false_type());
    switch (formula) {
        MEDECONV_EACH_FORMULA(MEDECONV_CASE)
    }
#undef MEDECONV_CASE
}

// Calls call(Formula constant), as the kernel runs: where the rest of it is too large to be compiled for each.
template <class F>
__device__ __forceinline__ void as_constant(Formula formula, F call) {
#define MEDECONV_CASE(F_) \
    case Formula::F_: return call(std::integral_constant<Formula, Formula::F_>());
    switch (formula) {
        MEDECONV_EACH_FORMULA(MEDECONV_CASE)
    }
#undef MEDECONV_CASE
}

// One value, whose place in all arrays is `at`.
template <Formula formula, bool plain, class T>
__device__ __forceinline__ T finish_value(const Operands<T>& o, const scalar::Numbers<T>& number, T value, int64_t at, T* sums) {
    return scalar::formula_step<formula, plain>(o, value, number, [at](const T* q) { return q[at]; },
                                                [at](T* q, T v) { q[at] = v; }, sums);
}
template <class T>
__device__ __forceinline__ T finish_value(Formula formula, const Operands<T>& o, const scalar::Numbers<T>& number, T value, int64_t at, T* sums) {
    as_constant(formula, [&](auto f) { value = finish_value<f, false>(o, number, value, at, sums); });
    return value;
}

// The arrays that a formula reads whatever else is asked for; null: none. Where a thread finishes several values, it asks for
// those of all of them ahead of the first result: the arrays written may be those read, so the compiler cannot do that.
template <class T>
struct Reads {
    const T *first, *second;
};
template <class T>
__device__ __forceinline__ Reads<T> reads_of(Formula formula, const Operands<T>& o) {
    switch (formula) {
        case Formula::ratio:
        case Formula::residual: return {o.image, o.weights};
        case Formula::multiply:
        case Formula::add: return {o.estimate, o.gain};
        default: return {nullptr, nullptr};
    }
}

// All that a formula reads of n values of a thread, asked for ahead of the first result: one wait for device memory, not one for
// each value and array. Of the members those that the formula has take registers.
template <Formula formula, bool plain, int n, class T>
struct Asked {
    static constexpr bool of_image = formula == Formula::ratio || formula == Formula::residual;
    static constexpr bool of_estimate = formula == Formula::multiply || formula == Formula::add;
    T image[n], weights[n], damping[n], held_out[n], estimate[n], gain[n], factor[n], change[n], partial[n], previous[n];

    // there(k): whether value k is one; at(k): its place in all arrays.
    template <class There, class At>
    __device__ __forceinline__ void ask(const Operands<T>& o, There there, At at) {
        const auto take = [&](const T* from, T(&to)[n]) MEDECONV_BODY {
            if (!from) return;
            MEDECONV_UNROLL for (int k = 0; k < n; ++k) to[k] = there(k) ? from[at(k)] : T(1);
        };
        if constexpr (of_image) take(o.image, image), take(o.weights, weights);
        if constexpr (of_estimate) take(o.estimate, estimate), take(o.gain, gain);
        if constexpr (!plain) {
            take(o.partial, partial);
            if constexpr (formula == Formula::ratio) take(o.damping, damping), take(o.held_out, held_out);
            if constexpr (of_estimate) take(o.factor, factor), take(o.change, change);
            take(o.previous, previous);
        }
    }
    // `member`: one of o's, which one is known when the kernel is compiled.
    template <class Member>
    __device__ __forceinline__ T value(const Operands<T>& o, const Member& member, int k) const {
        const void* const asked = &member;
        return asked == &o.image      ? image[k]
               : asked == &o.weights  ? weights[k]
               : asked == &o.damping  ? damping[k]
               : asked == &o.held_out ? held_out[k]
               : asked == &o.estimate ? estimate[k]
               : asked == &o.gain     ? gain[k]
               : asked == &o.factor   ? factor[k]
               : asked == &o.change   ? change[k]
               : asked == &o.partial  ? partial[k]
                                      : previous[k];
    }
    // `values` become what the next sweep gets. All is read before anything is written: the arrays written may be those read.
    template <class There, class At>
    __device__ __forceinline__ void finish(const Operands<T>& o, const scalar::Numbers<T>& number, T* values, There there, At at,
                                           T* sums) const {
        T out[n], changed[n], extrapolated[n];
        MEDECONV_UNROLL for (int k = 0; k < n; ++k) {
            T own[sums_of_a_sweep]{};
            values[k] = scalar::formula_step<formula, plain>(
                o, values[k], number, [&](const auto& q) MEDECONV_BODY { return value(o, q, k); },
                [&](const auto& q, T v) MEDECONV_BODY {
                    const void* const written = &q;
                    (written == &o.out ? out : written == &o.change ? changed : extrapolated)[k] = v;
                },
                own);
            if constexpr (!plain)
                if (there(k))
                    for (int i = 0; i < sums_of_a_sweep; ++i) sums[i] += own[i];
        }
        const auto store = [&](T* to, const T(&from)[n]) MEDECONV_BODY {
            if (!to) return;
            MEDECONV_UNROLL for (int k = 0; k < n; ++k)
                if (there(k)) to[at(k)] = from[k];
        };
        if constexpr (!plain && of_estimate) store(o.change, changed);
        store(o.out, out);
        if constexpr (!plain) store(o.extrapolated, extrapolated);
    }
};
template <class T>
__device__ __forceinline__ scalar::Numbers<T> numbers_of(const Operands<T>& o) {
    return scalar::Numbers<T>(o, [](T x) { return x; });
}

// The threads' values, added in a fixed order: thread k < sums_of_a_sweep returns sum k, all must call. Whole warps only.
__device__ __forceinline__ double add_block(const double* values, double* shared) {
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned warps = blockDim.x * blockDim.y * blockDim.z / 32;
    for (int k = 0; k < sums_of_a_sweep; ++k) {
        double sum = values[k];
        for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(~0u, sum, by);
        if (thread % 32 == 0) shared[thread / 32 * sums_of_a_sweep + k] = sum;
    }
    __syncthreads();
    double total = 0;
    if (thread < unsigned(sums_of_a_sweep))
        for (unsigned warp = 0; warp < warps; ++warp) total += shared[warp * sums_of_a_sweep + thread];
    return total;
}
// `shared`: sums_shared_bytes that nothing else uses any more.
template <class T>
__device__ __forceinline__ void finish_block(const Operands<T>& o, const T* sums, double* shared, int64_t block) {
    if (!o.sums) return;
    double values[sums_of_a_sweep];
    for (int k = 0; k < sums_of_a_sweep; ++k) values[k] = double(sums[k]);
    const double total = add_block(values, shared);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    if (thread < unsigned(sums_of_a_sweep)) o.sums[sums_of_a_sweep * (1 + block) + thread] = total;
}

}  // namespace medeconv::cuda
