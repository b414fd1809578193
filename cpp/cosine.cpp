#include "cosine_plan.hpp"

#include <algorithm>
#include <stdexcept>

#include "sums.hpp"

namespace medeconv {

template <class T>
MirroredAxis<T>::MirroredAxis(int64_t n, int64_t lanes) : axis(n) {
    const int64_t element = 2 * lanes;
    for (int64_t i = 0; i < (n + element - 1) / element * element; ++i)
        place_.push_back(i >= n ? i : i % 2 == 0 ? i / 2 : n - 1 - i / 2);
    for (int64_t k = 1; 2 * k < n; ++k) {
        const auto turn = root_of_unity(k, 4 * n);
        pairs_.push_back({axis.slot_of[size_t(k)], axis.slot_of[size_t(n - k)], T(turn.real()), T(turn.imag())});
    }
    if (n % 2 == 0) middle_ = axis.slot_of[size_t(n / 2)];
    // In the order in which they lie in the line.
    std::sort(pairs_.begin(), pairs_.end(), [](const HalfPair<T>& a, const HalfPair<T>& b) { return a.slot < b.slot; });
}

template <class T>
CosinePlan<T>::CosinePlan(Shape given)
    : order_(ones_first(given)),
      shape(permuted(given, order_)),
      estimate_box{Range{0, given[0]}, Range{0, given[1]}, Range{0, given[2]}},
      image_box(estimate_box),
      kernels_(cosine_kernels<T>()),
      image_(shape[0] == 1),
      half_(shape[image_ ? 2 : 1], kernels_.lanes),
      mid_(image_ ? 1 : shape[2], kernels_.lanes),
      col_(image_ ? shape[1] : shape[0], kernels_.lanes) {
    const int64_t element = 2 * kernels_.lanes;
    CosineView<T>& v = view_;
    v.half = half_.view(), v.mid = mid_.view(), v.col = col_.view();
    v.image = image_;
    v.blocks = (half_.axis.n + element - 1) / element;
    // Columns a power of two apart would share cache sets.
    v.block_stride = mid_.axis.n * element;
    v.col_stride = (v.blocks * mid_.axis.n | 1) * element;
    spectrum_elements_ = col_.axis.n * v.col_stride;
    transfer_elements_ = v.blocks * mid_.axis.n * col_.axis.n * element;
}

template <class T>
void CosinePlan<T>::run_slabs(CosinePass<T> pass, T* scratch, int64_t scratch_size, int threads, const Poll& poll) const {
    const Sums<T> sums(pass.operands, kernels_.slots_of_sums(view_));
    parallel_for(kernels_.slab_units(view_), threads, [&](int64_t unit, int worker) { kernels_.slab(pass, unit, scratch + worker * scratch_size); }, poll);
    sums.finish();
}

template <class T>
void CosinePlan<T>::load(T* spectrum, const T* input, bool, const Operands<T>& operands, int threads, const Poll& poll) const {
    const int64_t size = kernels_.slab_scratch(view_);
    const Buffer<T> scratch = acquire<T>(size * threads);
    run_slabs({&view_, spectrum, nullptr, false, true, input, Formula::copy, operands}, scratch.get(), size, threads, poll);
}

template <class T>
void CosinePlan<T>::sweep(T* spectrum, const Stored& transfer, bool, Formula formula, const Operands<T>& operands, bool keep,
                          int threads, const Poll& poll) const {
    const CosinePass<T> pass{&view_, spectrum, transfer.values.get(), true, keep, nullptr, formula, operands};
    const int64_t size = std::max(kernels_.column_scratch(view_), kernels_.slab_scratch(view_));
    const Buffer<T> scratch = acquire<T>(size * threads);
    parallel_for(kernels_.column_units(view_), threads,
                 [&](int64_t unit, int worker) { kernels_.column(pass, unit, scratch.get() + worker * size); }, poll);
    run_slabs(pass, scratch.get(), size, threads, poll);
}

namespace {

// Rows of cos(π k d/n), d < taps, a row for each slot.
template <class T>
std::vector<double> cosines(const Axis<T>& axis, int64_t taps) {
    std::vector<double> made(size_t(axis.n * taps)), turn(size_t(2 * axis.n));
    for (int64_t i = 0; i < 2 * axis.n; ++i) turn[size_t(i)] = double(root_of_unity(i, 2 * axis.n).real());
    for (int64_t slot = 0; slot < axis.n; ++slot)
        for (int64_t d = 0; d < taps; ++d) made[size_t(slot * taps + d)] = turn[size_t(axis.frequency_at[size_t(slot)] * d % (2 * axis.n))];
    return made;
}

}  // namespace

// H(k) = sum over taps h(d) cos(π k d/n) per axis, axis after axis, in double.
template <class T>
std::shared_ptr<typename CosinePlan<T>::Stored> CosinePlan<T>::transfer(const T* psf, Shape given, int threads) const {
    for (int64_t k : given)
        if (k % 2 == 0) throw std::invalid_argument("psf: expected odd lengths");
    const Shape taps = permuted(given, order_);
    const Shape reach{taps[0] / 2 + 1, taps[1] / 2 + 1, taps[2] / 2 + 1};        // of the quarter (eighth) that is different
    const int64_t element = 2 * kernels_.lanes, rows = view_.blocks * element;
    // By role: half first, whose coefficients are lanes; those beyond the axis are 0.
    const int64_t half_taps = reach[image_ ? 2 : 1], mid_taps = image_ ? reach[0] : reach[2], col_taps = image_ ? reach[1] : reach[0];
    auto tap = [&](int64_t col, int64_t mid, int64_t half) {
        const Shape at = image_ ? Shape{mid, col, half} : Shape{col, half, mid};
        Shape lies{};   // as given
        for (size_t a = 0; a < 3; ++a) lies[size_t(order_[a])] = reach[a] - 1 + at[a];
        const T value = psf[(lies[0] * given[1] + lies[1]) * given[2] + lies[2]];
        return double(value) * (col ? 2 : 1) * (mid ? 2 : 1) * (half ? 2 : 1);
    };
    const std::vector<double> of_half = cosines(half_.axis, half_taps), of_mid = cosines(mid_.axis, mid_taps), of_col = cosines(col_.axis, col_taps);
    std::vector<double> lines(size_t(col_taps * mid_taps * rows), 0.0);          // [col tap][mid tap][half slot]
    parallel_for(col_taps * mid_taps, threads, [&](int64_t at, int) {
        for (int64_t slot = 0; slot < half_.axis.n; ++slot) {
            double total = 0;
            for (int64_t d = 0; d < half_taps; ++d) total += of_half[size_t(slot * half_taps + d)] * tap(at / mid_taps, at % mid_taps, d);
            lines[size_t(at * rows + slot)] = total;
        }
    });
    Buffer<double> planes = acquire<double>(col_taps * mid_.axis.n * rows);      // [col tap][mid slot][half slot]
    parallel_for(col_taps * mid_.axis.n, threads, [&](int64_t at, int) {
        const int64_t col = at / mid_.axis.n, slot = at % mid_.axis.n;
        double* to = planes.get() + at * rows;
        std::fill(to, to + rows, 0.0);
        for (int64_t d = 0; d < mid_taps; ++d) {
            const double w = of_mid[size_t(slot * mid_taps + d)];
            const double* from = lines.data() + (col * mid_taps + d) * rows;
            for (int64_t i = 0; i < rows; ++i) to[i] += w * from[i];
        }
    });
    auto made = std::make_shared<Stored>();
    made->values = acquire<T>(transfer_elements_);
    // A transform and its inverse are 2n times the values.
    const double scale = 1.0 / (8.0 * double(half_.axis.n) * double(mid_.axis.n) * double(col_.axis.n)) * (image_ ? 2.0 : 1.0);
    parallel_for(view_.blocks * mid_.axis.n, threads, [&](int64_t at, int) {
        const int64_t block = at / mid_.axis.n, mid = at % mid_.axis.n;
        kernels_.evaluate(planes.get() + mid * rows + block * element, mid_.axis.n * rows, of_col.data(), col_taps, col_.axis.n, scale,
                          made->values.get() + at * col_.axis.n * element);
    });
    return made;
}

template class MirroredAxis<float>;
template class MirroredAxis<double>;
template class CosinePlan<float>;
template class CosinePlan<double>;

}  // namespace medeconv
