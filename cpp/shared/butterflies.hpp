// Small discrete Fourier transforms held in registers. N is known at compile time, everything is unrolled.
// V is a scalar or a SIMD vector of T; no STL, also compiled by nvcc.
//
// Dft<T, N, S>::run(x): x[k] = sum_j x[j] exp(-S 2πi jk/N), natural order in and out; S = +1 forward, -1 inverse
// (unnormalised). 2, 3, 4 and odd primes are written out (odd primes by symmetric and antisymmetric sums);
// other N = A·B by the Cooley-Tukey step: A-point transforms, constant twiddles, B-point transforms.
#pragma once
#include "formulas.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

namespace constant {
// cos and sin of 2πk/n as compile-time constants, exact to the last bit or two of a double:
// reduce to the first octant with integers, then a Taylor series.
constexpr double pi = 3.14159265358979323846264338327950288;
constexpr double cos_series(double x) {
    double s = 0, t = 1;
    for (int i = 0; i < 14; i++) s += t, t *= -x * x / ((2 * i + 1) * (2 * i + 2));
    return s;
}
constexpr double sin_series(double x) {
    double s = 0, t = x;
    for (int i = 0; i < 14; i++) s += t, t *= -x * x / ((2 * i + 2) * (2 * i + 3));
    return s;
}
constexpr double cosine(long k, long n) {
    k %= n;
    if (k < 0) k += n;
    if (2 * k > n) k = n - k;
    if (4 * k > n) return -cosine(n - 2 * k, 2 * n);
    if (8 * k > n) return sin_series(2 * pi * double(n - 4 * k) / (4.0 * double(n)));
    return cos_series(2 * pi * double(k) / double(n));
}
constexpr double sine(long k, long n) {
    k %= n;
    if (k < 0) k += n;
    if (2 * k > n) return -sine(n - k, n);
    if (4 * k > n) return sine(n - 2 * k, 2 * n);
    if (8 * k > n) return cos_series(2 * pi * double(n - 4 * k) / (4.0 * double(n)));
    return sin_series(2 * pi * double(k) / double(n));
}
}  // namespace constant

template <class V>
struct Complex {
    V re, im;
};
template <class V>
MEDECONV_INLINE Complex<V> operator+(Complex<V> a, Complex<V> b) {
    return {a.re + b.re, a.im + b.im};
}
template <class V>
MEDECONV_INLINE Complex<V> operator-(Complex<V> a, Complex<V> b) {
    return {a.re - b.re, a.im - b.im};
}
// a - b through the multiplier, exactly the same value. Cores that add in other units than they multiply in (AMD Zen) are
// short of adders in butterflies: with a quarter of the sums in Dft<4> moved, both are equally busy.
template <class V>
MEDECONV_INLINE Complex<V> minus(Complex<V> a, Complex<V> b) {
#if defined(__FMA__) && !defined(__CUDACC__)
    if constexpr (sizeof(V) > 8) {
        V one = V{} + 1;
        __asm__("" : "+v"(one));  // or the multiplication would be simplified away
        return {a.re - b.re * one, a.im - b.im * one};
    }
#endif
    return a - b;
}
template <class V>
MEDECONV_INLINE Complex<V> conjugate(Complex<V> a) {
    return {a.re, -a.im};
}
// a · (-i) for S = +1, a · i for S = -1
template <int S, class V>
MEDECONV_INLINE Complex<V> quarter_turn(Complex<V> a) {
    if constexpr (S > 0) return {a.im, -a.re};
    else return {-a.im, a.re};
}
// a · b, or a · conj(b)
template <bool conjugated, class V>
MEDECONV_INLINE Complex<V> product(Complex<V> a, Complex<V> b) {
    if constexpr (conjugated) return {a.re * b.re + a.im * b.im, a.im * b.re - a.re * b.im};
    else return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
// a · exp(-S i φ), given cos φ and sin φ
template <int S, class V, class T>
MEDECONV_INLINE Complex<V> rotate(Complex<V> a, T c, T s) {
    if constexpr (S > 0) return {a.re * c + a.im * s, a.im * c - a.re * s};
    else return {a.re * c - a.im * s, a.im * c + a.re * s};
}
// a · exp(-S 2πi K/N), the cheap angles without a multiplication
template <class T, int S, int K, int N, class V>
MEDECONV_INLINE Complex<V> rotate_fixed(Complex<V> a) {
    constexpr int k = ((K % N) + N) % N;
    constexpr T half_root = T(0.70710678118654752440);
    if constexpr (k == 0) return a;
    else if constexpr (4 * k == N) return quarter_turn<S>(a);
    else if constexpr (2 * k == N) return {-a.re, -a.im};
    else if constexpr (4 * k == 3 * N) return quarter_turn<-S>(a);
    else if constexpr (8 * k == N) {
        if constexpr (S > 0) return {(a.re + a.im) * half_root, (a.im - a.re) * half_root};
        else return {(a.re - a.im) * half_root, (a.im + a.re) * half_root};
    } else if constexpr (8 * k == 3 * N) {
        if constexpr (S > 0) return {(a.im - a.re) * half_root, (a.re + a.im) * -half_root};
        else return {(a.re + a.im) * -half_root, (a.re - a.im) * half_root};
    } else {
        constexpr T c = T(constant::cosine(k, N)), s = T(constant::sine(k, N));
        return rotate<S>(a, c, s);
    }
}

// Loops that the compiler must unroll completely: an index that is a constant expression in the body.
template <int I>
struct Index {
    static constexpr int value = I;
    MEDECONV_INLINE constexpr operator int() const { return I; }
};
template <int I, int N, class F>
MEDECONV_INLINE void unroll_from(F&& body) {
    if constexpr (I < N) {
        body(Index<I>{});
        unroll_from<I + 1, N>(body);
    }
}
template <int N, class F>
MEDECONV_INLINE void unroll(F&& body) {
    unroll_from<0, N>(body);
}

// First factor of the Cooley-Tukey step; 0: written out below. 16 = 2·8 needs fewer live registers than 4·4.
constexpr int first_factor(int n) {
    return n == 16 ? 2 : (n <= 5 || n == 7) ? 0 : n % 4 == 0 ? 4 : n % 3 == 0 ? 3 : n % 2 == 0 ? 2 : 5;
}

template <class T, int N, int S>
struct Dft {
    template <class V>
    static MEDECONV_INLINE void run(Complex<V>* x) {
        if constexpr (N == 1) {
        } else if constexpr (N == 2) {
            Complex<V> a = x[0] + x[1], b = x[0] - x[1];
            x[0] = a, x[1] = b;
        } else if constexpr (N == 3) {
            constexpr T half = T(0.5), h = T(0.86602540378443864676);
            Complex<V> t = x[1] + x[2], d = quarter_turn<S>(x[1] - x[2]);
            Complex<V> m = {x[0].re - half * t.re, x[0].im - half * t.im};
            x[0] = x[0] + t;
            x[1] = {m.re + h * d.re, m.im + h * d.im};
            x[2] = {m.re - h * d.re, m.im - h * d.im};
        } else if constexpr (N == 4) {
            Complex<V> a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = quarter_turn<S>(x[1] - x[3]);
            x[0] = a + c, x[2] = minus(a, c), x[1] = b + d, x[3] = minus(b, d);
        } else if constexpr (N == 5 || N == 7) {
            constexpr int H = (N - 1) / 2;
            Complex<V> sum[H], difference[H], zero = x[0];
            unroll<H>([&](auto i) MEDECONV_BODY {
                sum[i] = x[1 + i] + x[N - 1 - i];
                difference[i] = quarter_turn<S>(x[1 + i] - x[N - 1 - i]);
                x[0] = x[0] + sum[i];
            });
            unroll<H>([&](auto k) MEDECONV_BODY {
                Complex<V> a = zero, b = {};
                unroll<H>([&](auto i) MEDECONV_BODY {
                    constexpr int kk = decltype(k)::value, ii = decltype(i)::value;
                    constexpr T c = T(constant::cosine((kk + 1) * (ii + 1), N)), s = T(constant::sine((kk + 1) * (ii + 1), N));
                    a = {a.re + c * sum[ii].re, a.im + c * sum[ii].im};
                    if constexpr (ii == 0) b = {s * difference[0].re, s * difference[0].im};
                    else b = {b.re + s * difference[ii].re, b.im + s * difference[ii].im};
                });
                x[1 + k] = a + b, x[N - 1 - k] = a - b;
            });
        } else {  // N = A·B: j = b + B·a, k = p + A·q
            constexpr int A = first_factor(N), B = N / A;
            Complex<V> y[N];
            unroll<B>([&](auto b) MEDECONV_BODY {
                Complex<V> t[A];
                unroll<A>([&](auto a) MEDECONV_BODY { t[a] = x[b + B * a]; });
                Dft<T, A, S>::run(t);
                unroll<A>([&](auto p) MEDECONV_BODY {
                    y[p * B + b] = rotate_fixed<T, S, decltype(b)::value * decltype(p)::value, N>(t[p]);
                });
            });
            unroll<A>([&](auto p) MEDECONV_BODY {
                Dft<T, B, S>::run(y + p * B);
                unroll<B>([&](auto q) MEDECONV_BODY { x[p + A * q] = y[p * B + q]; });
            });
        }
    }
};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
