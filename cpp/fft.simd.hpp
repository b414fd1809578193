// In-place column transforms over elements [L re | L im]: the stages of axis.hpp, L transforms at once.
#pragma once
#include "axis.hpp"
#include "shared/butterflies.hpp"
#include "simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
using C = Complex<Vec<T>>;
template <class T>
constexpr int64_t element = 2 * lanes<T>;

template <class T>
MEDECONV_INLINE C<T> load_element(const T* p) {
    return {load(p), load(p + lanes<T>)};
}
template <class T>
MEDECONV_INLINE void store_element(T* p, C<T> v) {
    store(p, v.re);
    store(p + lanes<T>, v.im);
}

// Where a stage reads or writes: element j at base + j·stride, and only start <= j < stop exists (limited == true):
// reading outside gives zero, writing outside is dropped. That is how zero padding and cropping cost nothing. The
// address is chosen, not the path: a branch between loads would push the butterfly's registers onto the stack.
template <class T>
struct Line {
    T* base;
    int64_t stride;
    int64_t start, stop;
};
template <class T>
alignas(64) constexpr T zero_element[element<T>] = {};

template <bool limited, class T>
MEDECONV_INLINE C<T> read(const Line<T>& line, int64_t j) {
    const T* p = line.base + j * line.stride;
    if constexpr (limited) p = j >= line.start && j < line.stop ? p : zero_element<T>;
    return load_element(p);
}
template <bool limited, class T>
MEDECONV_INLINE void write(const Line<T>& line, int64_t j, C<T> v, T* dropped) {
    T* p = line.base + j * line.stride;
    if constexpr (limited) p = j >= line.start && j < line.stop ? p : dropped;
    store_element(p, v);
}

// Each radix is a function of its own, so that the compiler allots registers to it alone.

// One stage of radix R over a line of n elements in sub-transforms of length m. S = +1: forward (transform, then
// twiddle); S = -1: inverse (twiddle, then transform). `prefetch` also fetches the element beside each one read: the
// next line, where lines lie side by side.
template <int R, int S, bool from_limited, bool to_limited, bool prefetch, class T>
MEDECONV_NOINLINE void stage_of(const Line<T>& from, const Line<T>& to, int64_t n, int64_t m, const T* twiddle) {
    alignas(64) T dropped[element<T>];
    const int64_t part = m / R;
    for (int64_t block = 0; block < n; block += m) {
        const T* w = twiddle;
        for (int64_t k = 0; k < part; ++k, w += 2 * (R - 1)) {
            C<T> v[R];
            const int64_t j = block + k;
            unroll<R>([&](auto q) MEDECONV_BODY {
                v[q] = read<from_limited>(from, j + q * part);
                if constexpr (prefetch) __builtin_prefetch(from.base + (j + q * part) * from.stride + element<T>, 1, 3);
                if constexpr (S < 0 && decltype(q)::value > 0)
                    v[q] = rotate<S>(v[q], w[2 * (q - 1)], w[2 * (q - 1) + 1]);
            });
            Dft<T, R, S>::run(v);
            unroll<R>([&](auto q) MEDECONV_BODY {
                if constexpr (S > 0 && decltype(q)::value > 0)
                    v[q] = rotate<S>(v[q], w[2 * (q - 1)], w[2 * (q - 1) + 1]);
                write<to_limited>(to, j + q * part, v[q], dropped);
            });
        }
    }
}
// The innermost stage (m = R) has no twiddles: forward, × OTF, inverse without leaving the registers.
template <int R, int S, bool from_limited, bool to_limited, class T>
MEDECONV_NOINLINE void last_stage_of(const Line<T>& from, const Line<T>& to, int64_t n) {
    alignas(64) T dropped[element<T>];
    for (int64_t block = 0; block < n; block += R) {
        C<T> v[R];
        unroll<R>([&](auto q) MEDECONV_BODY { v[q] = read<from_limited>(from, block + q); });
        Dft<T, R, S>::run(v);
        unroll<R>([&](auto q) MEDECONV_BODY { write<to_limited>(to, block + q, v[q], dropped); });
    }
}
template <int R, bool adjoint, bool from_limited, bool to_limited, class T>
MEDECONV_NOINLINE void middle_stage_of(const Line<T>& from, const Line<T>& to, int64_t n, const T* otf) {
    alignas(64) T dropped[element<T>];
    for (int64_t block = 0; block < n; block += R) {
        C<T> v[R];
        unroll<R>([&](auto q) MEDECONV_BODY { v[q] = read<from_limited>(from, block + q); });
        Dft<T, R, +1>::run(v);
        const T* h = otf + block * element<T>;
        unroll<R>([&](auto q) MEDECONV_BODY { v[q] = product<adjoint>(v[q], load_element(h + q * element<T>)); });
        Dft<T, R, -1>::run(v);
        unroll<R>([&](auto q) MEDECONV_BODY { write<to_limited>(to, block + q, v[q], dropped); });
    }
}

// Odd primes without a codelet, by symmetric and antisymmetric sums: (r-1)² multiply-adds per element pair.
template <int S, class T>
void generic_dft(C<T>* v, int r, const T* roots) {
    const int half = (r - 1) / 2;
    C<T> sum[largest_generic_radix / 2 + 1], difference[largest_generic_radix / 2 + 1];
    const C<T> zero = v[0];
    C<T> total = zero;
    for (int i = 1; i <= half; ++i) {
        sum[i] = v[i] + v[r - i];
        difference[i] = quarter_turn<S>(v[i] - v[r - i]);
        total = total + sum[i];
    }
    for (int k = 1; k <= half; ++k) {
        C<T> a = zero, b{Vec<T>{}, Vec<T>{}};
        for (int i = 1, j = k; i <= half; ++i, j = (j + k) % r) {
            const T c = roots[2 * j], s = roots[2 * j + 1];
            a = {a.re + sum[i].re * c, a.im + sum[i].im * c};
            b = {b.re + difference[i].re * s, b.im + difference[i].im * s};
        }
        v[k] = a + b;
        v[r - k] = a - b;
    }
    v[0] = total;
}
template <int S, bool from_limited, bool to_limited, class T>
void generic_stage(const Line<T>& from, const Line<T>& to, int64_t n, int64_t m, int r, const T* twiddle, const T* roots) {
    alignas(64) T dropped[element<T>];
    const int64_t part = m / r;
    C<T> v[largest_generic_radix];
    for (int64_t block = 0; block < n; block += m)
        for (int64_t k = 0; k < part; ++k) {
            const T* w = twiddle + (part > 1 ? k * 2 * (r - 1) : 0);
            for (int q = 0; q < r; ++q) {
                v[q] = read<from_limited>(from, block + k + q * part);
                if (S < 0 && part > 1 && q > 0) v[q] = rotate<-1>(v[q], w[2 * (q - 1)], w[2 * (q - 1) + 1]);
            }
            generic_dft<S>(v, r, roots);
            for (int q = 0; q < r; ++q) {
                if (S > 0 && part > 1 && q > 0) v[q] = rotate<+1>(v[q], w[2 * (q - 1)], w[2 * (q - 1) + 1]);
                write<to_limited>(to, block + k + q * part, v[q], dropped);
            }
        }
}

#define MEDECONV_EACH_RADIX(CASE) \
    CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(12) CASE(16)

template <int S, bool from_limited, bool to_limited, bool prefetch = false, class T>
void stage(const AxisView<T>& axis, int s, int64_t m, const Line<T>& from, const Line<T>& to) {
    const bool last = m == axis.radix[s];
    switch (axis.radix[s]) {
#define CASE(R)                                                                                    \
    case R:                                                                                        \
        if (last) last_stage_of<R, S, from_limited, to_limited>(from, to, axis.n);                 \
        else stage_of<R, S, from_limited, to_limited, prefetch>(from, to, axis.n, m, axis.twiddle[s]); \
        break;
        MEDECONV_EACH_RADIX(CASE)
#undef CASE
    default:
        generic_stage<S, from_limited, to_limited>(from, to, axis.n, m, axis.radix[s], axis.twiddle[s], axis.roots[s]);
    }
}
template <bool adjoint, bool from_limited, bool to_limited, class T>
void middle_stage(const AxisView<T>& axis, const Line<T>& from, const Line<T>& to, const T* otf) {
    const int r = axis.radix[axis.stages - 1];
    switch (r) {
#define CASE(R)                                                                                    \
    case R:                                                                                        \
        middle_stage_of<R, adjoint, from_limited, to_limited>(from, to, axis.n, otf);              \
        break;
        MEDECONV_EACH_RADIX(CASE)
#undef CASE
    default: {
        alignas(64) T dropped[element<T>];
        C<T> v[largest_generic_radix];
        for (int64_t block = 0; block < axis.n; block += r) {
            for (int q = 0; q < r; ++q) v[q] = read<from_limited>(from, block + q);
            generic_dft<+1>(v, r, axis.roots[axis.stages - 1]);
            for (int q = 0; q < r; ++q) v[q] = product<adjoint>(v[q], load_element(otf + (block + q) * element<T>));
            generic_dft<-1>(v, r, axis.roots[axis.stages - 1]);
            for (int q = 0; q < r; ++q) write<to_limited>(to, block + q, v[q], dropped);
        }
    }
    }
}

template <class T>
MEDECONV_INLINE Line<T> whole(T* base, int64_t stride, int64_t n) {
    return {base, stride, 0, n};
}

template <class T>
void copy_line(const Line<T>& from, const Line<T>& to, int64_t n) {
    alignas(64) T dropped[element<T>];
    for (int64_t j = 0; j < n; ++j) write<true>(to, j, read<true>(from, j), dropped);
}

template <int S, class T>
void transform(const AxisView<T>& axis, const Line<T>& from, const Line<T>& to, T* scratch);

// Bluestein 1970: a transform of any length as a circular convolution with a chirp.
template <int S, class T>
void bluestein(const AxisView<T>& axis, const Line<T>& from, const Line<T>& to, T* scratch) {
    const AxisView<T>& inner = *axis.inner;
    const int64_t n = axis.n, m = inner.n;
    auto chirp = [&](C<T> v, int64_t j) MEDECONV_BODY {
        const T c = axis.chirp[2 * j], s = axis.chirp[2 * j + 1];  // exp(-πi j²/n); its conjugate for the inverse
        return rotate<-S>(v, c, s);
    };
    for (int64_t j = 0; j < n; ++j) store_element(scratch + j * element<T>, chirp(read<true>(from, j), j));
    Line<T> all = whole(scratch, element<T>, m);
    for (int64_t j = n; j < m; ++j) store_element(scratch + j * element<T>, C<T>{Vec<T>{}, Vec<T>{}});
    transform<+1>(inner, all, all, static_cast<T*>(nullptr));
    const T* spectrum = axis.chirp_spectrum[S > 0 ? 0 : 1];
    for (int64_t k = 0; k < m; ++k) {
        C<T> v = load_element(scratch + k * element<T>);
        store_element(scratch + k * element<T>, rotate<-1>(v, spectrum[2 * k], spectrum[2 * k + 1]));
    }
    transform<-1>(inner, all, all, static_cast<T*>(nullptr));
    alignas(64) T dropped[element<T>];
    for (int64_t k = 0; k < n; ++k) write<true>(to, k, chirp(load_element(scratch + k * element<T>), k), dropped);
}

// Complete transform. Forward: `from` may be limited, result fills `to`, which must be whole. Inverse: `from` is
// whole and is overwritten, `to` may be limited. from == to is allowed. Bluestein needs scratch for inner->n elements.
template <int S, class T>
void transform(const AxisView<T>& axis, const Line<T>& from, const Line<T>& to, T* scratch) {
    const int64_t n = axis.n;
    if (axis.inner) return bluestein<S>(axis, from, to, scratch);
    if (axis.stages == 0) return copy_line(from, to, n);
    if constexpr (S > 0) {
        int64_t m = n;
        stage<S, true, false>(axis, 0, m, from, to);
        for (int s = 1; s < axis.stages; ++s) {
            m /= axis.radix[s - 1];
            stage<S, false, false>(axis, s, m, to, to);
        }
    } else {
        int64_t m = 1;
        for (int s = axis.stages - 1; s > 0; --s) {
            m *= axis.radix[s];
            stage<S, false, false>(axis, s, m, from, from);
        }
        stage<S, false, true>(axis, 0, n, from, to);
    }
}

// Forward, × OTF, inverse. The work is done in `buffer` (n elements, contiguous), so that the strided line is touched
// exactly once each way.
template <bool adjoint, class T>
void filter_line(const AxisView<T>& axis, const Line<T>& from, const Line<T>& to, const T* otf, T* buffer, T* scratch) {
    const int64_t n = axis.n;
    Line<T> work = whole(buffer, element<T>, n);
    if (axis.inner || axis.stages == 0) {
        transform<+1>(axis, from, work, scratch);
        for (int64_t j = 0; j < n; ++j) {
            T* p = buffer + j * element<T>;
            store_element(p, product<adjoint>(load_element(p), load_element(otf + j * element<T>)));
        }
        transform<-1>(axis, work, to, scratch);
        return;
    }
    if (axis.stages == 1) return middle_stage<adjoint, true, true>(axis, from, to, otf);
    int64_t m = n;
    stage<+1, true, false, true>(axis, 0, m, from, work);
    for (int s = 1; s < axis.stages - 1; ++s) {
        m /= axis.radix[s - 1];
        stage<+1, false, false>(axis, s, m, work, work);
    }
    middle_stage<adjoint, false, false>(axis, work, work, otf);
    m = axis.radix[axis.stages - 1];
    for (int s = axis.stages - 2; s > 0; --s) {
        m *= axis.radix[s];
        stage<-1, false, false>(axis, s, m, work, work);
    }
    stage<-1, false, true>(axis, 0, n, work, to);
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
