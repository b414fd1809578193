// The real axis of the spectral engine: from the transform of packed pairs to the spectrum of the real samples and
// back, along a line of elements. Packing: spectral.hpp.
#pragma once
#include "fft.simd.hpp"
#include "spectral.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// Spectrum of the real samples from the transform of the packed pairs, and back; both without the halves (the OTF's
// scale has them). With f' = n/2 - f:  X(f), X(f') from Z(f), Z(f').
template <class T>
MEDECONV_INLINE void split_pair(C<T>& a, C<T>& b, T c, T s) {
    const C<T> even = a + conjugate(b), odd = quarter_turn<+1>(a - conjugate(b));
    const C<T> turned = rotate<+1>(odd, c, s);
    a = even + turned;
    b = conjugate(even - turned);
}
template <class T>
MEDECONV_INLINE void join_pair(C<T>& a, C<T>& b, T c, T s) {
    const C<T> even = a + conjugate(b), odd = rotate<-1>(a - conjugate(b), c, s);
    const C<T> turned = quarter_turn<-1>(odd);
    a = even + turned;
    b = conjugate(even - turned);
}
template <bool join, class T>
void split_or_join(const SpectralView<T>& p, T* line) {
    {
        const C<T> v = load_element(line);
        if constexpr (join) store_element(line, C<T>{v.re + v.im, v.re - v.im});
        else store_element(line, C<T>{(v.re + v.im) * T(2), (v.re - v.im) * T(2)});
    }
    for (int64_t i = 0; i < p.pairs; ++i) {
        const HalfPair<T>& pair = p.pair[i];
        T *at = line + pair.slot * element<T>, *partner = line + pair.partner * element<T>;
        C<T> a = load_element(at), b = load_element(partner);
        if constexpr (join) join_pair<T>(a, b, pair.cosine, pair.sine);
        else split_pair<T>(a, b, pair.cosine, pair.sine);
        store_element(at, a);
        store_element(partner, b);
    }
    if (p.middle >= 0) {  // f = n/4 is its own partner: X = conj Z
        T* at = line + p.middle * element<T>;
        const C<T> v = load_element(at);
        store_element(at, C<T>{v.re * T(2), v.im * T(-2)});
    }
}

// Unpacked (odd length): a complex transform of real samples; the kept bins are gathered from their slots, and the
// missing half is the conjugate.
template <class T>
void gather_bins(const SpectralView<T>& p, const T* from, T* to) {
    for (int64_t f = 0; f < p.bins; ++f)
        store_element(to + f * element<T>, load_element(from + p.bin_slot[f] * element<T>));
}
template <class T>
void scatter_bins(const SpectralView<T>& p, const T* from, T* to) {
    for (int64_t f = 0; f < p.bins; ++f) {
        const C<T> v = load_element(from + f * element<T>);
        store_element(to + p.bin_slot[f] * element<T>, v);
        if (f > 0) store_element(to + p.bin_slot[p.real - f] * element<T>, conjugate(v));
    }
}
// Blocks are whole: what lies beyond the last bin must be finite.
template <class T>
void clear_beyond_bins(const SpectralView<T>& p, T* line) {
    for (int64_t f = p.bins; f < p.blocks * lanes<T>; ++f) store_element(line + f * element<T>, C<T>{Vec<T>{}, Vec<T>{}});
}

// L lines of one component (16 registers' worth): `from` and `to` rows are one element apart.
template <class T>
MEDECONV_INLINE void transpose_block(const T* from, T* to) {
    constexpr int L = lanes<T>;
    unroll<2>([&](auto half) MEDECONV_BODY {
        Vec<T> v[L];
        unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(from + i * element<T> + half * L); });
        transpose<T>(v);
        unroll<L>([&](auto i) MEDECONV_BODY { store(to + i * element<T> + half * L, v[i]); });
    });
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
