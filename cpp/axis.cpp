#include "axis.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>

namespace medeconv {
namespace {

// Time per point of one pass with that radix, load and store included, radix 4 being 1 (5.5 cycles per 16 points).
// Calibrated on an AMD Zen 4 core (AVX-512, float32), by timing one pass over data in L1, mean of forward and inverse.
constexpr struct { int radix; double cost; } radix_costs[] = {
    {16, 2.0}, {12, 1.67}, {10, 1.75}, {9, 1.85}, {8, 1.3}, {7, 1.65}, {6, 1.36}, {5, 1.3}, {4, 1.0}, {3, 0.98}, {2, 0.98},
};
// First stages that the fused turn of spectral_volume.simd.hpp has: registers must hold the elements and the operands.
constexpr int turn_radices[] = {8, 7, 6, 5, 4, 3, 2};
double generic_cost(int radix) { return 1.0 + 0.55 * radix; }

struct Factorisation {
    double cost;
    std::vector<int> radices;
};

// Cheapest product of known radices, by recursion over divisors; lengths are at most a few tens of thousands, and the
// memo keeps it instant.
const Factorisation& cheapest(int64_t n, std::map<int64_t, Factorisation>& memo) {
    auto found = memo.find(n);
    if (found != memo.end()) return found->second;
    Factorisation best{std::numeric_limits<double>::infinity(), {}};
    if (n == 1) best.cost = 0;
    for (auto [radix, cost] : radix_costs) {
        if (n % radix) continue;
        const Factorisation& rest = cheapest(n / radix, memo);
        if (rest.cost + cost < best.cost) {
            best.cost = rest.cost + cost;
            best.radices = rest.radices;
            best.radices.insert(best.radices.begin(), radix);
        }
    }
    for (int radix = 11; radix <= largest_generic_radix; radix += 2) {
        bool prime = true;
        for (int d = 3; d * d <= radix; d += 2) prime = prime && radix % d;
        if (!prime || n % radix) continue;
        const Factorisation& rest = cheapest(n / radix, memo);
        if (rest.cost + generic_cost(radix) < best.cost) {
            best.cost = rest.cost + generic_cost(radix);
            best.radices = rest.radices;
            best.radices.push_back(radix);
        }
    }
    return memo.emplace(n, std::move(best)).first->second;
}

Factorisation factorisation(int64_t n) {
    static std::mutex& mutex = *new std::mutex;
    static std::map<int64_t, Factorisation>& memo = *new std::map<int64_t, Factorisation>;
    std::lock_guard lock(mutex);
    return cheapest(n, memo);
}

}  // namespace

std::array<int, 3> ones_first(const std::array<int64_t, 3>& lengths) {
    std::array<int, 3> order{};
    int at = 0;
    for (int axis = 0; axis < 3; ++axis) if (lengths[size_t(axis)] == 1) order[size_t(at++)] = axis;
    for (int axis = 0; axis < 3; ++axis) if (lengths[size_t(axis)] != 1) order[size_t(at++)] = axis;
    return order;
}

std::complex<long double> root_of_unity(int64_t k, int64_t n) {
    k %= n;
    bool negative = false, swapped = false, reflected = false;
    if (2 * k > n) k = n - k, negative = true;
    if (4 * k > n) k = n - 2 * k, n *= 2, reflected = true;
    if (8 * k > n) k = n - 4 * k, n *= 4, swapped = true;
    long double angle = 2 * 3.141592653589793238462643383279502884L * (long double)k / (long double)n;
    long double c = std::cos(angle), s = std::sin(angle);
    if (swapped) std::swap(c, s);
    if (reflected) c = -c;
    if (negative) s = -s;
    return {c, s};
}

std::vector<int> factorise(int64_t n) {
    Factorisation f = factorisation(n);
    if (!std::isfinite(f.cost)) return {0};
    // Generic radices last: their stage is the slowest per twiddle, and the innermost has none.
    return f.radices;
}

double axis_cost(int64_t n) {
    double cost = factorisation(n).cost;
    if (std::isfinite(cost)) return cost;
    int64_t inner = good_size(2 * n - 1, false);
    return 2.0 * double(inner) / double(n) * (axis_cost(inner) + 1);
}

int64_t good_size(int64_t n, bool even) {
    if (n <= 2) return even ? 2 : std::max<int64_t>(n, 1);
    // A longer length also costs memory traffic in every pass: count that as two passes' worth beside the arithmetic.
    constexpr double traffic = 4.0;
    const int64_t most = n + n / 4 + 16;
    std::vector<int64_t> lengths;
    for (int64_t a = 1; a <= most; a *= 7)
        for (int64_t b = a; b <= most; b *= 5)
            for (int64_t c = b; c <= most; c *= 3)
                for (int64_t m = c; m <= most; m *= 2)
                    if (m >= n && !(even && m % 2)) lengths.push_back(m);
    std::sort(lengths.begin(), lengths.end());
    int64_t best = 0;
    double best_cost = std::numeric_limits<double>::infinity();
    for (const int64_t m : lengths) {
        if (double(m) * traffic >= best_cost) break;
        const double cost = double(m) * (traffic + axis_cost(m));
        if (cost < best_cost) best_cost = cost, best = m;
    }
    return best;
}

template <class T>
Axis<T>::Axis(int64_t length, bool turn) : n(length) {
    view.n = n;
    std::vector<int> radices = factorise(n);
    if (turn) {
        double best = std::numeric_limits<double>::infinity();
        for (auto [first, cost] : radix_costs) {
            if (n % first || std::find(std::begin(turn_radices), std::end(turn_radices), first) == std::end(turn_radices)) continue;
            const Factorisation rest = factorisation(n / first);
            if (rest.cost + cost >= best) continue;
            best = rest.cost + cost;
            radices.assign(1, first);
            radices.insert(radices.end(), rest.radices.begin(), rest.radices.end());
        }
    }
    bool bluestein = radices.size() == 1 && radices[0] == 0;
    frequency_at.resize(size_t(n));
    slot_of.resize(size_t(n));
    if (bluestein) {
        for (int64_t f = 0; f < n; ++f) frequency_at[size_t(f)] = slot_of[size_t(f)] = f;
        int64_t m = good_size(2 * n - 1, false);
        inner_ = std::make_unique<Axis<T>>(m);
        view.inner = &inner_->view;
        std::vector<T> chirp(size_t(2 * n));
        std::vector<std::complex<long double>> kernel(size_t(m), 0);
        for (int64_t j = 0; j < n; ++j) {
            int64_t square = int64_t((__int128(j) * j) % (2 * n));
            auto w = std::conj(root_of_unity(square, 2 * n));
            chirp[size_t(2 * j)] = T(w.real());
            chirp[size_t(2 * j + 1)] = T(w.imag());
            kernel[size_t(j)] = kernel[size_t((m - j) % m)] = std::conj(w);
        }
        // The chirp's transform by recursion on smooth lengths, in long double: it is done once per plan.
        struct Transform {
            static void run(std::vector<std::complex<long double>>& x) {
                int64_t n = int64_t(x.size());
                if (n == 1) return;
                int64_t p = 2;
                while (n % p) ++p;
                int64_t q = n / p;
                std::vector<std::vector<std::complex<long double>>> part(static_cast<size_t>(p));
                for (auto& y : part) y.resize(static_cast<size_t>(q));
                for (int64_t j = 0; j < n; ++j) part[size_t(j % p)][size_t(j / p)] = x[size_t(j)];
                for (auto& y : part) run(y);
                for (int64_t k = 0; k < n; ++k) {
                    std::complex<long double> sum = 0;
                    for (int64_t j = 0; j < p; ++j) sum += part[size_t(j)][size_t(k % q)] * std::conj(root_of_unity(j * k % n, n));
                    x[size_t(k)] = sum;
                }
            }
        };
        std::vector<std::complex<long double>> forward = kernel, inverse(kernel);
        for (auto& v : inverse) v = std::conj(v);
        Transform::run(forward);
        Transform::run(inverse);
        tables_.push_back(std::move(chirp));
        view.chirp = tables_.back().data();
        for (int direction = 0; direction < 2; ++direction) {
            auto& spectrum = direction ? inverse : forward;
            std::vector<T> table(size_t(2 * m));
            for (int64_t f = 0; f < m; ++f) {
                int64_t s = inner_->slot_of[size_t(f)];
                table[size_t(2 * s)] = T(spectrum[size_t(f)].real() / (long double)m);
                table[size_t(2 * s + 1)] = T(spectrum[size_t(f)].imag() / (long double)m);
            }
            tables_.push_back(std::move(table));
            view.chirp_spectrum[direction] = tables_.back().data();
        }
        return;
    }
    view.stages = int(radices.size());
    int64_t m = n, step = 1;
    for (int64_t s = 0; s < n; ++s) frequency_at[size_t(s)] = 0;
    for (size_t s = 0; s < radices.size(); ++s) {
        int r = radices[s];
        int64_t part = m / r;
        view.radix[s] = r;
        std::vector<T> twiddle;
        if (part > 1) {
            twiddle.reserve(size_t(part * (r - 1) * 2));
            for (int64_t k = 0; k < part; ++k)
                for (int p = 1; p < r; ++p) {
                    auto w = root_of_unity(k * p % m, m);
                    twiddle.push_back(T(w.real()));
                    twiddle.push_back(T(w.imag()));
                }
        }
        tables_.push_back(std::move(twiddle));
        view.twiddle[s] = tables_.back().data();
        view.roots[s] = nullptr;
        if (r > 7 && r % 2 && r != 9) {
            std::vector<T> roots;
            for (int j = 0; j < r; ++j) {
                auto w = root_of_unity(j, r);
                roots.push_back(T(w.real()));
                roots.push_back(T(w.imag()));
            }
            tables_.push_back(std::move(roots));
            view.roots[s] = tables_.back().data();
        }
        for (int64_t slot = 0; slot < n; ++slot) frequency_at[size_t(slot)] += step * ((slot % m) / part);
        step *= r;
        m = part;
    }
    for (int64_t s = 0; s < n; ++s) slot_of[size_t(frequency_at[size_t(s)])] = s;
}

template class Axis<float>;
template class Axis<double>;

}  // namespace medeconv
