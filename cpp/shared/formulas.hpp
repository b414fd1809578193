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
#define MEDECONV_EACH_FORMULA(CASE) CASE(copy) CASE(ratio) CASE(multiply) CASE(residual) CASE(add)

namespace MEDECONV_ISA_NS {
namespace {

// Smallest divisor of the ratio, relative to the image's largest value, so that the result scales with the image.
// It stands well above FFT rounding of a blurred background (float32: about 1e-8 of the maximum; float64: 1e-17)
// and below the smallest blurred value that carries information.
template <class T>
MEDECONV_INLINE double smallest_divisor(double scale) {
    return scale * (sizeof(T) == 4 ? 1e-6 : 1e-12);
}

// NaN in `a` stays: a result that is not a number must not look like an empty image.
template <class V>
MEDECONV_INLINE V larger_of(V a, V b) {
    return a < b ? b : a;
}

// A value as mantissa · 2^exponent, the mantissa in [sqrt(1/2), sqrt(2)); for positive normal numbers. simd.hpp adds vectors.
template <class V>
struct Exponent;
template <>
struct Exponent<float> {
    typedef float Scalar;
    static MEDECONV_INLINE float split(float x, float& mantissa) {
        int bits;
        __builtin_memcpy(&bits, &x, 4);
        const int e = (bits - 0x3f3504f3) >> 23;
        bits -= e * (1 << 23);
        __builtin_memcpy(&mantissa, &bits, 4);
        return float(e);
    }
};
template <>
struct Exponent<double> {
    typedef double Scalar;
    static MEDECONV_INLINE double split(double x, double& mantissa) {
        long long bits;
        __builtin_memcpy(&bits, &x, 8);
        const long long e = (bits - 0x3fe6a09e667f3bcdLL) >> 52;
        bits -= e * (1LL << 52);
        __builtin_memcpy(&mantissa, &bits, 8);
        return double(e);
    }
};

// atanh(s) - s for |s| < 0.172, where the series ends with s^9 in float, s^21 in double.
template <class V>
MEDECONV_INLINE V rest_of_atanh(V s, V s2) {
    typedef typename Exponent<V>::Scalar T;
    V series = s2 - s2;
    if (sizeof(T) == 8) {
        series = series + T(1.0 / 21);
        series = series * s2 + T(1.0 / 19);
        series = series * s2 + T(1.0 / 17);
        series = series * s2 + T(1.0 / 15);
        series = series * s2 + T(1.0 / 13);
        series = series * s2 + T(1.0 / 11);
    }
    series = series * s2 + T(1.0 / 9);
    series = series * s2 + T(1.0 / 7);
    series = series * s2 + T(1.0 / 5);
    series = series * s2 + T(1.0 / 3);
    return s * s2 * series;
}

// log x for positive normal x: x = m·2^e, log m = 2·atanh((m - 1)/(m + 1)).
template <class V>
MEDECONV_INLINE V logarithm(V x) {
    typedef typename Exponent<V>::Scalar T;
    V m;
    const V e = Exponent<V>::split(x, m), one = (e - e) + T(1), s = (m - one) / (m + one);
    return e * T(0.6931471805599453094) + (s + rest_of_atanh<V>(s, s * s)) * T(2);
}

// q·log q - (q - 1) for q >= 0, without cancellation near 1; times the model, a voxel's share of the I-divergence
// (Csiszar 1991): blurred·divergence(image/blurred) = image·log(image/blurred) - image + blurred.
template <class V>
MEDECONV_INLINE V divergence(V q) {
    typedef typename Exponent<V>::Scalar T;
    V m;
    const V e = Exponent<V>::split(q, m), zero = e - e, one = zero + T(1);
    const V s = (m - one) / (m + one), s2 = s * s, rest = rest_of_atanh<V>(s, s2);
    const V near = (m + one) * (s2 + (one + s) * rest);
    const V far = q * (e * T(0.6931471805599453094) + (s + rest) * T(2)) - (q - one);
    const V value = e == zero ? near : far;
    return q > one * T(1e-37) ? value : one;
}

// White's damping (1994; with N = 10 as in MATLAB's deconvlucy): a quotient whose voxel fits the model to within the noise is
// drawn to 1. misfit: its share of the I-divergence; sharpness: 2/threshold², the threshold in the image's units.
template <class V>
MEDECONV_INLINE V damped(V quotient, V misfit, V sharpness) {
    typedef typename Exponent<V>::Scalar T;
    const V one = (quotient - quotient) + T(1);
    V u = misfit * sharpness;
    u = u < one ? u : one;
    const V u2 = u * u, u4 = u2 * u2;
    return one + u4 * u4 * u * (one * T(10) - u * T(9)) * (quotient - one);
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
