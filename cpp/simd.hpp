// SIMD vectors through the compiler's vector extensions: one source for SSE2, AVX2, AVX-512 and NEON.
// Included only by the sources that are built once per ISA; MEDECONV_VECTOR_BYTES is set there.
// Nothing here may become a weak symbol (a test looks): everything is in an unnamed namespace of the ISA's own.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "shared/formulas.hpp"

#ifndef MEDECONV_VECTOR_BYTES
#error "simd.hpp is for per-ISA sources"
#endif

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(MEDECONV_VECTOR_BYTES), may_alias));
    typedef float unaligned __attribute__((vector_size(MEDECONV_VECTOR_BYTES), may_alias, aligned(4)));
    typedef int32_t index __attribute__((vector_size(MEDECONV_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(MEDECONV_VECTOR_BYTES), may_alias));
    typedef double unaligned __attribute__((vector_size(MEDECONV_VECTOR_BYTES), may_alias, aligned(8)));
    typedef int64_t index __attribute__((vector_size(MEDECONV_VECTOR_BYTES)));
};

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int lanes = MEDECONV_VECTOR_BYTES / int(sizeof(T));

template <class T>
MEDECONV_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
MEDECONV_INLINE void store(T* p, Vec<T> v) {
    *reinterpret_cast<Vec<T>*>(p) = v;
}
template <class T>
MEDECONV_INLINE Vec<T> load_unaligned(const T* p) {
    return (Vec<T>)*reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}
template <class T>
MEDECONV_INLINE void store_unaligned(T* p, Vec<T> v) {
    *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = (typename VectorOf<T>::unaligned)v;
}
// All ones in the first `count` lanes (0 <= count <= lanes), else zero.
template <class T>
MEDECONV_INLINE typename VectorOf<T>::index first_of(int64_t count) {
    typename VectorOf<T>::index place;
    for (int i = 0; i < lanes<T>; ++i) place[i] = i;
    return place < int(count);
}
template <class T>
MEDECONV_INLINE Vec<T> first_lanes(Vec<T> v, int64_t count) {
    return first_of<T>(count) ? v : Vec<T>{};
}
// The first `count` values (0 <= count <= lanes) and nothing beyond them; the others are zero.
template <class T>
MEDECONV_INLINE Vec<T> load_first(const T* p, int64_t count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
    else return (Vec<T>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_maskload_ps(p, (__m256i)first_of<T>(count));
    else return (Vec<T>)_mm256_maskload_pd(p, (__m256i)first_of<T>(count));
#else
    Vec<T> v{};
    for (int i = 0; i < lanes<T>; ++i)
        if (i < count) v[i] = p[i];
    return v;
#endif
}
template <class T>
MEDECONV_INLINE void store_first(T* p, Vec<T> v, int64_t count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
    else _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), (__m512d)v);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) _mm256_maskstore_ps(p, (__m256i)first_of<T>(count), (__m256)v);
    else _mm256_maskstore_pd(p, (__m256i)first_of<T>(count), (__m256d)v);
#else
    for (int i = 0; i < lanes<T>; ++i)
        if (i < count) p[i] = v[i];
#endif
}
template <class T>
MEDECONV_INLINE Vec<T> splat(T x) {
    return x - Vec<T>{};  // x - 0 is x for every x, -0 included, so that no subtraction is left
}

// To an aligned place past the cache, which what is written need not enter; `stream_fence` before others read it.
template <class T>
MEDECONV_INLINE void stream(T* p, Vec<T> v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) _mm512_stream_ps(p, (__m512)v);
    else _mm512_stream_pd(p, (__m512d)v);
#elif defined(__AVX__)
    if constexpr (sizeof(T) == 4) _mm256_stream_ps(p, (__m256)v);
    else _mm256_stream_pd(p, (__m256d)v);
#elif defined(__SSE2__)
    if constexpr (sizeof(T) == 4) _mm_stream_ps(p, (__m128)v);
    else _mm_stream_pd(p, (__m128d)v);
#else
    store(p, v);
#endif
}
MEDECONV_INLINE void stream_fence() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// The value in a register: without it GCC repeats the load in every instruction that uses it, and loads set the speed.
template <class V>
MEDECONV_INLINE V in_register(V v) {
#if defined(__x86_64__)
    asm("" : "+v"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#endif
    return v;
}

template <class T>
MEDECONV_INLINE Vec<T> square_root(Vec<T> v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_sqrt_ps(0xffff, (__m512)v);
    else return (Vec<T>)_mm512_maskz_sqrt_pd(0xff, (__m512d)v);
#else
    for (int i = 0; i < lanes<T>; ++i) v[i] = sizeof(T) == 4 ? T(__builtin_sqrtf(float(v[i]))) : T(__builtin_sqrt(double(v[i])));
    return v;
#endif
}

#define MEDECONV_EXPONENT(T, I, root_half, mantissa_bits)                                      \
    template <>                                                                               \
    struct Exponent<Vec<T>> {                                                                 \
        typedef T Scalar;                                                                     \
        static MEDECONV_INLINE Vec<T> split(Vec<T> x, Vec<T>& mantissa) {                      \
            typedef VectorOf<T>::index Bits;                                                  \
            const Bits bits = (Bits)x, e = (bits - I(root_half)) >> mantissa_bits;            \
            mantissa = (Vec<T>)(bits - (e << mantissa_bits));                                 \
            return (Vec<T>)__builtin_convertvector(e, Vec<T>);                                \
        }                                                                                     \
    };
MEDECONV_EXPONENT(float, int32_t, 0x3f3504f3, 23)
MEDECONV_EXPONENT(double, int64_t, 0x3fe6a09e667f3bcd, 52)
#undef MEDECONV_EXPONENT

MEDECONV_INLINE int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
MEDECONV_INLINE int64_t at_least(int64_t a, int64_t b) {
    return a < b ? b : a;
}

// Transposes lanes × lanes values held in `rows`: log2(lanes) rounds of two-operand shuffles.
template <class T, int distance>
MEDECONV_INLINE void transpose_round(Vec<T>* rows) {
    if constexpr (distance >= 1) {
        constexpr int n = lanes<T>;
        typename VectorOf<T>::index low{}, high{};
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) {
            low[i] = (i & distance) ? n + i - distance : i;
            high[i] = (i & distance) ? n + i : i + distance;
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) {
            if (!(i & distance)) {
                Vec<T> a = rows[i], b = rows[i + distance];
                rows[i] = __builtin_shuffle(a, b, low);
                rows[i + distance] = __builtin_shuffle(a, b, high);
            }
        }
        transpose_round<T, distance / 2>(rows);
    }
}
template <class T>
MEDECONV_INLINE void transpose(Vec<T>* rows) {
    transpose_round<T, lanes<T> / 2>(rows);
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
