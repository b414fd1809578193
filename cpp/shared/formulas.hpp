// Pointwise formulas of the sweeps: what is done to a voxel while H·x (or Hᵀ·y) is still in cache.
// One source for every engine: V is a scalar or a SIMD vector, T its scalar. No STL, no includes: also compiled by nvcc.
#pragma once

#ifndef MEDECONV_ISA_NS
#define MEDECONV_ISA_NS scalar
#endif
#if defined(__CUDACC__)
#define MEDECONV_INLINE __host__ __device__ __forceinline__
#define MEDECONV_NOINLINE __noinline__
#define MEDECONV_BODY
#else
#define MEDECONV_INLINE inline __attribute__((always_inline))
#define MEDECONV_NOINLINE __attribute__((noinline))
// After a lambda's parameters: one that is not forced inline keeps its captures, and so the registers, on the stack.
#define MEDECONV_BODY __attribute__((always_inline))
#endif

namespace medeconv {

// The order is part of the binding: bindings.cpp maps names to these values.
enum class Formula : int { copy = 0, ratio = 1, multiply = 2, residual = 3, add = 4 };

namespace MEDECONV_ISA_NS {
namespace {

// Smallest divisor of the ratio, relative to the image's largest value, so that the result scales with the image.
// It stands well above FFT rounding of a blurred background (float32: about 1e-8 of the maximum; float64: 1e-17)
// and below the smallest blurred value that carries information.
template <class T>
MEDECONV_INLINE double smallest_divisor(double scale) {
    return scale * (sizeof(T) == 4 ? 1e-6 : 1e-12);
}

template <class V>
MEDECONV_INLINE V larger_of(V a, V b) {
    return a > b ? a : b;
}

// image / (blurred + background), the quotient of Richardson-Lucy (Richardson 1972, Lucy 1974).
template <class V>
MEDECONV_INLINE V ratio(V blurred, V image, V background, V eps) {
    return image / larger_of<V>(blurred + background, eps);
}

// estimate · correction / normalizer. `gain` is 1/normalizer, or 0 where the normalizer is too small to trust:
// the estimate is kept there. FFT rounding can push a correction below zero; the estimate stays non-negative.
template <class V>
MEDECONV_INLINE V multiply(V correction, V estimate, V gain) {
    V zero = gain - gain;
    V updated = larger_of<V>(estimate * (correction * gain), zero);
    return gain > zero ? updated : estimate;
}

// image - (blurred + background), what Landweber iterations project back (Landweber 1951).
template <class V>
MEDECONV_INLINE V residual(V blurred, V image, V background) {
    return image - (blurred + background);
}

// estimate + step · gain · correction, a step along the gradient; projected onto what is not negative if `positive`.
template <class V>
MEDECONV_INLINE V add(V correction, V estimate, V gain, V step, bool positive) {
    V updated = estimate + step * (correction * gain);
    return positive ? larger_of<V>(updated, gain - gain) : updated;
}

// The point beyond `updated` from which an accelerated iteration goes on (Biggs & Andrews 1997; heavy ball: Wang & Miller
// 2014).
template <class V>
MEDECONV_INLINE V extrapolate(V updated, V previous, V alpha) {
    return larger_of<V>(updated + alpha * (updated - previous), alpha - alpha);
}

}  // namespace
}  // namespace MEDECONV_ISA_NS
}  // namespace medeconv
