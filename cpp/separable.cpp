#include <algorithm>
#include <stdexcept>
#include <utility>

#include "separable_plan.hpp"
#include "sums.hpp"

namespace medeconv {
namespace {

constexpr int64_t ring_bytes = 2 << 20;      // a worker's, best in its L2 cache; twice that size still beats narrower bands
constexpr int64_t most_rows = 64;            // of a band
constexpr int64_t bands_per_thread = 2;      // at least: so that they end together

int64_t extent(Range r) { return r.stop - r.start; }
bool differ(const Box& a, const Box& b) {
    return !std::equal(a.begin(), a.end(), b.begin(), [](Range r, Range q) { return r.start == q.start && r.stop == q.stop; });
}

}  // namespace

template <class T>
SeparablePlan<T>::SeparablePlan(Box estimate, Box image, Boundary boundary, Box unfolded)
    : estimate_box(estimate), image_box(image), unfolded_box(unfolded), kernels_(separable_kernels<T>()), boundary_(boundary) {}

template <class T>
typename SeparablePlan<T>::Filters SeparablePlan<T>::filters(const std::vector<Taps>& terms, Shape centre) const {
    if (terms.empty()) throw std::invalid_argument("taps: expected at least one term");
    Filters made;
    for (const Taps& taps : terms) {
        Term term;
        for (size_t a = 0; a < 3; ++a) {
            const int64_t k = int64_t(taps[a].size());
            if (k < 1 || centre[a] < 0 || centre[a] >= k) throw std::invalid_argument("taps: the centre must lie among them");
            if (!made.terms.empty() && made.taps[a] != k) throw std::invalid_argument("taps: all terms must have the same shape");
            made.taps[a] = k, made.centre[a] = centre[a];
            term.adjoint[a] = taps[a];
            term.forward[a].assign(taps[a].rbegin(), taps[a].rend());
            term.symmetric[a] = term.forward[a] == term.adjoint[a];
        }
        made.terms.push_back(std::move(term));
    }
    return made;
}

template <class T>
void SeparablePlan<T>::sweep(const T* input, T* result, const Filters& filters, bool adjoint, Formula formula,
                             const Operands<T>& operands, int threads, const Poll& poll) const {
    Operands<T> last = operands;
    Buffer<T> sum;  // of all terms but the last, which the formula then takes with it
    for (size_t i = 0; i + 1 < filters.terms.size(); ++i) {
        if (!sum) sum = acquire<T>(largest_box());
        Operands<T> summing;
        summing.out = sum.get();
        summing.partial = i ? sum.get() : operands.partial;
        apply(input, nullptr, filters, filters.terms[i], adjoint, Formula::copy, summing, threads, poll);
        last.partial = sum.get();
    }
    apply(input, result, filters, filters.terms.back(), adjoint, formula, last, threads, poll);
}

template <class T>
void SeparablePlan<T>::apply(const T* input, T* result, const Filters& filters, const Term& term, bool adjoint, Formula formula,
                             const Operands<T>& operands, int threads, const Poll& poll) const {
    const Box &from = read_box(adjoint), &to = written_box(adjoint);
    const Boundary boundary = adjoint && differ(unfolded_box, estimate_box) ? Boundary::zero : boundary_;
    auto axis = [&](size_t a) {
        // y[i] = sum_j h[j] x[i - (j - c)]; its transpose reads at i + (j - c)
        const int64_t before = adjoint ? filters.centre[a] : filters.taps[a] - 1 - filters.centre[a];
        const T* weight = (adjoint ? term.adjoint : term.forward)[a].data();
        return AxisFilter<T>{extent(from[a]), extent(to[a]), to[a].start - from[a].start - before, filters.taps[a], weight,
                             term.symmetric[a]};
    };
    SeparablePass<T> pass{axis(0), axis(1), axis(2), boundary, input, result, formula, operands, 0};
    // The rows that the y filter reads beyond a band are read again by the next one, so bands are as wide as the ring and the
    // threads allow. They change no arithmetic.
    const int64_t step = kernels_.rows_at_once, rows = pass.y.destination;
    const int64_t in_ring = ring_bytes / int64_t(sizeof(T)) / ((pass.z.taps + kernels_.slices_at_once - 1) * pass.x.destination);
    auto multiple = [](int64_t n, int64_t of) { return (n + of - 1) / of * of; };
    const int64_t bands = multiple(std::max((rows + most_rows - 1) / most_rows, bands_per_thread * threads), threads);
    pass.band = std::max(step, std::min(in_ring / step * step, multiple((rows + bands - 1) / bands, step)));
    const int64_t size = (kernels_.scratch(pass) + 63) / 64 * 64;
    Buffer<T> scratch = acquire<T>(size * threads);
    const Sums<T> sums(pass.operands, pass.z.destination * pass.y.destination);
    parallel_for((pass.y.destination + pass.band - 1) / pass.band, threads,
                 [&](int64_t unit, int worker) { kernels_.band(pass, unit, scratch.get() + worker * size); }, poll);
    sums.finish();
}

template <class T>
int64_t SeparablePlan<T>::largest_box() const {
    auto size = [](const Box& b) { return extent(b[0]) * extent(b[1]) * extent(b[2]); };
    return std::max({size(estimate_box), size(image_box), size(unfolded_box)});
}

template class SeparablePlan<float>;
template class SeparablePlan<double>;

}  // namespace medeconv
