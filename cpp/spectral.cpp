#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "spectral_plan.hpp"
#include "sums.hpp"

namespace medeconv {
template <class T>
HalfAxis<T>::HalfAxis(int64_t length, bool turn)
    : real(length), packed(length % 2 == 0), axis(packed ? length / 2 : length, turn && packed) {
    if (!packed) return;
    for (int64_t slot = 1; slot < axis.n; ++slot) {
        const int64_t partner = axis.mirrored(slot);
        if (partner == slot) middle_ = slot;
        if (partner <= slot) continue;
        const long double angle = 2 * 3.141592653589793238462643383279502884L * (long double)axis.frequency_at[size_t(slot)] / (long double)real;
        pairs_.push_back({slot, partner, T(std::cos(angle)), T(std::sin(angle))});
    }
}

template <class T>
void HalfAxis<T>::describe(SpectralView<T>& v, int64_t lanes) const {
    v.half = axis.view;
    v.real = real;
    v.packed = packed;
    v.bins = packed ? real / 2 : (real + 1) / 2;
    v.blocks = (v.bins + lanes - 1) / lanes;
    v.bin_slot = axis.slot_of.data();
    v.pair = pairs_.data();
    v.pairs = int64_t(pairs_.size());
    v.middle = middle_;
}

template <class T>
SpectralPlan<T>::SpectralPlan(Shape grid_shape, Box estimate, Box image, Reach reach)
    : order_(ones_first(grid_shape)),
      grid(permuted(grid_shape, order_)),
      estimate_box(permuted(estimate, order_)),
      image_box(permuted(image, order_)),
      kernels_(spectral_kernels<T>()),
      reach_(permuted(reach, order_)),
      image_(grid[0] == 1),
      half_(grid[image_ ? 2 : 1], !image_),
      mid_(image_ ? 1 : grid[2]),
      col_(image_ ? grid[1] : grid[0]) {
    const int64_t lanes = kernels_.lanes, element = 2 * lanes;
    SpectralView<T>& v = view_;
    half_.describe(v, lanes);
    v.mid = mid_.view, v.col = col_.view;
    v.image = image_;
    // A group of rows is stored into every block: blocks a power of two apart would share cache sets.
    if (image_) {
        v.col_stride = element;
        v.block_stride = (col_.n + lanes) * element;
        spectrum_elements_ = v.blocks * v.block_stride;
    } else {
        v.block_stride = (mid_.n + lanes) * element;
        v.col_stride = (v.blocks * (mid_.n + lanes) | 1) * element;
        spectrum_elements_ = col_.n * v.col_stride;
    }
    transfer_elements_ = v.blocks * mid_.n * col_.n * element;
    scale_ = 1.0 / ((v.packed ? 2.0 : 1.0) * double(grid[0]) * double(grid[1]) * double(grid[2]));

    auto mirrors = [](const Axis<T>& axis, std::vector<int64_t>& table) {
        table.resize(size_t(axis.n));
        for (int64_t s = 0; s < axis.n; ++s) table[size_t(s)] = axis.mirrored(s);
        return table.data();
    };
    v.mirror_mid = mirrors(mid_, mirror_mid_);
    v.mirror_col = mirrors(col_, mirror_col_);
}

template <class T>
Box SpectralPlan<T>::by_role(const Box& box) const {
    return image_ ? Box{box[1], Range{0, 1}, box[2]} : Box{box[0], box[2], box[1]};
}

template <class T>
typename SpectralPlan<T>::Reach SpectralPlan<T>::continued(bool adjoint) const {
    Reach r = reach_;
    if (adjoint)  // the transpose reads as far in the other direction
        for (Continuation& c : r) std::swap(c.low, c.high);
    return image_ ? Reach{r[1], {}, r[2]} : Reach{r[0], r[2], r[1]};
}

template <class T>
void SpectralPlan<T>::run_slabs(SlabPass<T> pass, T* scratch, int64_t scratch_size, int threads, const Poll& poll) const {
    const int64_t units = kernels_.slab_units(view_, pass.col);
    const Range across = image_ ? pass.col : pass.mid;
    const int64_t pieces = image_ ? across.stop - across.start : units * ((across.stop - across.start + kernels_.lanes - 1) / kernels_.lanes);
    const Sums<T> sums(pass.operands, pieces);
    parallel_for(units, threads, [&](int64_t unit, int worker) { kernels_.slab(pass, unit, scratch + worker * scratch_size); }, poll);
    sums.finish();
}

template <class T>
void SpectralPlan<T>::forward_slabs(T* spectrum, const T* input, const Box& box, const Reach& beyond, const Operands<T>& operands,
                                    int threads, const Poll& poll) const {
    const int64_t size = kernels_.slab_scratch(view_);
    const Buffer<T> scratch = acquire<T>(size * threads);
    run_slabs({&view_, spectrum, box[2], box[1], box[0], false, true, input, Formula::copy, operands, beyond[2], beyond[1]},
              scratch.get(), size, threads, poll);
}

template <class T>
void SpectralPlan<T>::load(T* spectrum, const T* input, bool adjoint, const Operands<T>& operands, int threads, const Poll& poll) const {
    forward_slabs(spectrum, input, by_role(adjoint ? image_box : estimate_box), continued(adjoint), operands, threads, poll);
}

template <class T>
void SpectralPlan<T>::sweep(T* spectrum, const StoredTransfer<T>& transfer, bool adjoint, Formula formula,
                            const Operands<T>& operands, bool keep, int threads, const Poll& poll) const {
    const Box from = by_role(adjoint ? image_box : estimate_box), to = by_role(adjoint ? estimate_box : image_box);
    const Reach beyond = continued(adjoint), next = continued(!adjoint);
    const ColumnPass<T> columns{&view_, spectrum, transfer.view(), adjoint, from[0], to[0], beyond[0]};
    const int64_t size = std::max(kernels_.column_scratch(view_), kernels_.slab_scratch(view_));
    const Buffer<T> scratch = acquire<T>(size * threads);
    parallel_for(kernels_.column_units(view_), threads,
                 [&](int64_t unit, int worker) { kernels_.column(columns, unit, scratch.get() + worker * size); }, poll);
    run_slabs({&view_, spectrum, to[2], to[1], to[0], true, keep, nullptr, formula, operands, next[2], next[1]},
              scratch.get(), size, threads, poll);
}

template <class T>
Buffer<T> SpectralPlan<T>::finished(T* spectrum, Range source, T scale, int threads, const Poll& poll) const {
    Buffer<T> made = acquire<T>(transfer_elements_);
    const ColumnPass<T> columns{&view_, spectrum, {nullptr, nullptr, false}, false, source, {0, col_.n}, {}};
    const int64_t size = kernels_.column_scratch(view_);
    Buffer<T> scratch = acquire<T>(size * threads);
    parallel_for(kernels_.column_units(view_), threads,
                 [&](int64_t unit, int worker) { kernels_.column_forward(columns, unit, scale, made.get(), scratch.get() + worker * size); }, poll);
    return made;
}

template <class T>
std::shared_ptr<StoredTransfer<T>> SpectralPlan<T>::transfer(const T* psf, Shape shape, Shape centre, bool symmetric, int threads) const {
    shape = permuted(shape, order_), centre = permuted(centre, order_);
    for (size_t a = 0; a < 3; ++a)  // in particular: where axes were moved, the psf is one voxel wide and its data stay put
        if (shape[a] > grid[a]) throw std::invalid_argument("psf: larger than the transform grid");
    auto wrapped = [](int64_t i, int64_t n) { return (i % n + n) % n; };

    // Only the slabs that the psf touches are transformed: [first, first + taps) of the role `col`, modulo its length.
    const size_t slab_axis = image_ ? 1 : 0;
    const int64_t slabs = shape[slab_axis], n = grid[slab_axis], slab_size = image_ ? grid[2] : grid[1] * grid[2];
    const int64_t first = wrapped(-centre[slab_axis], n), before_end = std::min(slabs, n - first);
    Buffer<T> real = acquire<T>(slabs * slab_size);
    std::memset(real.get(), 0, size_t(slabs * slab_size) * sizeof(T));
    for (int64_t z = 0; z < shape[0]; ++z)
        for (int64_t y = 0; y < shape[1]; ++y) {
            T* row = real.get() + (image_ ? y : z * grid[1] + wrapped(y - centre[1], grid[1])) * grid[2];
            for (int64_t x = 0; x < shape[2]; ++x) row[wrapped(x - centre[2], grid[2])] = psf[(z * shape[1] + y) * shape[2] + x];
        }
    Buffer<T> spectrum = new_spectrum();
    Box box = by_role({Range{0, grid[0]}, Range{0, grid[1]}, Range{0, grid[2]}});
    box[0] = {first, first + before_end};
    forward_slabs(spectrum.get(), real.get(), box, {}, {}, threads, {});
    if (before_end < slabs) {
        box[0] = {0, slabs - before_end};
        forward_slabs(spectrum.get(), real.get() + before_end * slab_size, box, {}, {}, threads, {});
    }
    discard(real);

    auto made = std::make_shared<StoredTransfer<T>>();
    const int64_t lanes = kernels_.lanes, element = 2 * lanes;
    const T scale = T(view_.packed ? scale_ / 2 : scale_);  // the split of packed pairs leaves a factor 2
    made->main = finished(spectrum.get(), {first, first + slabs}, scale, threads, {});
    spectrum.reset();
    if (view_.packed) split_packed(*made);
    if (!symmetric) return made;
    made->real = true;
    Buffer<T> real_parts = acquire<T>(transfer_elements_ / 2);
    parallel_for(view_.blocks, threads, [&](int64_t block, int) {
        const int64_t count = mid_.n * col_.n;
        for (int64_t at = block * count; at < (block + 1) * count; ++at)
            std::memcpy(real_parts.get() + at * lanes, made->main.get() + at * element, size_t(lanes) * sizeof(T));
    });
    discard(made->main);
    made->main = std::move(real_parts);
    return made;
}

// Slot 0 of an OTF: from the packed spectra of two real frequencies to A and B (spectral.hpp).
template <class T>
void SpectralPlan<T>::split_packed(StoredTransfer<T>& made) const {
    const int64_t lanes = kernels_.lanes, element = 2 * lanes;
    // P_H = H0 + i·HN at k; with Q = conj P_H(-k): H0 = (P + Q)/2, HN = (P - Q)/2i.
    std::vector<T> packed(size_t(2 * mid_.n * col_.n));
    for (int64_t at = 0; at < mid_.n * col_.n; ++at) {
        packed[size_t(2 * at)] = made.main[size_t(at * element)];
        packed[size_t(2 * at + 1)] = made.main[size_t(at * element + lanes)];
    }
    made.mirror = acquire<T>(2 * mid_.n * col_.n);
    for (int64_t mid = 0; mid < mid_.n; ++mid)
        for (int64_t col = 0; col < col_.n; ++col) {
            const int64_t at = mid * col_.n + col, other = mirror_mid_[size_t(mid)] * col_.n + mirror_col_[size_t(col)];
            const T *p = packed.data() + 2 * at, *q = packed.data() + 2 * other;
            const T h0_re = (p[0] + q[0]) / 2, h0_im = (p[1] - q[1]) / 2;
            const T hn_re = (p[1] + q[1]) / 2, hn_im = -(p[0] - q[0]) / 2;
            T* a = made.main.get() + at * element;
            a[0] = (h0_re + hn_re) / 2, a[lanes] = (h0_im + hn_im) / 2;
            made.mirror[size_t(2 * at)] = (h0_re - hn_re) / 2;
            made.mirror[size_t(2 * at + 1)] = (h0_im - hn_im) / 2;
        }
}

template <class T>
std::shared_ptr<StoredTransfer<T>> SpectralPlan<T>::wiener_transfer(const StoredTransfer<T>& psf, const StoredTransfer<T>& regularizer,
                                                                    double balance) const {
    if (psf.real || regularizer.real) throw std::invalid_argument("transfer: expected a complete one, got one of a symmetric psf");
    auto made = std::make_shared<StoredTransfer<T>>();
    made->main = acquire<T>(transfer_elements_);
    if (view_.packed) made->mirror = acquire<T>(2 * mid_.n * col_.n);
    const int64_t lanes = kernels_.lanes, element = 2 * lanes;
    // Stored values are true values times scale_.
    auto gain = [&](double h_re, double h_im, double r_re, double r_im, double& re, double& im) {
        const double divisor = (h_re * h_re + h_im * h_im + balance * (r_re * r_re + r_im * r_im)) / scale_ / scale_;
        re = divisor > 0 ? h_re / divisor : 0, im = divisor > 0 ? -h_im / divisor : 0;
    };
    for (int64_t at = 0; at < transfer_elements_ / element; ++at) {
        const T *h = psf.main.get() + at * element, *r = regularizer.main.get() + at * element;
        T* g = made->main.get() + at * element;
        for (int64_t i = 0; i < lanes; ++i) {
            double re, im;
            gain(h[i], h[lanes + i], r[i], r[lanes + i], re, im);
            g[i] = T(re), g[lanes + i] = T(im);
        }
    }
    if (view_.packed)
        for (int64_t at = 0; at < mid_.n * col_.n; ++at) {
            const T *ha = psf.main.get() + at * element, *hb = psf.mirror.get() + 2 * at;
            const T *ra = regularizer.main.get() + at * element, *rb = regularizer.mirror.get() + 2 * at;
            double g0_re, g0_im, gn_re, gn_im;
            gain(double(ha[0]) + hb[0], double(ha[lanes]) + hb[1], double(ra[0]) + rb[0], double(ra[lanes]) + rb[1], g0_re, g0_im);
            gain(double(ha[0]) - hb[0], double(ha[lanes]) - hb[1], double(ra[0]) - rb[0], double(ra[lanes]) - rb[1], gn_re, gn_im);
            T* a = made->main.get() + at * element;
            a[0] = T((g0_re + gn_re) / 2), a[lanes] = T((g0_im + gn_im) / 2);
            made->mirror[size_t(2 * at)] = T((g0_re - gn_re) / 2);
            made->mirror[size_t(2 * at + 1)] = T((g0_im - gn_im) / 2);
        }
    return made;
}

template <class T>
void SpectralPlan<T>::gcv(const T* image, const StoredTransfer<T>& psf, const StoredTransfer<T>& regularizer,
                          const double* balances, int count, double* numerator, double* denominator, int threads,
                          const Poll& poll) const {
    if (psf.real || regularizer.real) throw std::invalid_argument("transfer: expected a complete one, got one of a symmetric psf");
    Buffer<T> spectrum = new_spectrum();
    load(spectrum.get(), image, true, {}, threads, poll);
    const Buffer<T> transformed = finished(spectrum.get(), by_role(image_box)[0], T(1), threads, poll);
    spectrum.reset();

    const int64_t lanes = kernels_.lanes, element = 2 * lanes, lines = view_.blocks * mid_.n;
    const double power_scale = view_.packed ? 0.25 : 1.0;  // the packed transform carries a factor 2
    std::vector<double> partial(size_t(lines * 2 * count), 0.0);
    parallel_for(lines, threads, [&](int64_t line, int) {
        double* sums = partial.data() + line * 2 * count;
        auto add = [&](double weight, double power, double h_re, double h_im, double r_re, double r_im) {
            const double h2 = h_re * h_re + h_im * h_im, r2 = r_re * r_re + r_im * r_im;
            for (int b = 0; b < count; ++b) {
                const double divisor = h2 + balances[b] * r2;
                const double g = divisor > 0 ? balances[b] * r2 / divisor : 0;
                sums[2 * b] += weight * g * g * power;
                sums[2 * b + 1] += weight * g;
            }
        };
        const int64_t block = line / mid_.n, mid = line % mid_.n;
        for (int64_t col = 0; col < col_.n; ++col) {
            const int64_t at = line * col_.n + col;
            const T* y = transformed.get() + at * element;
            const T *h = psf.main.get() + at * element, *r = regularizer.main.get() + at * element;
            for (int64_t i = 0; i < lanes; ++i) {
                const int64_t bin = block * lanes + i;
                if (bin >= view_.bins) break;
                if (bin == 0 && view_.packed) {
                    const T* q = transformed.get() + (mirror_mid_[size_t(mid)] * col_.n + mirror_col_[size_t(col)]) * element;
                    const double y0_re = (double(y[0]) + q[0]) / 2, y0_im = (double(y[lanes]) - q[lanes]) / 2;
                    const double yn_re = (double(y[lanes]) + q[lanes]) / 2, yn_im = -(double(y[0]) - q[0]) / 2;
                    const T *hb = psf.mirror.get() + 2 * at, *rb = regularizer.mirror.get() + 2 * at;
                    add(1, (y0_re * y0_re + y0_im * y0_im) * power_scale, double(h[0]) + hb[0], double(h[lanes]) + hb[1],
                        double(r[0]) + rb[0], double(r[lanes]) + rb[1]);
                    add(1, (yn_re * yn_re + yn_im * yn_im) * power_scale, double(h[0]) - hb[0], double(h[lanes]) - hb[1],
                        double(r[0]) - rb[0], double(r[lanes]) - rb[1]);
                } else {
                    const double power = double(y[i]) * y[i] + double(y[lanes + i]) * y[lanes + i];
                    add(bin == 0 ? 1 : 2, power * power_scale, h[i], h[lanes + i], r[i], r[lanes + i]);
                }
            }
        }
    }, poll);
    for (int b = 0; b < count; ++b) {
        numerator[b] = denominator[b] = 0;
        for (int64_t line = 0; line < lines; ++line) {
            numerator[b] += partial[size_t((line * count + b) * 2)];
            denominator[b] += partial[size_t((line * count + b) * 2 + 1)];
        }
    }
}

template class HalfAxis<float>;
template class HalfAxis<double>;
template class SpectralPlan<float>;
template class SpectralPlan<double>;

}  // namespace medeconv
