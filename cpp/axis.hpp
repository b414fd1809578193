// One axis of a transform: its length, how it is factorised, and the tables that the passes read.
//
// Forward is decimation in frequency, inverse decimation in time, both in place, so that no pass ever reorders:
// frequency f sits at slot `slot_of[f]`, and everything stored per frequency (the OTF) is stored per slot.
// Stage s works on sub-transforms of length m (m = n at stage 0, divided by radix[s] each time): it takes elements
// k, k + m/r, …, transforms them and multiplies output p by exp(-2πi kp/m).
// A length with a prime factor above `largest_generic_radix` goes through Bluestein's algorithm (natural order).
#pragma once
#include <array>
#include <complex>
#include <cstdint>
#include <memory>
#include <vector>

namespace medeconv {

constexpr int max_stages = 40;
constexpr int largest_generic_radix = 31;

// What the per-ISA code sees: plain data only.
template <class T>
struct AxisView {
    int64_t n;
    int stages;
    int radix[max_stages];
    const T* twiddle[max_stages];        // (m/r)·(r-1) pairs (cos, sin) of 2π kp/m; k outer, p = 1 … r-1 inner
    const T* roots[max_stages];          // generic odd radix r: r pairs (cos, sin) of 2π j/r; else null
    // Bluestein: a circular convolution of length inner->n with a chirp
    const AxisView* inner;               // null unless Bluestein
    const T* chirp;                      // n pairs: exp(-πi j²/n) as (re, im)
    const T* chirp_spectrum[2];          // inner->n pairs in slot order, /inner->n: forward, inverse
};

template <class T>
class Axis {
public:
    // `turn`: stage 0 is one that the fused turn of spectral_volume.simd.hpp has.
    explicit Axis(int64_t n, bool turn = false);
    int64_t n;
    AxisView<T> view{};
    std::vector<int64_t> frequency_at;   // slot -> frequency
    std::vector<int64_t> slot_of;        // frequency -> slot
    int64_t mirrored(int64_t slot) const { return slot_of[size_t((n - frequency_at[size_t(slot)]) % n)]; }

private:
    std::vector<std::vector<T>> tables_;
    std::unique_ptr<Axis<T>> inner_;
};

// Axes of one voxel are moved to the front: they change nothing in memory, and the passes want long last axes.
// Returns for each of the three places the axis that goes there.
std::array<int, 3> ones_first(const std::array<int64_t, 3>& lengths);
template <class A>
A permuted(const A& a, const std::array<int, 3>& order) {
    return {a[size_t(order[0])], a[size_t(order[1])], a[size_t(order[2])]};
}

// exp(2πi k/n), the angle reduced exactly first.
std::complex<long double> root_of_unity(int64_t k, int64_t n);

// Radices of n, first stage first; empty for n = 1; {0} when n needs Bluestein.
std::vector<int> factorise(int64_t n);
// Cost of a complex transform of length n, in arbitrary units per n (comparable between lengths).
double axis_cost(int64_t n);
// Cheapest length >= n (even: among even ones).
int64_t good_size(int64_t n, bool even);

}  // namespace medeconv
