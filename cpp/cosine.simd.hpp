// The passes of the spectral engine by cosine transforms. Layout, places and formulas: cosine.hpp.
#pragma once
#include "cosine.hpp"
#include "fft.simd.hpp"
#include "formulas.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int64_t cosine_columns_per_unit = 32;  // neighbouring columns share pages, and each fetches the next

// V(k), V(n-k) -> C(k), C(n-k), times 2; and back, without a factor.
template <class T>
MEDECONV_INLINE void to_cosines(C<T>& a, C<T>& b, T c, T s) {
    const C<T> e = a + b, d = quarter_turn<+1>(a - b);
    a = {c * e.re + s * d.re, c * e.im + s * d.im};
    b = {s * e.re - c * d.re, s * e.im - c * d.im};
}
template <class T>
MEDECONV_INLINE void from_cosines(C<T>& a, C<T>& b, T c, T s) {
    const C<T> e{c * a.re + s * b.re, c * a.im + s * b.im};
    const C<T> d = quarter_turn<-1>(C<T>{s * a.re - c * b.re, s * a.im - c * b.im});
    a = e + d;
    b = e - d;
}
template <class T>
MEDECONV_INLINE void scaled_element(const T* from, T* to, T factor) {
    const C<T> v = load_element(from);
    store_element(to, C<T>{v.re * factor, v.im * factor});
}
// A line after its transform (forward), or before its inverse; there and back is 2n times the values. from may be to.
template <bool forward, class T>
void pair_up(const CosineAxis<T>& axis, const T* from, T* to) {
    scaled_element(from, to, T(forward ? 2 : 1));
    for (int64_t i = 0; i < axis.pairs; ++i) {
        const HalfPair<T>& pair = axis.pair[i];
        const int64_t at = pair.slot * element<T>, partner = pair.partner * element<T>;
        C<T> a = load_element(from + at), b = load_element(from + partner);
        if constexpr (forward) to_cosines<T>(a, b, pair.cosine, pair.sine);
        else from_cosines<T>(a, b, pair.cosine, pair.sine);
        store_element(to + at, a);
        store_element(to + partner, b);
    }
    const int64_t middle = axis.middle * element<T>;
    if (middle >= 0) scaled_element(from + middle, to + middle, T(1.41421356237309504880));
}
// Both with the multiplication by H between them.
template <class T>
void filter_pairs(const CosineAxis<T>& axis, T* line, const T* h) {
    auto factor = [&](int64_t slot) MEDECONV_BODY {
        T* at = line + slot * element<T>;
        const C<T> v = load_element(at), f = load_element(h + slot * element<T>);
        store_element(at, C<T>{v.re * (f.re + f.re), v.im * (f.im + f.im)});
    };
    factor(0);
    for (int64_t i = 0; i < axis.pairs; ++i) {
        const HalfPair<T>& pair = axis.pair[i];
        T *at = line + pair.slot * element<T>, *partner = line + pair.partner * element<T>;
        C<T> a = load_element(at), b = load_element(partner);
        const C<T> ha = load_element(h + pair.slot * element<T>), hb = load_element(h + pair.partner * element<T>);
        to_cosines<T>(a, b, pair.cosine, pair.sine);
        a = {a.re * ha.re, a.im * ha.im};
        b = {b.re * hb.re, b.im * hb.im};
        from_cosines<T>(a, b, pair.cosine, pair.sine);
        store_element(at, a);
        store_element(partner, b);
    }
    if (axis.middle >= 0) factor(axis.middle);
}

template <class T>
int64_t cosine_column_scratch(const CosineView<T>& p) {
    return (p.col.axis.n + (p.col.axis.inner ? p.col.axis.inner->n : 0)) * element<T>;
}
template <class T>
int64_t cosine_column_units(const CosineView<T>& p) {
    return p.blocks * ceil_div(p.mid.axis.n, cosine_columns_per_unit);
}
// The work is done in `buffer`, so that the strided line is touched once each way; the next one is fetched meanwhile.
template <class T>
void cosine_line(const CosineAxis<T>& col, const Line<T>& line, const T* h, const T* next, const T* next_h, T* buffer, T* more) {
    const AxisView<T>& axis = col.axis;
    const int64_t n = axis.n;
    const Line<T> work = whole(buffer, element<T>, n);
    if (axis.inner || axis.stages <= 1) {
        transform<+1>(axis, line, work, more);
        filter_pairs(col, buffer, h);
        transform<-1>(axis, work, line, more);
        return;
    }
    Ahead<T> ahead(next, line.stride, next_h, element<T>, next ? n : 0, 2 * butterflies(axis, axis.stages));
    int64_t m = n;
    for (int s = 0; s < axis.stages; ++s) {
        stage<+1>(axis, s, m, s ? work : line, work, ahead);
        m /= axis.radix[s];
    }
    filter_pairs(col, buffer, h);
    for (int s = axis.stages - 1; s >= 0; --s) {
        m *= axis.radix[s];
        stage<-1>(axis, s, m, work, s ? work : line, ahead);
    }
}
template <class T>
void cosine_column(const CosinePass<T>& pass, int64_t unit, T* scratch) {
    const CosineView<T>& p = *pass.plan;
    const int64_t groups = ceil_div(p.mid.axis.n, cosine_columns_per_unit), n = p.col.axis.n;
    const int64_t block = unit / groups, first = unit % groups * cosine_columns_per_unit;
    const int64_t last = first + cosine_columns_per_unit < p.mid.axis.n ? first + cosine_columns_per_unit : p.mid.axis.n;
    for (int64_t mid = first; mid < last; ++mid) {
        T* base = pass.spectrum + block * p.block_stride + mid * element<T>;
        const T* h = pass.transfer + (block * p.mid.axis.n + mid) * n * element<T>;
        const bool more = mid + 1 < last;
        cosine_line(p.col, whole(base, p.col_stride, n), h, more ? base + element<T> : nullptr,
                    more ? h + n * element<T> : nullptr, scratch, scratch + n * element<T>);
    }
}

// 2L lines across, in elements `from_step` apart, to 2L elements of lines along: value (line r, element c) of one is value
// (line c, element r) of the other. `to` gives the place of element c of the result.
template <class T, class To>
MEDECONV_INLINE void transpose_square(const T* from, int64_t from_step, To to) {
    constexpr int L = lanes<T>;
    unroll<2>([&](auto half) MEDECONV_BODY {
        for (int part = 0; part < 2; ++part) {
            Vec<T> v[L];
            const T* base = from + part * L * from_step + half * L;
            unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(base + i * from_step); });
            transpose<T>(v);
            unroll<L>([&](auto i) MEDECONV_BODY { store(to(half * L + i) + part * L, v[i]); });
        }
    });
}
// The same, `from` giving the place of each element.
template <class T, class From>
MEDECONV_INLINE void gather_square(From from, T* to, int64_t to_step) {
    constexpr int L = lanes<T>;
    unroll<2>([&](auto half) MEDECONV_BODY {
        for (int part = 0; part < 2; ++part) {
            Vec<T> v[L];
            unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(from(part * L + i) + half * L); });
            transpose<T>(v);
            T* base = to + half * L * to_step + part * L;
            unroll<L>([&](auto i) MEDECONV_BODY { store(base + i * to_step, v[i]); });
        }
    });
}

// Half of the lines of a plane, that is, L neighbouring x: what the formula works on.
template <class T>
struct MirroredRows {
    const CosinePass<T>* pass;
    const int64_t* place;
    int64_t rows, width, at, count, slot;   // at: of (row 0, first x) in the real arrays; count: at most L; slot: of its sums
};
template <Formula formula, bool plain, bool careful, class T>
MEDECONV_NOINLINE void formula_lines(const MirroredRows<T>& r, T* plane) {
    const Operands<T> o = r.pass->operands;
    const Numbers<Vec<T>> numbers(o, [](T x) MEDECONV_BODY { return splat<T>(x); });
    Vec<T> of_rows[sums_of_a_sweep]{};
    for (int64_t y = 0; y < r.rows; ++y) {
        T* row = plane + r.place[y] * element<T>;
        const Reached<careful, T> here{r.at + y * r.width, r.count};
        const Vec<T> c = r.pass->inverse ? load(row) : here(r.pass->input);
        store(row, formula_step<formula, plain>(o, c, numbers, here, here, of_rows));
        if constexpr (careful) std::memset(row + r.count, 0, size_t(lanes<T> - r.count) * sizeof(T));
    }
    if (!plain && o.sums) add_lanes<T>(of_rows, r.count, o.sums + r.slot * sums_of_a_sweep);
}
template <class T>
void formula_lines(const MirroredRows<T>& r, T* plane) {
    const bool careful = r.count != lanes<T>, plain = r.pass->operands.plain();
#define MEDECONV_CASE(F)                                                                                                    \
    case Formula::F:                                                                                                        \
        if (plain) return careful ? formula_lines<Formula::F, true, true>(r, plane) : formula_lines<Formula::F, true, false>(r, plane); \
        return careful ? formula_lines<Formula::F, false, true>(r, plane) : formula_lines<Formula::F, false, false>(r, plane);
    switch (r.pass->formula) {
        MEDECONV_EACH_FORMULA(MEDECONV_CASE)
    }
#undef MEDECONV_CASE
}

template <class T>
struct CosineScratch {
    int64_t plane_pitch;                  // T between planes, off the powers of two
    T *line, *planes, *more;
};
// An image has one plane, its rows' values; a volume one for 2L neighbouring x each.
template <class T>
MEDECONV_INLINE CosineScratch<T> cosine_buffers(const CosineView<T>& p, T* scratch) {
    const AxisView<T>& along = p.image ? p.half.axis : p.mid.axis;
    const int64_t length = ceil_div(along.n, element<T>) * element<T>;
    CosineScratch<T> s;
    s.plane_pitch = (p.blocks * element<T> + 8) * element<T>;
    s.line = scratch;
    s.planes = s.line + length * element<T>;
    s.more = s.planes + (p.image ? length * element<T> : ceil_div(p.mid.axis.n, element<T>) * s.plane_pitch);
    return s;
}
template <class T>
int64_t cosine_slab_scratch(const CosineView<T>& p) {
    const CosineScratch<T> s = cosine_buffers<T>(p, nullptr);
    const int64_t inner = at_least(p.half.axis.inner ? p.half.axis.inner->n : 0, p.mid.axis.inner ? p.mid.axis.inner->n : 0);
    return int64_t(s.more - s.line) + inner * element<T>;
}
template <class T>
int64_t cosine_slab_units(const CosineView<T>& p) {
    return p.image ? ceil_div(p.col.axis.n, element<T>) : p.col.axis.n;
}
template <class T>
int64_t cosine_slots_of_sums(const CosineView<T>& p) {
    return p.image ? p.col.axis.n : p.col.axis.n * 2 * ceil_div(p.mid.axis.n, element<T>);
}

// One plane of a volume: y coefficients -> y -> formula -> y coefficients, in place.
template <class T>
void mirrored_plane(const CosinePass<T>& pass, const CosineScratch<T>& s, T* plane, int64_t slice, int64_t first) {
    constexpr int64_t L = lanes<T>;
    const CosineView<T>& p = *pass.plan;
    const int64_t rows = p.half.axis.n, width = p.mid.axis.n;
    const Line<T> all = whole(plane, element<T>, rows);
    if (pass.inverse) {
        pair_up<false>(p.half, plane, plane);
        transform<-1>(p.half.axis, all, all, s.more);
    }
    for (int64_t half = 0; half < 2; ++half) {
        const int64_t x = first + half * L, left = width - x, count = left < L ? left : L;
        if (count > 0)
            formula_lines<T>({&pass, p.half.place, rows, width, slice * rows * width + x, count,
                              (slice * ceil_div(width, element<T>) + first / element<T>) * 2 + half}, plane + half * L);
        else
            for (int64_t y = 0; y < rows; ++y) store(plane + y * element<T> + half * L, Vec<T>{});
    }
    if (!pass.forward) return;
    transform<+1>(p.half.axis, all, all, s.more);
    pair_up<true>(p.half, plane, plane);
    for (int64_t y = rows; y < p.blocks * element<T>; ++y) store_element(plane + y * element<T>, C<T>{Vec<T>{}, Vec<T>{}});
}
template <class T>
void mirrored_volume(const CosinePass<T>& pass, int64_t unit, T* scratch) {
    constexpr int64_t E = element<T>;
    const CosineView<T>& p = *pass.plan;
    const CosineScratch<T> s = cosine_buffers(p, scratch);
    T* slice = pass.spectrum + p.col.place[unit] * p.col_stride;
    const int64_t planes = ceil_div(p.mid.axis.n, E);
    const int64_t* place = p.mid.place;
    if (pass.inverse) {
        // What lies beyond the image shares elements with what does not, and would end in its rounding.
        std::memset(s.line + p.mid.axis.n * E, 0, size_t((planes * E - p.mid.axis.n) * E) * sizeof(T));
        for (int64_t block = 0; block < p.blocks; ++block) {
            const T* base = slice + block * p.block_stride;
            pair_up<false>(p.mid, base, s.line);
            inverse_through(p.mid.axis, whole(s.line, E, p.mid.axis.n), s.line, s.more, block + 1 < p.blocks ? base + p.block_stride : nullptr);
            for (int64_t i = 0; i < planes; ++i)
                gather_square<T>([&](int64_t c) MEDECONV_BODY { return s.line + place[i * E + c] * E; },
                                 s.planes + i * s.plane_pitch + block * E * E, E);
        }
    }
    for (int64_t i = 0; i < planes; ++i) mirrored_plane(pass, s, s.planes + i * s.plane_pitch, unit, i * E);
    if (!pass.forward) return;
    for (int64_t block = 0; block < p.blocks; ++block) {
        for (int64_t i = 0; i < planes; ++i)
            transpose_square<T>(s.planes + i * s.plane_pitch + block * E * E, E,
                                [&](int64_t c) MEDECONV_BODY { return s.line + place[i * E + c] * E; });
        const Line<T> line = whole(s.line, E, p.mid.axis.n);
        transform<+1>(p.mid.axis, line, line, s.more);
        pair_up<true>(p.mid, s.line, slice + block * p.block_stride);
    }
}

// 2L rows of an image, lane = row.
template <class T>
void mirrored_image(const CosinePass<T>& pass, int64_t unit, T* scratch) {
    constexpr int64_t E = element<T>;
    const CosineView<T>& p = *pass.plan;
    const CosineScratch<T> s = cosine_buffers(p, scratch);
    const int64_t width = p.half.axis.n, pitch = p.blocks * E, first = unit * E;
    const int64_t count = p.col.axis.n - first < E ? p.col.axis.n - first : E;
    const int64_t *place = p.half.place, *row_place = p.col.place;
    const Line<T> line = whole(s.line, E, width);
    T* rows = s.planes;                    // [row][x]
    if (pass.inverse) {
        for (int64_t block = 0; block < p.blocks; ++block)
            gather_square<T>(
                [&](int64_t r) MEDECONV_BODY {
                    // Rows beyond the image repeat the last one: they must be finite, and are dropped.
                    return pass.spectrum + row_place[first + (r < count ? r : count - 1)] * p.col_stride + block * p.block_stride;
                },
                s.line + block * E * E, E);
        pair_up<false>(p.half, s.line, s.line);
        transform<-1>(p.half.axis, line, line, s.more);
        for (int64_t block = 0; block < p.blocks; ++block)
            gather_square<T>([&](int64_t c) MEDECONV_BODY { return s.line + place[block * E + c] * E; }, rows + block * E, pitch);
    }
    for (int64_t r = 0; r < count; ++r) {
        T* row = rows + r * pitch;
        if (!pass.inverse) std::memcpy(row, pass.input + (first + r) * width, size_t(width) * sizeof(T));
        if (pass.inverse || pass.operands.previous)
            apply_formula<T>(pass.formula, pass.operands, row, (first + r) * width, width, first + r);
        if (pass.forward) std::memset(row + width, 0, size_t(pitch - width) * sizeof(T));
    }
    if (!pass.forward) return;
    for (int64_t r = count; r < E; ++r) std::memset(rows + r * pitch, 0, size_t(pitch) * sizeof(T));
    for (int64_t block = 0; block < p.blocks; ++block)
        transpose_square<T>(rows + block * E, pitch, [&](int64_t c) MEDECONV_BODY { return s.line + place[block * E + c] * E; });
    transform<+1>(p.half.axis, line, line, s.more);
    pair_up<true>(p.half, s.line, s.line);
    for (int64_t x = width; x < pitch; ++x) store_element(s.line + x * E, C<T>{Vec<T>{}, Vec<T>{}});
    T* dropped = rows;                     // of rows beyond the image
    for (int64_t block = 0; block < p.blocks; ++block)
        transpose_square<T>(s.line + block * E * E, E, [&](int64_t r) MEDECONV_BODY {
            return r < count ? pass.spectrum + row_place[first + r] * p.col_stride + block * p.block_stride : dropped;
        });
}

template <class T>
void cosine_slab(const CosinePass<T>& pass, int64_t unit, T* scratch) {
    if (pass.plan->image) mirrored_image(pass, unit, scratch);
    else mirrored_volume(pass, unit, scratch);
}

template <class T>
void cosine_evaluate(const double* from, int64_t stride, const double* cosines, int64_t taps, int64_t n, double scale, T* to) {
    constexpr int64_t E = element<T>;
    for (int64_t k = 0; k < n; ++k, to += E) {
        double total[E]{};
        for (int64_t d = 0; d < taps; ++d) {
            const double w = cosines[k * taps + d];
            for (int64_t i = 0; i < E; ++i) total[i] += w * from[d * stride + i];
        }
        for (int64_t i = 0; i < E; ++i) to[i] = T(scale * total[i]);
    }
}

template <class T>
constexpr CosineKernels<T> cosine_table = {
    lanes<T>, cosine_column_scratch<T>, cosine_slab_scratch<T>, cosine_column_units<T>, cosine_slab_units<T>,
    cosine_slots_of_sums<T>, cosine_column<T>, cosine_slab<T>, cosine_evaluate<T>,
};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
