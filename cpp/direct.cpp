#include <algorithm>
#include <stdexcept>

#include "direct_plan.hpp"
#include "sums.hpp"

namespace medeconv {
namespace {

constexpr int64_t ring_bytes = 384 << 10;      // what copied and added slices may take of a core's L2 cache
constexpr int64_t widest_block = 1024, narrowest_block = 256;
constexpr int64_t units_per_thread = 8;        // so that none waits long for the last one

int64_t extent(Range r) { return r.stop - r.start; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// psf[j] = psf[k - 1 - j] along `axis`
template <class T>
bool symmetric(const T* psf, const Shape& shape, size_t axis) {
    if (shape[axis] < 2) return false;
    for (int64_t z = 0; z < shape[0]; ++z)
        for (int64_t y = 0; y < shape[1]; ++y)
            for (int64_t x = 0; x < shape[2]; ++x) {
                Shape other{z, y, x};
                other[axis] = shape[axis] - 1 - other[axis];
                if (psf[(z * shape[1] + y) * shape[2] + x] != psf[(other[0] * shape[1] + other[1]) * shape[2] + other[2]]) return false;
            }
    return true;
}

// How the destination is cut. Nothing that a cut changes reaches the result.
template <class T>
void cut(DirectPass<T>& p, int threads) {
    const int64_t slices = p.z.taps + (p.z.folded ? p.z.taps / 2 : 0);
    auto rows_that_fit = [&](int64_t columns) {
        return ring_bytes / (slices * (columns + p.x.taps + 16) * int64_t(sizeof(T))) - (p.y.taps - 1);
    };
    auto even = [](DirectAxis& axis, int64_t block, int64_t multiple) {  // blocks of about the same size
        axis.block = ceil_div(ceil_div(axis.destination, ceil_div(axis.destination, block)), multiple) * multiple;
    };
    int64_t columns = std::min(p.x.destination, widest_block);
    while (columns / 2 >= narrowest_block && rows_that_fit(columns) < 2 * direct_rows) columns /= 2;
    even(p.x, columns, 64);
    const int64_t wanted = threads == 1 ? 1 : units_per_thread * threads;
    even(p.y, std::clamp<int64_t>(rows_that_fit(std::min(p.x.block, p.x.destination)), direct_rows, 16 * direct_rows), direct_rows);
    // A range of slices copies taps - 1 more than it has.
    p.z.block = std::max(ceil_div(p.z.destination, ceil_div(wanted, p.x.blocks() * p.y.blocks())), 4 * p.z.taps);
    const int64_t bands = ceil_div(wanted, p.x.blocks() * p.z.blocks());
    if (bands > p.y.blocks()) even(p.y, std::max(ceil_div(p.y.destination, bands), direct_rows), direct_rows);
}

}  // namespace

template <class T>
DirectPlan<T>::DirectPlan(Box estimate, Box image, bool periodic)
    : estimate_box(estimate), image_box(image), kernels_(direct_kernels<T>()), periodic_(periodic) {}

template <class T>
typename DirectPlan<T>::Filters DirectPlan<T>::filters(const T* psf, Shape shape, Shape centre) const {
    for (size_t a = 0; a < 3; ++a)
        if (shape[a] < 1 || centre[a] < 0 || centre[a] >= shape[a]) throw std::invalid_argument("psf: the centre must lie in it");
    Filters made{{}, {}, shape, centre, symmetric(psf, shape, 0), symmetric(psf, shape, 2)};
    const int64_t zs = made.folded_z ? (shape[0] + 1) / 2 : shape[0], xs = made.folded_x ? (shape[2] + 1) / 2 : shape[2];
    for (int64_t z = 0; z < zs; ++z)
        for (int64_t x = 0; x < xs; ++x)
            for (int64_t y = 0; y < shape[1]; ++y) {
                made.forward.push_back(psf[((shape[0] - 1 - z) * shape[1] + shape[1] - 1 - y) * shape[2] + shape[2] - 1 - x]);
                made.adjoint.push_back(psf[(z * shape[1] + y) * shape[2] + x]);
            }
    return made;
}

template <class T>
void DirectPlan<T>::sweep(const T* input, T* result, const Filters& filters, bool adjoint, Formula formula,
                          const Operands<T>& operands, int threads, const Poll& poll) const {
    const Box& from = adjoint ? image_box : estimate_box;
    const Box& to = adjoint ? estimate_box : image_box;
    auto axis = [&](size_t a, bool folded) {
        // y[i] = sum_j h[j] x[i - (j - c)]; its transpose reads at i + (j - c)
        const int64_t before = adjoint ? filters.centre[a] : filters.taps[a] - 1 - filters.centre[a];
        return DirectAxis{extent(from[a]), extent(to[a]), to[a].start - from[a].start - before, filters.taps[a], 1, folded};
    };
    DirectPass<T> pass{axis(0, filters.folded_z), axis(1, false), axis(2, filters.folded_x), periodic_,
                       (adjoint ? filters.adjoint : filters.forward).data(), input, result, formula, operands};
    cut(pass, threads);
    const int64_t size = ceil_div(kernels_.scratch(pass), 64) * 64;
    Buffer<T> scratch = acquire<T>(size * threads);
    const Sums<T> sums(pass.operands, pass.z.destination * pass.y.destination * pass.x.blocks());
    parallel_for(pass.z.blocks() * pass.y.blocks() * pass.x.blocks(), threads,
                 [&](int64_t unit, int worker) { kernels_.block(pass, unit, scratch.get() + worker * size); }, poll);
    sums.finish();
}

template <class T>
int64_t DirectPlan<T>::largest_box() const {
    auto size = [](const Box& b) { return extent(b[0]) * extent(b[1]) * extent(b[2]); };
    return std::max(size(estimate_box), size(image_box));
}

template class DirectPlan<float>;
template class DirectPlan<double>;

}  // namespace medeconv
