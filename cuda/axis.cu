#include "axis.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace medeconv::cuda {
namespace {

size_t aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

std::vector<int> factorise(int64_t n, int largest) {
    int count[8] = {};
    for (int p : {2, 3, 5, 7})
        while (n > 1 && n % p == 0) n /= p, ++count[p];
    // The fewest stages: a barrier and a pass through shared memory each. Of equally many those whose radices differ least, which
    // keep as many threads busy as possible: 2^4 is 4·4 rather than 8·2. Powers of two come first: of the last stage's elements,
    // which are neighbours, a thread's lie as far from the next one's as the radix says, and a power of two meets the same banks.
    std::vector<int> best, found;
    double best_cost = std::numeric_limits<double>::infinity();
    const int most_tens = largest >= 10 ? std::min(count[2], count[5]) : 0, most_nines = largest >= 9 ? count[3] / 2 : 0;
    for (int tens = 0; tens <= most_tens; ++tens)
        for (int nines = 0; nines <= most_nines; ++nines)
            for (int sixes = 0; sixes <= std::min(count[2] - tens, count[3] - 2 * nines); ++sixes) {
                const int left = count[2] - tens - sixes;
                int eights = left / 3, fours = 0, twos = 0;
                if (left % 3 == 2) fours = 1;
                else if (left % 3 == 1 && eights > 0) --eights, fours = 2;
                else if (left % 3 == 1) twos = 1;
                found.clear();
                double cost = 0;
                const auto add = [&](int radix, int times) {
                    found.insert(found.end(), size_t(times), radix);
                    cost += times * (1e3 + radix);
                };
                add(8, eights), add(4, fours), add(10, tens), add(9, nines), add(7, count[7]), add(6, sixes), add(5, count[5] - tens);
                add(3, count[3] - 2 * nines - sixes), add(2, twos);
                if (cost < best_cost) best_cost = cost, best = found;
            }
    while (best.size() < 2) best.insert(best.begin(), 1);
    for (int64_t p = 11; n > 1; p += 2)
        for (p = p * p > n ? n : p; n % p == 0; n /= p) best.insert(best.begin() + 1, int(p));
    return best;
}

bool is_compiled(int64_t length) {
    return std::find(std::begin(compiled_lengths), std::end(compiled_lengths), length) != std::end(compiled_lengths);
}

int64_t good_size(int64_t n, bool even, bool last) {
    if (n <= 1) return even ? 2 : 1;
    // Device memory takes most of the time: a stage in shared memory counts as a tenth of a sweep's traffic.
    // Along the last axis lengths that kernels are not compiled for cost a third more (measured, NOTES.md).
    constexpr double traffic = 10.0, as_it_runs = 4.0;
    int64_t best = 0;
    double best_cost = std::numeric_limits<double>::infinity();
    // Of an odd part the smallest power of two that reaches n: a larger one has no fewer stages. So few lengths are tried that
    // the time does not grow with n.
    const auto within = [&](int64_t odd) { return double(odd) * traffic < best_cost; };
    for (int64_t seven = 1; within(seven); seven *= 7)
        for (int64_t five = seven; within(five); five *= 5)
            for (int64_t odd = five; within(odd); odd *= 3) {
                int64_t m = even ? 2 * odd : odd;
                while (m < n) m *= 2;
                const double stages = double(factorise(m, largest_butterfly<float>).size());
                const double cost = double(m) * (traffic + stages + (last && !is_compiled(m) ? as_it_runs : 0));
                if (cost < best_cost || (cost == best_cost && m < best)) best_cost = cost, best = m;
            }
    return best;
}

template <class T>
Axis<T>::Axis(int64_t length) : n(length) {
    if (n < 1) throw std::invalid_argument("grid: got an axis of " + std::to_string(n) + ", expected 1 or more");
    if (n <= longest_axis<T>) radix_ = factorise(n, largest_butterfly<T>);
    spare_ = !radix_.empty() && *std::max_element(radix_.begin(), radix_.end()) > largest_butterfly<T>;
    const int64_t longest = longest_axis<T> / (spare_ ? 2 : 1);
    if (n > longest)
        throw std::invalid_argument("grid: got an axis of " + std::to_string(n) + ", but backend 'cuda' transforms at most " +
                                    std::to_string(longest) + " values along an axis " +
                                    (spare_ ? "whose length has prime factors above 7" : "in this dtype") + "; cut the image into tiles");
}

template <class T>
size_t Axis<T>::twiddle_bytes() const {
    int64_t count = 0, m = n;
    for (int r : radix_) count += m / r * (r - 1), m /= r;
    return aligned(size_t(count) * sizeof(Pair<T>));
}
template <class T>
size_t Axis<T>::table_bytes() const {
    return twiddle_bytes() + aligned(size_t(n) * sizeof(Pair<T>)) + aligned(size_t(n) * sizeof(int));
}

template <class T>
void Axis<T>::write_tables(void* host) const {
    const AxisView<T> at = view(host);
    auto* twiddle = const_cast<Pair<T>*>(at.twiddles);
    auto* const roots = const_cast<Pair<T>*>(at.roots);
    auto* const slots = const_cast<int*>(at.slot);
    // Cosines and sines of the first part of the circle; reflections give the others, exactly.
    const int64_t computed = n % 8 == 0 ? n / 8 : n % 4 == 0 ? n / 4 : n / 2;
    for (int64_t k = 0; k <= computed; ++k) {
        const long double angle = 2 * 3.141592653589793238462643383279502884L * (long double)k / (long double)n;
        roots[k] = {T(std::cos(angle)), T(std::sin(angle))};
    }
    if (n % 4 == 0) roots[n / 4] = {T(0), T(1)};
    if (n % 8 == 0)
        for (int64_t k = 0; k < n / 8; ++k) roots[n / 4 - k] = {roots[k].im, roots[k].re};
    if (n % 4 == 0)
        for (int64_t k = 0; k < n / 4; ++k) roots[n / 2 - k] = {-roots[k].re, roots[k].im};
    if (n % 2 == 0) roots[n / 2] = {T(-1), T(0)};
    for (int64_t k = 1; 2 * k < n; ++k) roots[n - k] = {roots[k].re, -roots[k].im};

    // The slot of a frequency is its digits, the least significant one, of the first radix, in the highest place.
    slots[0] = 0;
    int64_t filled = 1, place = n;
    for (int r : radix_) {
        place /= r;
        for (int digit = 1; digit < r; ++digit)
            for (int64_t f = 0; f < filled; ++f) slots[digit * filled + f] = slots[f] + int(digit * place);
        filled *= r;
    }
    for (int stage = 0; stage < at.stages; ++stage)
        for (int p = 1; p < at.radix[stage]; ++p)
            for (int64_t k = 0; k < at.part[stage]; ++k) *twiddle++ = roots[k * p * at.step[stage]];  // below n: part·radix·step is n
}

template <class T>
AxisView<T> Axis<T>::view(const void* device_tables) const {
    AxisView<T> v;
    v.n = int(n);
    v.stages = int(radix_.size());
    v.spare = spare_;
    int64_t m = n;
    int twiddles = 0;
    for (int s = 0; s < v.stages; ++s) {
        v.radix[s] = radix_[size_t(s)];
        m /= v.radix[s];
        v.part[s] = int(m);
        v.first_twiddle[s] = twiddles;
        twiddles += v.part[s] * (v.radix[s] - 1);
        v.step[s] = int(n / (m * v.radix[s]));
        v.butterflies[s] = int(n / v.radix[s]);
        v.reciprocal[s] = m > 1 ? unsigned(((uint64_t(1) << 32) + uint64_t(m) - 1) / uint64_t(m)) : 0;
    }
    if (!device_tables) return v;
    const char* const tables = static_cast<const char*>(device_tables);
    v.twiddles = reinterpret_cast<const Pair<T>*>(tables);
    v.roots = reinterpret_cast<const Pair<T>*>(tables + twiddle_bytes());
    v.slot = reinterpret_cast<const int*>(tables + twiddle_bytes() + aligned(size_t(n) * sizeof(Pair<T>)));
    return v;
}

template class Axis<float>;
template class Axis<double>;

}  // namespace medeconv::cuda
