// The slab pass of a volume, one z slice at a time: x transforms with lane = y frequency, y transforms with lane = x,
// and one transposition between them each way. Layout and packing: spectral.hpp.
//   spectrum -> x inverse in a line in L1 -> transposed into the planes (L2): for each L neighbouring x all y frequencies
//   plane    -> y inverse, formula, y forward, in place
//   planes   -> transposed into a line -> x forward -> spectrum
#pragma once
#include "formulas.simd.hpp"
#include "spectral_half.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
struct VolumeScratch {
    int64_t plane_pitch;     // T between planes, off the powers of two
    T *line, *plane, *other, *more;
};
template <class T>
MEDECONV_INLINE VolumeScratch<T> volume_buffers(const SpectralView<T>& p, T* scratch) {
    constexpr int L = lanes<T>;
    const int64_t elements = at_least(p.blocks * L, p.half.n);
    VolumeScratch<T> s;
    s.plane_pitch = (elements + 8) * element<T>;
    s.line = scratch;
    s.plane = s.line + (p.mid.n + L) * element<T>;
    s.other = s.plane + ceil_div(p.mid.n, L) * s.plane_pitch;
    s.more = s.other + (p.packed ? 0 : elements * element<T>);
    return s;
}
template <class T>
int64_t volume_scratch(const SpectralView<T>& p) {
    const VolumeScratch<T> s = volume_buffers<T>(p, nullptr);
    const int64_t inner = at_least(p.half.inner ? p.half.inner->n : 0, p.mid.inner ? p.mid.inner->n : 0);
    return int64_t(s.more - s.line) + inner * element<T>;
}

// What the formula of a plane works on: `count` (at most L) neighbouring x of `rows` rows, `first` being y of row 0;
// at: index of (z, first, x) in the real arrays, whose rows are `width` apart.
template <class T>
struct PlaneRows {
    const SlabPass<T>* pass;
    int64_t first, rows, width, at, count;
    int64_t slot;            // of its sums
};

template <Formula formula, bool careful, class T>
MEDECONV_INLINE Vec<T> formula_on(const Operands<T>& o, int64_t at, int64_t count, Vec<T> c, const Numbers<Vec<T>>& numbers) {
    const Reached<careful, T> here{at, count};
    return formula_step<formula, true>(o, c, numbers, here, here, static_cast<Vec<T>*>(nullptr));
}

// Last stage of the inverse, formula, first stage of the forward transform, which work on the same elements. careful: not
// all rows and lanes exist in memory; rows that do not are zero.
template <int R, Formula formula, bool careful, class T>
MEDECONV_NOINLINE void turn_of(const PlaneRows<T>& rows, T* line, int64_t n, const T* w) {
    const Operands<T> o = rows.pass->operands;  // a copy: stores through vectors might alias the original
    const Numbers<Vec<T>> numbers(o, [](T x) MEDECONV_BODY { return splat<T>(x); });
    const int64_t part = n / R, width = rows.width, count = rows.count, first = rows.first, total = rows.rows;
    const int64_t step = 2 * part * width;      // from row y to the row of the next element
    const bool twiddled = part > 1;
    Places<R, T> places(line, part * element<T>);
    int64_t at = rows.at - first * width;
    for (int64_t k = 0; k < part; ++k, at += 2 * width) {
        C<T> v[R];
        unroll<R>([&](auto q) MEDECONV_BODY {
            constexpr int Q = decltype(q)::value;
            v[q] = load_element(places.template at<Q>());
            if constexpr (Q > 0)
                if (twiddled) v[q] = rotate<-1>(v[q], w[2 * (Q - 1)], w[2 * (Q - 1) + 1]);
        });
        Dft<T, R, -1>::run(v);
        int64_t here = at;
        unroll<R>([&](auto q) MEDECONV_BODY {
            if constexpr (careful) {
                const int64_t row = 2 * (k + decltype(q)::value * part) - first;
                if (row >= 0 && row < total) v[q].re = formula_on<formula, true>(o, here, count, v[q].re, numbers);
                else v[q].re = Vec<T>{};
                if (row + 1 >= 0 && row + 1 < total) v[q].im = formula_on<formula, true>(o, here + width, count, v[q].im, numbers);
                else v[q].im = Vec<T>{};
            } else {
                v[q].re = formula_on<formula, false>(o, here, count, v[q].re, numbers);
                v[q].im = formula_on<formula, false>(o, here + width, count, v[q].im, numbers);
            }
            here += step;
        });
        Dft<T, R, +1>::run(v);
        unroll<R>([&](auto q) MEDECONV_BODY {
            constexpr int Q = decltype(q)::value;
            if constexpr (Q > 0)
                if (twiddled) v[q] = rotate<+1>(v[q], w[2 * (Q - 1)], w[2 * (Q - 1) + 1]);
            store_element(places.template at<Q>(), v[q]);
        });
        places.advance(element<T>);
        if (twiddled) w += 2 * (R - 1);
    }
}
#define MEDECONV_EACH_TURN(CASE) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)

template <class T>
bool has_turn(const SlabPass<T>& pass) {
    const SpectralView<T>& p = *pass.plan;
    if (!pass.inverse || !pass.forward) return false;
    // The formulas of plain Richardson-Lucy only: each costs code for every radix.
    if ((pass.formula != Formula::ratio && pass.formula != Formula::multiply) || !pass.operands.plain()) return false;
    if (!p.packed || p.half.inner || p.half.stages == 0 || pass.beyond_half.any()) return false;
    switch (p.half.radix[0]) {
#define CASE(R) case R:
        MEDECONV_EACH_TURN(CASE) return true;
#undef CASE
    default: return false;
    }
}
template <Formula formula, bool careful, class T>
void turn(const PlaneRows<T>& rows, T* line) {
    const AxisView<T>& half = rows.pass->plan->half;
    switch (half.radix[0]) {
#define CASE(R) case R: return turn_of<R, formula, careful>(rows, line, half.n, half.twiddle[0]);
        MEDECONV_EACH_TURN(CASE)
#undef CASE
    }
}

// All but stage 0 of a transform in place: what comes before and after the turn.
template <int S, class T>
void inner_stages(const AxisView<T>& axis, T* base) {
    const Line<T> line = whole(base, element<T>, axis.n);
    int64_t m = S > 0 ? axis.n / axis.radix[0] : 1;
    for (int i = 1; i < axis.stages; ++i) {
        const int s = S > 0 ? i : axis.stages - i;
        if (S < 0) m *= axis.radix[s];
        stage<S>(axis, s, m, line, line);
        if (S > 0) m /= axis.radix[s];
    }
}

// Row y of the real samples in a line: packed pairs, or real parts.
template <class T>
MEDECONV_INLINE T* row_in_line(const SpectralView<T>& p, T* line, int64_t y) {
    return p.packed ? line + (y >> 1) * element<T> + (y & 1) * lanes<T> : line + y * element<T>;
}

// The formula, with all that may be asked of it, on the rows of a plane; without an inverse before it, on what is loaded.
template <Formula formula, bool careful, class T>
MEDECONV_NOINLINE void formula_rows(const PlaneRows<T>& rows, T* line) {
    const SlabPass<T>& pass = *rows.pass;
    const SpectralView<T>& p = *pass.plan;
    const Operands<T> o = pass.operands;
    const Numbers<Vec<T>> numbers(o, [](T x) MEDECONV_BODY { return splat<T>(x); });
    Vec<T> of_rows[sums_of_a_sweep]{};
    for (int64_t y = 0; y < rows.rows; ++y) {
        T* row = row_in_line(p, line, rows.first + y);
        const Reached<careful, T> here{rows.at + y * rows.width, rows.count};
        const Vec<T> c = pass.inverse ? load(row) : here(pass.input);
        store(row, formula_step<formula, false>(o, c, numbers, here, here, of_rows));
    }
    if (o.sums) add_lanes<T>(of_rows, rows.count, o.sums + rows.slot * sums_of_a_sweep);
}
template <class T>
void formula_rows(const PlaneRows<T>& rows, T* line) {
    const bool careful = rows.count != lanes<T>;
#define MEDECONV_CASE(F) \
    case Formula::F: return careful ? formula_rows<Formula::F, true>(rows, line) : formula_rows<Formula::F, false>(rows, line);
    switch (rows.pass->formula) {
        MEDECONV_EACH_FORMULA(MEDECONV_CASE)
    }
#undef MEDECONV_CASE
}

// One plane: y frequencies -> y -> formula -> y frequencies, in place.
template <class T>
void plane_pass(const SlabPass<T>& pass, const VolumeScratch<T>& s, T* plane, const PlaneRows<T>& rows) {
    const SpectralView<T>& p = *pass.plan;
    T* line = p.packed ? plane : s.other;
    if (pass.inverse) {
        if (p.packed) split_or_join<true>(p, plane);
        else scatter_bins(p, plane, line);
    }
    if (has_turn(pass)) {
        inner_stages<-1>(p.half, line);
        const bool careful = rows.rows != p.real || rows.count != lanes<T>;
        if (pass.formula == Formula::ratio) {
            if (careful) turn<Formula::ratio, true>(rows, line);
            else turn<Formula::ratio, false>(rows, line);
        } else {
            if (careful) turn<Formula::multiply, true>(rows, line);
            else turn<Formula::multiply, false>(rows, line);
        }
        inner_stages<+1>(p.half, line);
    } else {
        const Line<T> all = whole(line, element<T>, p.half.n);
        if (pass.inverse) transform<-1>(p.half, all, all, s.more);
        if (pass.inverse || pass.operands.previous) formula_rows(rows, line);
        else
            for (int64_t y = 0; y < rows.rows; ++y)
                store(row_in_line(p, line, rows.first + y), load_first(pass.input + rows.at + y * rows.width, rows.count));
        if (!pass.forward) return;
        for (int64_t y = 0; y < p.real; ++y) {
            T* row = row_in_line(p, line, y);
            const int64_t from = y - rows.first;
            const bool inside = from >= 0 && from < rows.rows;
            if (from >= rows.rows && from < rows.rows + pass.beyond_half.high) store(row, load(row_in_line(p, line, y - rows.rows)));
            else if (y >= p.real - pass.beyond_half.low) store(row, load(row_in_line(p, line, y - p.real + rows.rows)));
            else if (!inside) store(row, Vec<T>{});
            if (!p.packed) store(row + lanes<T>, Vec<T>{});
        }
        transform<+1>(p.half, all, all, s.more);
    }
    if (!pass.forward) return;
    if (p.packed) split_or_join<false>(p, plane);
    else gather_bins(p, line, plane);
    clear_beyond_bins(p, plane);
}

template <class T>
void volume_slab(const SlabPass<T>& pass, int64_t unit, T* scratch) {
    constexpr int L = lanes<T>;
    const SpectralView<T>& p = *pass.plan;
    const VolumeScratch<T> s = volume_buffers(p, scratch);
    T* slice = pass.spectrum + (pass.col.start + unit) * p.col_stride;
    const int64_t width = pass.mid.stop - pass.mid.start, rows = pass.half.stop - pass.half.start;
    const int64_t planes = ceil_div(width, L);
    if (pass.inverse)
        for (int64_t block = 0; block < p.blocks; ++block) {
            const T* base = slice + block * p.block_stride;
            inverse_through(p.mid, whole(const_cast<T*>(base), element<T>, p.mid.n), s.line, s.more,
                            block + 1 < p.blocks ? base + p.block_stride : nullptr);
            for (int64_t i = 0; i < planes; ++i)
                transpose_block<T>(s.line + (pass.mid.start + i * L) * element<T>, s.plane + i * s.plane_pitch + block * L * element<T>);
        }
    for (int64_t i = 0; i < planes; ++i) {
        const int64_t count = width - i * L < L ? width - i * L : L;
        const PlaneRows<T> here{&pass, pass.half.start, rows, width, unit * rows * width + i * L, count,
                                 unit * planes + i};
        plane_pass(pass, s, s.plane + i * s.plane_pitch, here);
    }
    if (!pass.forward) return;
    for (int64_t block = 0; block < p.blocks; ++block) {
        for (int64_t i = 0; i < planes; ++i)
            transpose_block<T>(s.plane + i * s.plane_pitch + block * L * element<T>, s.line + (pass.mid.start + i * L) * element<T>);
        Line<T> present{s.line, element<T>, pass.mid.start, pass.mid.stop};
        if (pass.beyond_mid.any()) {
            const Continuation& beyond = pass.beyond_mid;
            auto copy = [&](int64_t j, int64_t from) { store_element(s.line + j * element<T>, load_element(s.line + from * element<T>)); };
            const int64_t n = p.mid.n, stop = pass.mid.stop;
            for (int64_t j = stop; j < stop + beyond.high; ++j) copy(j, j - stop);
            for (int64_t j = stop + beyond.high; j < n - beyond.low; ++j) store_element(s.line + j * element<T>, C<T>{Vec<T>{}, Vec<T>{}});
            for (int64_t j = n - beyond.low; j < n; ++j) copy(j, j - n + stop);
            present = whole(s.line, element<T>, n);
        }
        forward_through(p.mid, present, s.line, whole(slice + block * p.block_stride, element<T>, p.mid.n), s.more);
    }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
