#include <algorithm>
#include <limits>
#include <stdexcept>

#include "overlap_plan.hpp"
#include "sums.hpp"

namespace medeconv {
namespace {

int64_t extent(Range r) { return r.stop - r.start; }

// The segment with which a line of n results and k taps costs least: longer ones waste less on their overlap, but a group
// of them leaves the L2 cache, and a short line leaves lanes idle.
int64_t segment_length(int64_t n, int64_t k, int64_t lanes, int64_t value_bytes) {
    constexpr int64_t cached = 256 << 10;
    constexpr double passes = 5.0;             // copies, transpositions and splits, in units of axis_cost
    int64_t best = 0;
    double best_cost = std::numeric_limits<double>::infinity();
    for (int64_t want = std::max<int64_t>(k + k / 8, 32); want < 16 * k + 16384; want += want / 8) {
        const int64_t length = good_size(want, true), step = length - k + 1;
        const int64_t segments = (n + step - 1) / step, groups = (segments + lanes - 1) / lanes;
        const double slow = length * lanes * value_bytes * 2 > cached ? 1.5 : 1.0;
        const double cost = double(groups) * double(length) * (passes + axis_cost(length / 2)) * slow;
        if (cost < best_cost) best_cost = cost, best = length;
    }
    return best;
}

}  // namespace

template <class T>
OverlapPlan<T>::OverlapPlan(Box estimate, Box image, bool periodic)
    : estimate_box(estimate), image_box(image), kernels_(overlap_kernels<T>()), periodic_(periodic) {
    for (size_t a = 0; a < 2; ++a)
        if (extent(estimate[a]) != 1 || extent(image[a]) != 1) throw std::invalid_argument("box: only the last axis may be longer than 1");
}

template <class T>
std::shared_ptr<typename OverlapPlan<T>::Filters> OverlapPlan<T>::filters(const T* psf, int64_t taps, int64_t centre) const {
    if (taps < 1 || centre < 0 || centre >= taps) throw std::invalid_argument("psf: the centre must lie in it");
    auto made = std::make_shared<Filters>();
    made->taps = taps, made->centre = centre;
    const int64_t length = segment_length(largest_box(), taps, kernels_.lanes, int64_t(sizeof(T)));
    made->half = std::make_unique<HalfAxis<T>>(length, false);
    SpectralView<T>& v = made->segment;
    v = {};
    v.image = true;
    made->half->describe(v, kernels_.lanes);
    Buffer<T> scratch = acquire<T>(kernels_.scratch(v));
    // y[i] = sum_j h[j] x[i - (j - c)] reads x[i + base + m] times h[k - 1 - m]; the adjoint x[i + base' + m] times h[m]
    std::vector<T> reversed(psf, psf + taps);
    std::reverse(reversed.begin(), reversed.end());
    const T scale = T(1) / T(4 * length);      // forward, OTF, join and inverse carry 2 · 2 · 2 · length/2
    const T* values[2] = {reversed.data(), psf};
    std::vector<T>* tables[2] = {&made->forward, &made->adjoint};
    for (size_t i = 0; i < 2; ++i) {
        std::vector<T>* table = tables[i];
        table->resize(size_t(length));
        kernels_.spectrum(v, values[i], taps, table->data(), scratch.get());
        for (T& value : *table) value *= scale;
    }
    return made;
}

template <class T>
void OverlapPlan<T>::sweep(const T* input, T* result, const Filters& filters, bool adjoint, Formula formula,
                           const Operands<T>& operands, int threads, const Poll& poll) const {
    const Range from = (adjoint ? image_box : estimate_box)[2], to = (adjoint ? estimate_box : image_box)[2];
    const int64_t before = adjoint ? filters.centre : filters.taps - 1 - filters.centre;
    OverlapPass<T> pass{&filters.segment, (adjoint ? filters.adjoint : filters.forward).data(), extent(from), extent(to),
                              to.start - from.start - before, filters.taps, periodic_, input, result, formula, operands};
    const int64_t size = (kernels_.scratch(filters.segment) + 63) / 64 * 64, group = pass.step() * kernels_.lanes;
    Buffer<T> scratch = acquire<T>(size * threads);
    const Sums<T> sums(pass.operands, (pass.destination + group - 1) / group * kernels_.lanes);
    parallel_for((pass.destination + group - 1) / group, threads,
                 [&](int64_t unit, int worker) { kernels_.group(pass, unit, scratch.get() + worker * size); }, poll);
    sums.finish();
}

template <class T>
int64_t OverlapPlan<T>::largest_box() const {
    return std::max(extent(estimate_box[2]), extent(image_box[2]));
}

template class OverlapPlan<float>;
template class OverlapPlan<double>;

}  // namespace medeconv
