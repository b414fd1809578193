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

// Where a stage reads or writes: element j at base + j·stride, and only start <= j < stop exists: reading outside gives
// zero, writing outside is dropped. That is how zero padding and cropping cost nothing.
template <class T>
struct Line {
    T* base;
    int64_t stride;
    int64_t start, stop;
    bool is_whole(int64_t n) const { return start <= 0 && stop >= n; }
};
template <bool limited, class T>
MEDECONV_INLINE C<T> read(const Line<T>& line, int64_t j) {
    if (limited && (j < line.start || j >= line.stop)) return {Vec<T>{}, Vec<T>{}};
    return load_element(line.base + j * line.stride);
}
template <bool limited, class T>
MEDECONV_INLINE void write(const Line<T>& line, int64_t j, C<T> v) {
    if (limited && (j < line.start || j >= line.stop)) return;
    store_element(line.base + j * line.stride, v);
}

// R places `step` bytes apart. A pointer for every fourth: the others are base + index·scale, which the load itself
// computes. Left to the compiler, addresses take more instructions than the transform.
template <int R, class T>
struct Places {
    char* quarter[(R + 3) / 4];
    int64_t step, step3;
    MEDECONV_INLINE Places(const T* base, int64_t step_elements) : step(step_elements * int64_t(sizeof(T))), step3(3 * step) {
        unroll<(R + 3) / 4>([&](auto i) MEDECONV_BODY { quarter[i] = (char*)base + 4 * decltype(i)::value * step; });
    }
    template <int Q>
    MEDECONV_INLINE T* at() const {
        constexpr int r = Q % 4;
        return (T*)(quarter[Q / 4] + (r == 3 ? step3 : r * step));
    }
    MEDECONV_INLINE void advance(int64_t elements) {
        unroll<(R + 3) / 4>([&](auto i) MEDECONV_BODY { quarter[i] += elements * int64_t(sizeof(T)); });
    }
};

// Which of the R elements k + q·part, q = 0 … R-1, of a line exist: bit q. Constant over runs of k, so that a branch on
// it costs nothing.
template <int R, class T>
MEDECONV_INLINE unsigned present(const Line<T>& line, int64_t k, int64_t part) {
    unsigned mask = 0;
    for (int q = 0; q < R; ++q) mask |= unsigned(k + q * part >= line.start && k + q * part < line.stop) << q;
    return mask;
}
// End of the run of k that starts at k.
template <int R, class T>
MEDECONV_INLINE int64_t run_end(const Line<T>& line, int64_t k, int64_t part) {
    int64_t end = part;
    for (int q = 0; q < R; ++q)
        for (int64_t edge : {line.start - q * part, line.stop - q * part})
            if (edge > k && edge < end) end = edge;
    return end;
}

// What is fetched into the cache beside the arithmetic, a little with every butterfly, so that memory never waits for the
// arithmetic nor the arithmetic for memory: the elements of the line that comes next and, in step, of its OTF.
template <class T>
struct Ahead {
    const char *line = nullptr, *otf = nullptr;
    int64_t stride = 0, otf_bytes = 0;       // bytes between elements
    int64_t left = 0;                        // elements still to fetch
    int rate = 0;                            // elements per butterfly
    Ahead() = default;
    // Spread over `butterflies`.
    Ahead(const T* next_line, int64_t line_stride, const T* next_otf, int64_t otf_stride, int64_t n, int64_t butterflies)
        : line((const char*)next_line), otf((const char*)next_otf), stride(line_stride * int64_t(sizeof(T))),
          otf_bytes(otf_stride * int64_t(sizeof(T))), left(n),
          rate(int(ceil_div(n, at_least(butterflies, 1)))) {}
    MEDECONV_INLINE void step() {
        constexpr int64_t bytes = element<T> * int64_t(sizeof(T));
        for (int i = rate < left ? rate : int(left); i > 0; --i) {
            __builtin_prefetch(line, 0, 2);
            if (bytes > 64) __builtin_prefetch(line + 64, 0, 2);
            line += stride;
            if (otf) {
                __builtin_prefetch(otf, 0, 2);
                if (otf_bytes > 64) __builtin_prefetch(otf + 64, 0, 2);
                otf += otf_bytes;
            }
        }
        left -= rate;
    }
};
// Butterflies of the stages [0, stages) of an axis.
template <class T>
int64_t butterflies(const AxisView<T>& axis, int stages) {
    int64_t count = 0;
    for (int s = 0; s < stages; ++s) count += axis.n / axis.radix[s];
    return count;
}

// How an OTF acts on an element: as it is, conjugated, or (a real one, L values per element) as a factor.
enum class Otf { plain, conjugated, real };
template <Otf kind, class T>
constexpr int64_t otf_step = kind == Otf::real ? lanes<T> : element<T>;
template <Otf kind, class T>
MEDECONV_INLINE C<T> filtered(C<T> v, const T* h) {
    if constexpr (kind == Otf::real) {
        const Vec<T> factor = load(h);
        return {v.re * factor, v.im * factor};
    } else {
        return product<kind == Otf::conjugated>(v, load_element(h));
    }
}

// Each radix is a function of its own, so that the compiler allots registers to it alone.

// One stage of radix R over a line of n elements in sub-transforms of length m. S = +1: forward (transform, then
// twiddle); S = -1: inverse (twiddle, then transform). Limited: m == n.
template <int R, int S, bool limited, class T>
MEDECONV_INLINE void stage_run(const Line<T>& from, const Line<T>& to, int64_t first, int64_t last, int64_t part, const T* w,
                               unsigned exist, Ahead<T>& ahead) {
    Places<R, T> source(from.base + first * from.stride, part * from.stride), target(to.base + first * to.stride, part * to.stride);
    for (int64_t k = first; k < last; ++k, w += 2 * (R - 1)) {
        C<T> v[R];
        unroll<R>([&](auto q) MEDECONV_BODY {
            constexpr int Q = decltype(q)::value;
            if (limited && S > 0 && !(exist >> Q & 1)) v[q] = C<T>{Vec<T>{}, Vec<T>{}};
            else v[q] = load_element(source.template at<Q>());
            if constexpr (S < 0 && Q > 0) v[q] = rotate<S>(v[q], w[2 * (Q - 1)], w[2 * (Q - 1) + 1]);
        });
        Dft<T, R, S>::run(v);
        unroll<R>([&](auto q) MEDECONV_BODY {
            constexpr int Q = decltype(q)::value;
            if constexpr (S > 0 && Q > 0) v[q] = rotate<S>(v[q], w[2 * (Q - 1)], w[2 * (Q - 1) + 1]);
            if (!limited || S > 0 || (exist >> Q & 1)) store_element(target.template at<Q>(), v[q]);
        });
        source.advance(from.stride);
        target.advance(to.stride);
        ahead.step();
    }
}
template <int R, int S, bool limited, class T>
MEDECONV_NOINLINE void stage_of(const Line<T>& from, const Line<T>& to, int64_t n, int64_t m, const T* twiddle, Ahead<T>& ahead) {
    const int64_t part = m / R;
    if constexpr (limited) {
        const Line<T>& box = S > 0 ? from : to;
        for (int64_t k = 0; k < part;) {
            const int64_t end = run_end<R>(box, k, part);
            stage_run<R, S, true>(from, to, k, end, part, twiddle + k * 2 * (R - 1), present<R>(box, k, part), ahead);
            k = end;
        }
    } else {
        for (int64_t block = 0; block < n; block += m) {
            const Line<T> here{from.base + block * from.stride, from.stride, 0, m}, there{to.base + block * to.stride, to.stride, 0, m};
            stage_run<R, S, false>(here, there, 0, part, part, twiddle, 0, ahead);
        }
    }
}
// The innermost stage (m = R) has no twiddles: forward, × OTF, inverse without leaving the registers.
template <int R, int S, bool limited, class T>
MEDECONV_NOINLINE void last_stage_of(const Line<T>& from, const Line<T>& to, int64_t n, Ahead<T>& ahead) {
    Places<R, T> source(from.base, from.stride), target(to.base, to.stride);
    for (int64_t block = 0; block < n; block += R) {
        C<T> v[R];
        unroll<R>([&](auto q) MEDECONV_BODY {
            if constexpr (limited && S > 0) v[q] = read<true>(from, block + q);
            else v[q] = load_element(source.template at<decltype(q)::value>());
        });
        Dft<T, R, S>::run(v);
        unroll<R>([&](auto q) MEDECONV_BODY {
            if constexpr (limited && S < 0) write<true>(to, block + q, v[q]);
            else store_element(target.template at<decltype(q)::value>(), v[q]);
        });
        source.advance(R * from.stride);
        target.advance(R * to.stride);
        ahead.step();
    }
}
template <int R, Otf kind, bool limited, class T>
MEDECONV_NOINLINE void middle_stage_of(const Line<T>& from, const Line<T>& to, int64_t n, const T* otf) {
    Places<R, T> source(from.base, from.stride), target(to.base, to.stride);
    for (int64_t block = 0; block < n; block += R, otf += R * otf_step<kind, T>) {
        C<T> v[R];
        unroll<R>([&](auto q) MEDECONV_BODY {
            if constexpr (limited) v[q] = read<true>(from, block + q);
            else v[q] = load_element(source.template at<decltype(q)::value>());
        });
        Dft<T, R, +1>::run(v);
        unroll<R>([&](auto q) MEDECONV_BODY { v[q] = filtered<kind>(v[q], otf + q * otf_step<kind, T>); });
        Dft<T, R, -1>::run(v);
        unroll<R>([&](auto q) MEDECONV_BODY {
            if constexpr (limited) write<true>(to, block + q, v[q]);
            else store_element(target.template at<decltype(q)::value>(), v[q]);
        });
        source.advance(R * from.stride);
        target.advance(R * to.stride);
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
template <int S, bool limited, class T>
void generic_stage(const Line<T>& from, const Line<T>& to, int64_t n, int64_t m, int r, const T* twiddle, const T* roots) {
    const int64_t part = m / r;
    C<T> v[largest_generic_radix];
    for (int64_t block = 0; block < n; block += m)
        for (int64_t k = 0; k < part; ++k) {
            const T* w = twiddle + (part > 1 ? k * 2 * (r - 1) : 0);
            for (int q = 0; q < r; ++q) {
                v[q] = read<limited && (S > 0)>(from, block + k + q * part);
                if (S < 0 && part > 1 && q > 0) v[q] = rotate<-1>(v[q], w[2 * (q - 1)], w[2 * (q - 1) + 1]);
            }
            generic_dft<S>(v, r, roots);
            for (int q = 0; q < r; ++q) {
                if (S > 0 && part > 1 && q > 0) v[q] = rotate<+1>(v[q], w[2 * (q - 1)], w[2 * (q - 1) + 1]);
                write<limited && (S < 0)>(to, block + k + q * part, v[q]);
            }
        }
}

#define MEDECONV_EACH_RADIX(CASE) \
    CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(12) CASE(16)

template <int S, bool limited, class T>
void stage_limited(const AxisView<T>& axis, int s, int64_t m, const Line<T>& from, const Line<T>& to, Ahead<T>& ahead) {
    const bool last = m == axis.radix[s];
    switch (axis.radix[s]) {
#define CASE(R)                                                                        \
    case R:                                                                            \
        if (last) last_stage_of<R, S, limited>(from, to, axis.n, ahead);               \
        else stage_of<R, S, limited>(from, to, axis.n, m, axis.twiddle[s], ahead);     \
        break;
        MEDECONV_EACH_RADIX(CASE)
#undef CASE
    default: generic_stage<S, limited>(from, to, axis.n, m, axis.radix[s], axis.twiddle[s], axis.roots[s]);
    }
}
// A forward stage may read a limited line, an inverse one may write one: stage 0, whose line the box refers to.
template <int S, class T>
void stage(const AxisView<T>& axis, int s, int64_t m, const Line<T>& from, const Line<T>& to, Ahead<T>& ahead) {
    if ((S > 0 ? from : to).is_whole(axis.n)) stage_limited<S, false>(axis, s, m, from, to, ahead);
    else stage_limited<S, true>(axis, s, m, from, to, ahead);
}
template <int S, class T>
void stage(const AxisView<T>& axis, int s, int64_t m, const Line<T>& from, const Line<T>& to) {
    Ahead<T> nothing;
    stage<S>(axis, s, m, from, to, nothing);
}
template <Otf kind, bool limited, class T>
void middle_stage_limited(const AxisView<T>& axis, const Line<T>& from, const Line<T>& to, const T* otf) {
    const int r = axis.radix[axis.stages - 1];
    switch (r) {
#define CASE(R)                                                           \
    case R:                                                               \
        middle_stage_of<R, kind, limited>(from, to, axis.n, otf);         \
        break;
        MEDECONV_EACH_RADIX(CASE)
#undef CASE
    default: {
        C<T> v[largest_generic_radix];
        for (int64_t block = 0; block < axis.n; block += r) {
            for (int q = 0; q < r; ++q) v[q] = read<limited>(from, block + q);
            generic_dft<+1>(v, r, axis.roots[axis.stages - 1]);
            for (int q = 0; q < r; ++q) v[q] = filtered<kind>(v[q], otf + (block + q) * otf_step<kind, T>);
            generic_dft<-1>(v, r, axis.roots[axis.stages - 1]);
            for (int q = 0; q < r; ++q) write<limited>(to, block + q, v[q]);
        }
    }
    }
}
template <Otf kind, class T>
void middle_stage(const AxisView<T>& axis, const Line<T>& from, const Line<T>& to, const T* otf) {
    if (from.is_whole(axis.n) && to.is_whole(axis.n)) middle_stage_limited<kind, false>(axis, from, to, otf);
    else middle_stage_limited<kind, true>(axis, from, to, otf);
}

template <class T>
MEDECONV_INLINE Line<T> whole(T* base, int64_t stride, int64_t n) {
    return {base, stride, 0, n};
}

template <class T>
void copy_line(const Line<T>& from, const Line<T>& to, int64_t n) {
    for (int64_t j = 0; j < n; ++j) write<true>(to, j, read<true>(from, j));
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
    for (int64_t k = 0; k < n; ++k) write<true>(to, k, chirp(load_element(scratch + k * element<T>), k));
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
        stage<S>(axis, 0, m, from, to);
        for (int s = 1; s < axis.stages; ++s) {
            m /= axis.radix[s - 1];
            stage<S>(axis, s, m, to, to);
        }
    } else {
        int64_t m = 1;
        for (int s = axis.stages - 1; s > 0; --s) {
            m *= axis.radix[s];
            stage<S>(axis, s, m, from, from);
        }
        stage<S>(axis, 0, n, from, to);
    }
}

// Complete transforms whose work is done in `buffer` (n contiguous elements), so that the far side is touched once.
// forward: `from` (limited; may be the buffer) -> `to`. inverse: `from` -> the buffer, while the line at `next` is fetched.
template <class T>
void forward_through(const AxisView<T>& axis, const Line<T>& from, T* buffer, const Line<T>& to, T* scratch) {
    if (axis.inner || axis.stages <= 1) return transform<+1>(axis, from, to, scratch);
    const Line<T> work = whole(buffer, element<T>, axis.n);
    int64_t m = axis.n;
    stage<+1>(axis, 0, m, from, work);
    for (int s = 1; s < axis.stages; ++s) {
        m /= axis.radix[s - 1];
        stage<+1>(axis, s, m, work, s == axis.stages - 1 ? to : work);
    }
}
template <class T>
void inverse_through(const AxisView<T>& axis, const Line<T>& from, T* buffer, T* scratch, const T* next) {
    const Line<T> work = whole(buffer, element<T>, axis.n);
    if (axis.inner || axis.stages <= 1) return transform<-1>(axis, from, work, scratch);
    Ahead<T> ahead(next, from.stride, nullptr, 0, next ? axis.n : 0, butterflies(axis, axis.stages));
    int64_t m = 1;
    for (int s = axis.stages - 1; s >= 0; --s) {
        m *= axis.radix[s];
        stage<-1>(axis, s, m, s == axis.stages - 1 ? from : work, work, ahead);
    }
}

// Forward, × OTF, inverse. The work is done in `buffer` (n elements, contiguous), so that the strided line is touched
// exactly once each way. `next`, `next_otf` (or null): the line and OTF to fetch meanwhile.
template <Otf kind, class T>
void filter_line(const AxisView<T>& axis, const Line<T>& from, const Line<T>& to, const T* otf, const T* next, const T* next_otf,
                 T* buffer, T* scratch) {
    const int64_t n = axis.n;
    Line<T> work = whole(buffer, element<T>, n);
    if (axis.inner || axis.stages == 0) {
        transform<+1>(axis, from, work, scratch);
        for (int64_t j = 0; j < n; ++j) {
            T* p = buffer + j * element<T>;
            store_element(p, filtered<kind>(load_element(p), otf + j * otf_step<kind, T>));
        }
        transform<-1>(axis, work, to, scratch);
        return;
    }
    if (axis.stages == 1) return middle_stage<kind>(axis, from, to, otf);
    Ahead<T> ahead(next + from.start * from.stride, from.stride, next_otf, otf_step<kind, T>, next ? from.stop - from.start : 0,
                   2 * butterflies(axis, axis.stages - 1));
    int64_t m = n;
    stage<+1>(axis, 0, m, from, work, ahead);
    for (int s = 1; s < axis.stages - 1; ++s) {
        m /= axis.radix[s - 1];
        stage<+1>(axis, s, m, work, work, ahead);
    }
    middle_stage<kind>(axis, work, work, otf);
    m = axis.radix[axis.stages - 1];
    for (int s = axis.stages - 2; s > 0; --s) {
        m *= axis.radix[s];
        stage<-1>(axis, s, m, work, work, ahead);
    }
    stage<-1>(axis, 0, n, work, to, ahead);
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
