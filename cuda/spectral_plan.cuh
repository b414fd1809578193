// SpectralPlan's passes as launches. Each dtype is compiled by itself: spectral.cu, spectral_double.cu.
#pragma once
#include "spectral.hpp"

#include <algorithm>
#include <stdexcept>

#include "spectral.cuh"
#include "sums.hpp"

namespace medeconv::cuda {
namespace {

// Axes of one voxel are moved to the front: they change nothing in memory, and long last axes fill the blocks.
std::array<int, 3> places(const Shape& grid) {
    std::array<int, 3> order{};
    int at = 0;
    for (int axis = 0; axis < 3; ++axis) if (grid[size_t(axis)] == 1) order[size_t(at++)] = axis;
    for (int axis = 0; axis < 3; ++axis) if (grid[size_t(axis)] != 1) order[size_t(at++)] = axis;
    return order;
}
template <class A>
A permuted(const A& a, const std::array<int, 3>& order) {
    return {a[size_t(order[0])], a[size_t(order[1])], a[size_t(order[2])]};
}
Part part_of(Range r, Continuation beyond = {}) {
    return {int(r.start), int(r.stop - r.start), int(beyond.low), int(beyond.high)};
}

// Calls run(axis) with the constant that the axis is, if it is one of those; false if not.
template <class T, class... Fixed, class F>
bool with_one_of(const AxisView<T>& axis, F run) {
    const auto tried = [&](auto fixed) {
        using A = decltype(fixed);
        if (!A::is(axis)) return false;
        run(A{axis.twiddles});
        return true;
    };
    return (tried(Fixed()) || ...);
}
// Of those that all kernels are compiled for, and of those that rows of Richardson-Lucy's formulas are: compiled_lengths.
template <class T, bool all, class F>
bool with_fixed(const AxisView<T>& axis, F run) {
    if constexpr (sizeof(T) == 4) {
#if defined(MEDECONV_FEW_FIXED_AXES)
        if constexpr (all) return with_one_of<T, FixedAxis<T, 8, 8, 4>>(axis, run);
        else return with_one_of<T, FixedAxis<T, 8, 6, 6>>(axis, run);
#else
        if constexpr (all)
            return with_one_of<T, FixedAxis<T, 8, 8, 4>, FixedAxis<T, 8, 8, 8>, FixedAxis<T, 8, 8, 4, 4>>(axis, run);
        else
            return with_one_of<T, FixedAxis<T, 8, 8, 4>, FixedAxis<T, 8, 6, 6>, FixedAxis<T, 8, 8, 5>, FixedAxis<T, 8, 8, 6>,
                               FixedAxis<T, 8, 8, 8>, FixedAxis<T, 8, 8, 9>, FixedAxis<T, 8, 8, 10>, FixedAxis<T, 8, 4, 4, 6>,
                               FixedAxis<T, 8, 8, 4, 4>>(axis, run);
#endif
    }
    return false;
}

template <class T, Way way>
void launch_lines(const LinePass<T>& pass, Stream stream) {
    const size_t line_bytes = size_t(pass.axis.n) * (pass.axis.spare ? 2 : 1) * sizeof(Pair<T>);
    const int usual = lanes_of<T>(pass.axis.n * (pass.axis.spare ? 2 : 1), room_of_lines);
    int lanes = usual;
    while (size_t(lanes) * line_bytes > most_shared_bytes) lanes /= 2;
    const int team = team_of(pass.axis, most_line_threads / lanes);
    while (lanes * team < 128 && size_t(2 * lanes) * line_bytes <= room_of_lines) lanes *= 2;  // lines are short
    while (lanes > 1 && lanes / 2 >= pass.width) lanes /= 2;
    const dim3 grid{unsigned(ceil_div(pass.width, lanes)), unsigned(pass.layers.count)}, block{unsigned(lanes), unsigned(team)};
    const auto run = [&](auto axis) {
        launch(line_kernel<T, way, decltype(axis)>, grid, block, size_t(lanes) * line_bytes, stream, with_axis(pass, axis));
    };
    if (lanes != usual || !with_fixed<T, true>(pass.axis, run)) run(pass.axis);
}

template <class T>
size_t row_bytes(const AxisView<T>& axis) {
    return size_t(spread<T>(axis.n)) * (axis.spare ? 2 : 1) * sizeof(Pair<T>);
}
struct RowBlocks {
    int team, pairs;
    int64_t count;
};
template <class T>
RowBlocks row_blocks(const AxisView<T>& axis, int64_t rows) {
    const size_t line_bytes = row_bytes(axis);
    const int team = team_of(axis, most_row_threads);
    const int64_t all = ceil_div(rows, 2);
    // So many pairs that a block's last warp is nearly full; of equally good ones, those of at most 128 threads, and the most of them.
    const auto idle = [&](int pairs) { return double(ceil_div(pairs * team, 32) * 32) / (pairs * team) + (pairs * team > 128 ? 0.01 : 0); };
    int pairs = 1;
    for (int more = 2; more * team <= 192 && more <= all && size_t(more) * line_bytes <= usual_shared_bytes / 2; ++more)
        if (idle(more) <= idle(pairs)) pairs = more;
    return {team, pairs, ceil_div(all, pairs)};
}

template <class T, bool inverse, Formula formula>
void launch_rows(const RowPass<T>& pass, const RowBlocks& blocks, Stream stream) {
    const dim3 block(unsigned(blocks.team), unsigned(blocks.pairs));
    const size_t lines = size_t(blocks.pairs) * row_bytes(pass.axis);
    const size_t sums = pass.operands.sums ? size_t(blocks.team * blocks.pairs) * sums_of_a_sweep * sizeof(double) : 0;
    const bool plain = pass.operands.plain() && !(pass.forward && pass.x.low + pass.x.high > 0);
    constexpr bool usual = !inverse || formula == Formula::ratio || formula == Formula::multiply;
    const auto run = [&](auto axis) {
        using A = decltype(axis);
        if (plain)
            launch(row_kernel<T, inverse, true, formula, A>, cuda::blocks(blocks.count), block, lines, stream, with_axis(pass, axis));
        else if constexpr (usual || !is_fixed<A>)
            launch(row_kernel<T, inverse, false, formula, A>, cuda::blocks(blocks.count), block, lines + sums, stream,
                   with_axis(pass, axis));
    };
    const bool goes_on = pass.x.start + pass.x.count > pass.axis.n;
    if (goes_on || !(plain || usual) || !with_fixed<T, !usual>(pass.axis, run)) run(pass.axis);
}

void launch_total(const double* slots, int64_t count, int width, int sums, double* totals, Stream stream) {
    constexpr unsigned threads = 256;
    launch(total_kernel, dim3(unsigned(sums)), dim3(threads), threads * sizeof(double), stream, slots, count, width, totals);
}

constexpr unsigned validation_threads = 256;
int64_t validation_blocks(int64_t size) { return std::min<int64_t>(1024, ceil_div(size, validation_threads)); }

}  // namespace

template <class T>
SpectralPlan<T>::SpectralPlan(Shape grid, Box estimate, Box image, Reach reach)
    : estimate_box(estimate),
      image_box(image),
      order_(places(grid)),
      grid_(permuted(grid, order_)),
      reach_(permuted(reach, order_)),
      z_(grid_[0]),
      y_(grid_[1]),
      x_(grid_[2]),
      bins_(grid_[2] / 2 + 1) {
    constexpr int64_t sector = int64_t(32 / sizeof(Pair<T>));
    pitch_ = (bins_ + sector - 1) / sector * sector;
    if (grid_[1] * pitch_ > 0x7fffffff) throw std::invalid_argument("grid: a slice is larger than backend 'cuda' can index");
    use_tables({});
}

template <class T>
void SpectralPlan<T>::use_tables(const std::array<const void*, 3>& device) {
    z_view_ = z_.view(device[0]), y_view_ = y_.view(device[1]), x_view_ = x_.view(device[2]);
}

template <class T>
size_t SpectralPlan<T>::spectrum_bytes() const {
    return size_t(grid_[0] * grid_[1] * pitch_) * sizeof(Pair<T>);
}
template <class T>
size_t SpectralPlan<T>::transfer_bytes(bool symmetric) const {
    return spectrum_bytes() / (symmetric ? 2 : 1);
}

// Boxes and continuations by the plan's order of axes.
template <class T>
struct SpectralPlan<T>::Passes {
    const SpectralPlan& plan;
    Pair<T>* spectrum;
    Stream stream;

    bool volume() const { return plan.grid_[0] > 1; }
    double scale() const { return 1 / (2.0 * double(plan.grid_[0]) * double(plan.grid_[1]) * double(plan.grid_[2])); }
    int64_t size() const { return plan.grid_[0] * plan.grid_[1] * plan.pitch_; }
    Box box(const Box& given) const { return permuted(given, plan.order_); }
    Reach beyond(bool adjoint) const {
        Reach r = plan.reach_;
        if (adjoint)  // the transpose reads as far in the other direction
            for (Continuation& c : r) std::swap(c.low, c.high);
        return r;
    }

    LinePass<T> lines(const AxisView<T>& axis, int64_t stride) const {
        LinePass<T> pass{};
        pass.axis = axis;
        pass.source = spectrum, pass.destination = spectrum;
        pass.stride = stride, pass.width = int(stride);
        pass.pitch = int(plan.pitch_), pass.bins = int(plan.bins_);
        pass.layers = {0, 1, 0, 0}, pass.layer_count = 1;
        pass.scale = T(1);
        return pass;
    }
    // Along y, of slices of a volume.
    LinePass<T> slices(Range z) const {
        LinePass<T> pass = lines(plan.y_view_, plan.pitch_);
        pass.layers = part_of(z), pass.layer_count = int(plan.grid_[0]), pass.layer_stride = plan.grid_[1] * plan.pitch_;
        return pass;
    }
    // Along the axis on which a sweep meets the OTF: z of a volume, y of an image.
    LinePass<T> columns() const {
        return volume() ? lines(plan.z_view_, plan.grid_[1] * plan.pitch_) : lines(plan.y_view_, plan.pitch_);
    }
    size_t column() const { return volume() ? 0 : 1; }

    void forward_slices(const Box& from, const Reach& beyond) const {
        if (!volume()) return;
        LinePass<T> pass = slices(from[0]);
        pass.from = part_of(from[1], beyond[1]);
        launch_lines<T, Way::forward>(pass, stream);
    }
    // The rest of a transform, times `scale`.
    void finish(const Box& from, double scale, bool real, void* to) const {
        LinePass<T> pass = columns();
        pass.from = part_of(from[column()]);
        pass.destination = to, pass.real = real, pass.scale = T(scale);
        launch_lines<T, Way::forward>(pass, stream);
    }
    void filter(const Transfer<T>& transfer, bool conjugated, const Box& from, const Reach& beyond, const Box& to) const {
        LinePass<T> pass = columns();
        pass.from = part_of(from[column()], beyond[column()]);
        pass.to_start = int(to[column()].start), pass.to_stop = int(to[column()].stop);
        pass.transfer = transfer.values, pass.real = transfer.real, pass.conjugated = conjugated;
        launch_lines<T, Way::filter>(pass, stream);
    }
    void inverse_slices(const Box& to) const {
        if (!volume()) return;
        LinePass<T> pass = slices(to[0]);
        pass.to_start = int(to[1].start), pass.to_stop = int(to[1].stop);
        launch_lines<T, Way::inverse>(pass, stream);
    }

    // The x transform of a box of rows, with the formula; `input`: forward only.
    void rows(const Box& box, const Reach& beyond, const T* input, Formula formula, const Operands<T>& operands, bool keep) const {
        RowPass<T> pass{};
        pass.axis = plan.x_view_;
        pass.spectrum = spectrum;
        pass.pitch = int(plan.pitch_), pass.bins = int(plan.bins_);
        pass.input = input;
        pass.x = part_of(box[2], beyond[2]), pass.y = part_of(box[1]), pass.z = part_of(box[0]);
        pass.y_length = int(plan.grid_[1]), pass.z_length = int(plan.grid_[0]);
        pass.forward = keep;
        pass.operands = operands;
        const RowBlocks blocks = row_blocks(pass.axis, int64_t(pass.y.count) * pass.z.count);
        if (input) {
            launch_rows<T, false, Formula::copy>(pass, blocks, stream);
        } else {
            with_formula(formula, operands, [&](auto f, auto) { launch_rows<T, true, decltype(f)::value>(pass, blocks, stream); });
        }
        finish_sums(operands.sums, blocks.count, stream);
    }
};

template <class T>
int64_t SpectralPlan<T>::sum_blocks() const {
    int64_t most = 0;
    for (const Box& box : {estimate_box, image_box}) {
        int64_t all = 1;
        for (size_t axis : {order_[0], order_[1]}) all *= box[axis].stop - box[axis].start;
        most = std::max(most, row_blocks(x_view_, all).count);
    }
    return most;
}
template <class T>
size_t SpectralPlan<T>::gcv_bytes() const {
    return size_t(validation_blocks(grid_[0] * grid_[1] * pitch_)) * 2 * balances_at_once * sizeof(double);
}

template <class T>
void SpectralPlan<T>::load(void* spectrum, const T* input, bool adjoint, const Operands<T>& operands, Stream stream) const {
    const Passes passes{*this, static_cast<Pair<T>*>(spectrum), stream};
    passes.rows(passes.box(adjoint ? image_box : estimate_box), passes.beyond(adjoint), input, Formula::copy, operands, true);
}

template <class T>
void SpectralPlan<T>::sweep(void* spectrum, Transfer<T> transfer, bool adjoint, Formula formula, const Operands<T>& operands,
                            bool keep, Stream stream) const {
    const Passes passes{*this, static_cast<Pair<T>*>(spectrum), stream};
    const Box from = passes.box(adjoint ? image_box : estimate_box), to = passes.box(adjoint ? estimate_box : image_box);
    const Reach beyond = passes.beyond(adjoint);
    passes.forward_slices(from, beyond);
    passes.filter(transfer, adjoint, from, beyond, to);
    passes.inverse_slices(to);
    passes.rows(to, passes.beyond(!adjoint), nullptr, formula, operands, keep);
}

template <class T>
void SpectralPlan<T>::transfer(const T* psf, Shape shape, Shape centre, bool symmetric, void* spectrum, void* transfer, Stream stream) const {
    shape = permuted(shape, order_), centre = permuted(centre, order_);
    Box taps;                            // modulo the grid
    for (size_t a = 0; a < 3; ++a) {
        if (shape[a] > grid_[a]) throw std::invalid_argument("psf: larger than the transform grid");
        const int64_t start = (grid_[a] - centre[a] % grid_[a]) % grid_[a];
        taps[a] = {start, start + shape[a]};
    }
    const Passes passes{*this, static_cast<Pair<T>*>(spectrum), stream};
    passes.rows(taps, {}, psf, Formula::copy, {}, true);
    passes.forward_slices(taps, {});
    passes.finish(taps, passes.scale() / 2, symmetric, transfer);  // rows leave twice the spectrum
}

template <class T>
void SpectralPlan<T>::wiener_transfer(const void* psf, const void* regularizer, double balance, void* transfer, Stream stream) const {
    const Passes passes{*this, nullptr, stream};
    const FilterPass<T> pass{static_cast<const Pair<T>*>(psf), static_cast<const Pair<T>*>(regularizer), static_cast<Pair<T>*>(transfer),
                             passes.size(), int(pitch_), int(bins_), balance, passes.scale()};
    constexpr unsigned threads = 256;
    launch(wiener_kernel<T>, blocks(ceil_div(pass.size, threads)), dim3(threads), 0, stream, pass);
}

template <class T>
void SpectralPlan<T>::gcv(const T* image, const void* psf, const void* regularizer, const double* balances, int count, void* spectrum,
                          void* scratch, double* totals, Stream stream) const {
    const Passes passes{*this, static_cast<Pair<T>*>(spectrum), stream};
    const Box box = passes.box(image_box);
    passes.rows(box, {}, image, Formula::copy, {}, true);
    passes.forward_slices(box, {});
    passes.finish(box, 1.0, false, spectrum);
    ValidationPass<T> pass{passes.spectrum, static_cast<const Pair<T>*>(psf), static_cast<const Pair<T>*>(regularizer), passes.size(),
                           int(pitch_), int(bins_), int(grid_[2]), {}, 0.25, static_cast<double*>(scratch)};
    const int64_t blocks = validation_blocks(pass.size);
    for (int first = 0; first < count; first += balances_at_once) {
        const int some = std::min(balances_at_once, count - first);
        std::copy_n(balances + first, some, pass.balance);
        launch(validation_kernel<T>, cuda::blocks(blocks), dim3(validation_threads), validation_threads * 2 * balances_at_once * sizeof(double),
               stream, pass);
        launch_total(pass.slots, blocks, 2 * balances_at_once, 2 * some, totals + 2 * first, stream);
    }
}

}  // namespace medeconv::cuda
