// One axis of a transform on the GPU: how its length is factorised, and the tables that the kernels read.
//
// Forward is decimation in frequency, inverse decimation in time, both in place in shared memory, so that nothing is
// reordered: frequency f sits at a slot of its own, `slot`, and what is stored per frequency (the OTF) is stored per slot. Stage s
// works on sub-transforms of length part[s]·radix[s]: it takes elements k, k + part, …, transforms them and multiplies output
// p by exp(-2πi kp/length). Every axis has two stages or more, the first of radix 1 (a copy into shared memory) if need be: a
// kernel reads global memory in its first stage, writes it in its last, and has a barrier in between.
// Prime factors above 7, which only periodic filters of such a length have, are sums written out, in stages between the first and
// the last, and take a second line of shared memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace medeconv::cuda {

template <class T>
struct alignas(2 * sizeof(T)) Pair {     // a complex number in memory: one access
    T re, im;
};

constexpr int most_stages = 10;
// Of a stage in registers; float64 has none for more.
template <class T>
constexpr int largest_butterfly = sizeof(T) == 4 ? 10 : 8;
// Lengths of rows that kernels of float32 are compiled for, see FixedAxis in lines.cuh.
constexpr int compiled_lengths[] = {256, 288, 320, 384, 512, 576, 640, 768, 1024};
constexpr size_t most_shared_bytes = 227 << 10;   // of a block, compute capability 9.0

// A longer axis does not fit a block.
template <class T>
constexpr int64_t longest_axis = int64_t(most_shared_bytes / sizeof(Pair<T>) * 16 / 18);

// What a kernel sees.
template <class T>
struct AxisView {
    int n = 1, stages = 0;
    bool spare = false;                      // a second line is needed
    // Of stage s: its butterflies' elements are `part` apart, element p of number k is turned by kp·step/n; butterflies: n/radix.
    int radix[most_stages] = {}, part[most_stages] = {}, step[most_stages] = {}, butterflies[most_stages] = {};
    unsigned reciprocal[most_stages] = {};   // of part: quotients of what is below 2^15, see `quotient`
    int first_twiddle[most_stages] = {};
    const Pair<T>* twiddles = nullptr;       // of stage s from there on: (cos, sin) of 2π kp·step/n, p = 1 … outer, k inner
    const Pair<T>* roots = nullptr;          // (cos, sin) of 2πk/n
    const int* slot = nullptr;               // of frequency f
};

// One whose length is a power of two from 64 on, so that its radices are 8 and 4: kernels are spared the others.
template <class T>
struct PowerOfTwo : AxisView<T> {};

template <class T>
class Axis {
public:
    explicit Axis(int64_t n);                // throws if n is too long
    int64_t n;
    // The tables lie one behind the other: twiddles, roots, slots.
    size_t table_bytes() const;
    void write_tables(void* host) const;
    AxisView<T> view(const void* device_tables) const;  // null: sizes only

private:
    size_t twiddle_bytes() const;
    std::vector<int> radix_;
    bool spare_;
};

// Radices of n, first stage first; those that are products are at most `largest`.
std::vector<int> factorise(int64_t n, int largest);
// Cheapest length >= n (even: among even ones) of those factors; longer than a block can hold, if n is. last: of the axis whose
// elements are neighbours in memory.
int64_t good_size(int64_t n, bool even, bool last);

// Threads that share a line of stages with so many butterflies (0: a stage that does not count), at most `most`: those that spend
// the least time, all together, on stages of which they do not have one butterfly each.
template <class Butterflies>
constexpr int team_for(int stages, Butterflies butterflies, int most) {
    int fewest = 1 << 30, all = 1;
    for (int s = 0; s < stages; ++s)
        if (const int b = butterflies(s)) fewest = b < fewest ? b : fewest, all = b > all ? b : all;
    const int highest = all < most ? all : most, lowest = fewest < (highest + 1) / 2 ? fewest : (highest + 1) / 2;
    int best = highest, best_cost = 1 << 30;
    for (int team = highest; team >= lowest; --team) {
        int cost = 0;
        for (int s = 0; s < stages; ++s) cost += team * ((butterflies(s) + team - 1) / team);
        if (cost < best_cost) best_cost = cost, best = team;
    }
    return best;
}
template <class T>
int team_of(const AxisView<T>& axis, int most) {
    return team_for(axis.stages, [&](int s) { return axis.radix[s] <= largest_butterfly<T> ? axis.butterflies[s] : 0; }, most);
}

}  // namespace medeconv::cuda
