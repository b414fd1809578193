// Passes of the spectral engine, built once per ISA. Layout and packing: spectral.hpp.
#pragma once
#include "fft.simd.hpp"
#include "formulas.simd.hpp"
#include "spectral.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int64_t columns_per_unit = 8;   // neighbouring columns share pages and prefetched lines
constexpr int64_t row_groups_per_unit = 4;

// ---------------------------------------------------------------- column pass

template <class T>
int64_t column_scratch(const SpectralView<T>& p) {
    int64_t bluestein = p.col.inner ? p.col.inner->n : 0;
    return (2 * p.col.n + bluestein) * element<T>;
}
// Units: pairs of mirrored mid slots in the packed block (each done by the lower slot), then groups of columns.
template <class T>
int64_t column_units(const SpectralView<T>& p) {
    int64_t plain_blocks = p.blocks - (p.packed ? 1 : 0);
    return (p.packed ? p.mid.n : 0) + plain_blocks * ceil_div(p.mid.n, columns_per_unit);
}
struct Columns {
    int64_t block, first, last;
    bool packed;
};
template <class T>
MEDECONV_INLINE Columns columns_of(const SpectralView<T>& p, int64_t unit) {
    if (p.packed) {
        if (unit < p.mid.n) return {0, unit, unit + 1, true};
        unit -= p.mid.n;
    }
    const int64_t groups = ceil_div(p.mid.n, columns_per_unit);
    const int64_t first = unit % groups * columns_per_unit;
    const int64_t last = first + columns_per_unit < p.mid.n ? first + columns_per_unit : p.mid.n;
    return {unit / groups + (p.packed ? 1 : 0), first, last, false};
}

template <bool adjoint, class T>
void packed_columns(const ColumnPass<T>& pass, int64_t mid, T* scratch) {
    const SpectralView<T>& p = *pass.plan;
    const int64_t partner = p.mirror_mid[mid];
    if (partner < mid) return;  // done with its partner
    const int64_t n = p.col.n, count = partner == mid ? 1 : 2;
    const int64_t which[2] = {mid, partner};
    T* buffer[2] = {scratch, count == 2 ? scratch + n * element<T> : scratch};
    T* more = scratch + 2 * n * element<T>;
    for (int64_t i = 0; i < count; ++i) {
        Line<T> from{pass.spectrum + which[i] * element<T>, p.col_stride, pass.source.start, pass.source.stop};
        transform<+1>(p.col, from, whole(buffer[i], element<T>, n), more);
    }
    // lane 0: P'(k) = A P(k) + B conj P(-k); both columns are read before either is written
    for (int64_t j = 0; j < n; ++j) {
        const int64_t mirrored = p.mirror_col[j];
        if (count == 1 && mirrored < j) continue;
        T* ends[2] = {buffer[0] + j * element<T>, buffer[1] + mirrored * element<T>};
        const int64_t at[2] = {mid * n + j, partner * n + mirrored};
        const int64_t pieces = ends[0] == ends[1] ? 1 : 2;
        T re[2], im[2];
        for (int64_t e = 0; e < pieces; ++e) re[e] = ends[e][0], im[e] = ends[e][lanes<T>];
        for (int64_t e = 0; e < pieces; ++e) {
            const int64_t o = pieces - 1 - e;
            const T* a = pass.transfer.main + at[e] * element<T>;
            store_element(ends[e], product<adjoint>(load_element(ends[e]), load_element(a)));
            const T br = pass.transfer.mirror[2 * at[e]];
            const T bi = adjoint ? -pass.transfer.mirror[2 * at[e] + 1] : pass.transfer.mirror[2 * at[e] + 1];
            ends[e][0] += br * re[o] + bi * im[o];
            ends[e][lanes<T>] += bi * re[o] - br * im[o];
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        Line<T> to{pass.spectrum + which[i] * element<T>, p.col_stride, pass.destination.start, pass.destination.stop};
        transform<-1>(p.col, whole(buffer[i], element<T>, n), to, more);
    }
}

template <bool adjoint, class T>
void plain_columns(const ColumnPass<T>& pass, Columns c, T* scratch) {
    const SpectralView<T>& p = *pass.plan;
    for (int64_t mid = c.first; mid < c.last; ++mid) {
        T* base = pass.spectrum + c.block * p.block_stride + mid * element<T>;
        Line<T> from{base, p.col_stride, pass.source.start, pass.source.stop};
        Line<T> to{base, p.col_stride, pass.destination.start, pass.destination.stop};
        const T* otf = pass.transfer.main + (c.block * p.mid.n + mid) * p.col.n * element<T>;
        filter_line<adjoint>(p.col, from, to, otf, scratch, scratch + 2 * p.col.n * element<T>);
    }
}

template <class T>
void column(const ColumnPass<T>& pass, int64_t unit, T* scratch) {
    const Columns c = columns_of(*pass.plan, unit);
    if (c.packed) {
        if (pass.adjoint) packed_columns<true>(pass, c.first, scratch);
        else packed_columns<false>(pass, c.first, scratch);
    } else {
        if (pass.adjoint) plain_columns<true>(pass, c, scratch);
        else plain_columns<false>(pass, c, scratch);
    }
}

template <class T>
void column_forward(const ColumnPass<T>& pass, int64_t unit, T* scratch) {
    const SpectralView<T>& p = *pass.plan;
    const Columns c = columns_of(p, unit);
    for (int64_t mid = c.first; mid < c.last; ++mid) {
        T* base = pass.spectrum + c.block * p.block_stride + mid * element<T>;
        Line<T> from{base, p.col_stride, pass.source.start, pass.source.stop};
        Line<T> work = whole(scratch, element<T>, p.col.n);
        transform<+1>(p.col, from, work, scratch + 2 * p.col.n * element<T>);
        copy_line(work, whole(base, p.col_stride, p.col.n), p.col.n);
    }
}

// ---------------------------------------------------------------- x transform of L rows at once

// Real samples of L rows, [row][x]; the pitch keeps rows aligned and leaves room for whole vectors.
template <class T>
MEDECONV_INLINE int64_t row_pitch(const SpectralView<T>& p) {
    return ceil_div(p.nx, lanes<T>) * lanes<T>;
}
template <class T>
MEDECONV_INLINE int64_t line_elements(const SpectralView<T>& p) {  // elements in the x line buffer
    int64_t from_rows = p.packed ? row_pitch(p) / 2 : row_pitch(p);
    return at_least(from_rows, at_least(p.blocks * lanes<T>, p.x.n));
}

// rows -> line: lane = row. Packed: two neighbouring samples make one complex element, which is what the transposed
// vectors already are when stored one after the other.
template <class T>
void rows_to_line(const SpectralView<T>& p, const T* rows, T* line) {
    constexpr int L = lanes<T>;
    const int64_t pitch = row_pitch(p);
    for (int64_t x = 0; x < pitch; x += L) {
        Vec<T> v[L];
        unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(rows + i * pitch + x); });
        transpose<T>(v);
        if (p.packed) {
            unroll<L>([&](auto i) MEDECONV_BODY { store(line + (x + i) * L, v[i]); });
        } else {
            unroll<L>([&](auto i) MEDECONV_BODY { store_element(line + (x + i) * 2 * L, C<T>{v[i], Vec<T>{}}); });
        }
    }
}
template <class T>
void line_to_rows(const SpectralView<T>& p, const T* line, T* rows) {
    constexpr int L = lanes<T>;
    const int64_t pitch = row_pitch(p);
    const int64_t step = p.packed ? L : 2 * L;
    for (int64_t x = 0; x < pitch; x += L) {
        Vec<T> v[L];
        unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(line + (x + i) * step); });
        transpose<T>(v);
        unroll<L>([&](auto i) MEDECONV_BODY { store(rows + i * pitch + x, v[i]); });
    }
}

// Spectrum of the real samples from the transform of the packed pairs, and back; both without the halves (the OTF's
// scale has them). With f' = nx/2 - f:  X(f), X(f') from Z(f), Z(f').
template <class T>
MEDECONV_INLINE void split_pair(C<T>& a, C<T>& b, T c, T s) {
    const C<T> even = a + conjugate(b), odd = quarter_turn<+1>(a - conjugate(b));
    const C<T> turned = rotate<+1>(odd, c, s);
    a = even + turned;
    b = conjugate(even - turned);
}
template <class T>
MEDECONV_INLINE void join_pair(C<T>& a, C<T>& b, T c, T s) {
    const C<T> even = a + conjugate(b), odd = rotate<-1>(a - conjugate(b), c, s);
    const C<T> turned = quarter_turn<-1>(odd);
    a = even + turned;
    b = conjugate(even - turned);
}
template <bool join, class T>
void split_or_join(const SpectralView<T>& p, T* line) {
    {
        const C<T> v = load_element(line);
        if constexpr (join) store_element(line, C<T>{v.re + v.im, v.re - v.im});
        else store_element(line, C<T>{(v.re + v.im) * T(2), (v.re - v.im) * T(2)});
    }
    for (int64_t slot = 1; slot < p.x.n; ++slot) {
        const int64_t partner = p.mirror_x[slot];
        if (partner < slot) continue;
        C<T> a = load_element(line + slot * element<T>);
        if (partner == slot) {  // f = nx/4: X = conj Z
            store_element(line + slot * element<T>, C<T>{a.re * T(2), a.im * T(-2)});
            continue;
        }
        C<T> b = load_element(line + partner * element<T>);
        const T c = p.split[2 * slot], s = p.split[2 * slot + 1];
        if constexpr (join) join_pair<T>(a, b, c, s);
        else split_pair<T>(a, b, c, s);
        store_element(line + slot * element<T>, a);
        store_element(line + partner * element<T>, b);
    }
}

// line (lane = row, element = x slot) <-> spectrum rows (lane = x slot)
template <class T>
void line_to_spectrum(const SpectralView<T>& p, const T* line, T* base, int64_t row_count) {
    constexpr int L = lanes<T>;
    for (int64_t block = 0; block < p.blocks; ++block) {
        const T* from = line + block * L * element<T>;
        T* to = base + block * p.block_stride;
        for (int half = 0; half < 2; ++half) {
            Vec<T> v[L];
            unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(from + i * element<T> + half * L); });
            transpose<T>(v);
            if (row_count >= L) {
                unroll<L>([&](auto i) MEDECONV_BODY { store(to + i * element<T> + half * L, v[i]); });
            } else {
                unroll<L>([&](auto i) MEDECONV_BODY {
                    if (int64_t(i) < row_count) store(to + i * element<T> + half * L, v[i]);
                });
            }
        }
    }
}
template <class T>
void spectrum_to_line(const SpectralView<T>& p, const T* base, T* line, int64_t row_count) {
    constexpr int L = lanes<T>;
    for (int64_t block = 0; block < p.blocks; ++block) {
        const T* from = base + block * p.block_stride;
        T* to = line + block * L * element<T>;
        for (int half = 0; half < 2; ++half) {
            Vec<T> v[L];
            if (row_count >= L) {
                unroll<L>([&](auto i) MEDECONV_BODY { v[i] = load(from + i * element<T> + half * L); });
            } else {
                unroll<L>([&](auto i) MEDECONV_BODY {
                    v[i] = int64_t(i) < row_count ? load(from + i * element<T> + half * L) : Vec<T>{};
                });
            }
            transpose<T>(v);
            unroll<L>([&](auto i) MEDECONV_BODY { store(to + i * element<T> + half * L, v[i]); });
        }
    }
}

// Odd nx: a complex transform of real samples; the kept bins are gathered from their slots, and the missing half is
// the conjugate.
template <class T>
void gather_bins(const SpectralView<T>& p, const T* from, T* to) {
    const int64_t end = p.blocks * lanes<T>;
    for (int64_t f = 0; f < p.bins; ++f)
        store_element(to + f * element<T>, load_element(from + p.bin_slot[f] * element<T>));
    for (int64_t f = p.bins; f < end; ++f) store_element(to + f * element<T>, C<T>{Vec<T>{}, Vec<T>{}});
}
template <class T>
void scatter_bins(const SpectralView<T>& p, const T* from, T* to) {
    for (int64_t f = 0; f < p.bins; ++f) {
        const C<T> v = load_element(from + f * element<T>);
        store_element(to + p.bin_slot[f] * element<T>, v);
        if (f > 0) store_element(to + p.bin_slot[p.nx - f] * element<T>, conjugate(v));
    }
}

// Scratch of one slab worker: rows, two lines, Bluestein's buffer.
template <class T>
struct SlabScratch {
    T *rows, *line, *other, *more;
};
template <class T>
MEDECONV_INLINE SlabScratch<T> slab_buffers(const SpectralView<T>& p, T* scratch) {
    SlabScratch<T> s;
    s.rows = scratch;
    s.line = s.rows + lanes<T> * row_pitch(p);
    s.other = s.line + line_elements(p) * element<T>;
    s.more = s.other + (p.packed ? 0 : line_elements(p) * element<T>);
    return s;
}
template <class T>
int64_t slab_scratch(const SpectralView<T>& p) {
    const SlabScratch<T> s = slab_buffers<T>(p, nullptr);
    int64_t inner = at_least(p.x.inner ? p.x.inner->n : 0, p.mid.inner ? p.mid.inner->n : 0);
    return int64_t(s.more - s.rows) + inner * element<T>;
}

template <class T>
void rows_forward(const SpectralView<T>& p, const SlabScratch<T>& s, T* base, int64_t row_count) {
    rows_to_line(p, s.rows, s.line);
    Line<T> line = whole(s.line, element<T>, p.x.n);
    transform<+1>(p.x, line, line, s.more);
    if (p.packed) {
        split_or_join<false>(p, s.line);
        for (int64_t f = p.bins; f < p.blocks * lanes<T>; ++f) store_element(s.line + f * element<T>, C<T>{Vec<T>{}, Vec<T>{}});
        line_to_spectrum(p, s.line, base, row_count);
    } else {
        gather_bins(p, s.line, s.other);
        line_to_spectrum(p, s.other, base, row_count);
    }
}
template <class T>
void rows_inverse(const SpectralView<T>& p, const SlabScratch<T>& s, const T* base, int64_t row_count) {
    if (p.packed) {
        spectrum_to_line(p, base, s.line, row_count);
        split_or_join<true>(p, s.line);
    } else {
        spectrum_to_line(p, base, s.other, row_count);
        scatter_bins(p, s.other, s.line);
    }
    Line<T> line = whole(s.line, element<T>, p.x.n);
    transform<-1>(p.x, line, line, s.more);
    line_to_rows(p, s.line, s.rows);
}

// ---------------------------------------------------------------- slab pass

// A volume's slab is one z slice; an image's is a few groups of L rows.
template <class T>
int64_t slab_units(const SpectralView<T>& p, Range col) {
    const int64_t n = col.stop - col.start;
    return p.mid.n > 1 ? n : ceil_div(n, row_groups_per_unit * lanes<T>);
}

template <class T>
void row_group(const SlabPass<T>& pass, const SlabScratch<T>& s, T* base, int64_t at, int64_t row_count) {
    const SpectralView<T>& p = *pass.plan;
    const int64_t pitch = row_pitch(p), width = pass.x.stop - pass.x.start;
    if (pass.inverse) {
        rows_inverse(p, s, base, row_count);
        for (int64_t r = 0; r < row_count; ++r)
            apply_formula(pass.formula, pass.operands, s.rows + r * pitch + pass.x.start, at + r * width, width);
    } else {
        for (int64_t r = 0; r < row_count; ++r)
            std::memcpy(s.rows + r * pitch + pass.x.start, pass.input + at + r * width, size_t(width) * sizeof(T));
    }
    if (!pass.forward) return;
    for (int64_t r = 0; r < lanes<T>; ++r) {  // what lies outside the box is zero
        T* row = s.rows + r * pitch;
        if (r >= row_count) std::memset(row, 0, size_t(pitch) * sizeof(T));
        else {
            std::memset(row, 0, size_t(pass.x.start) * sizeof(T));
            std::memset(row + pass.x.stop, 0, size_t(pitch - pass.x.stop) * sizeof(T));
        }
    }
    rows_forward(p, s, base, row_count);
}

template <class T>
void slab(const SlabPass<T>& pass, int64_t unit, T* scratch) {
    constexpr int L = lanes<T>;
    const SpectralView<T>& p = *pass.plan;
    const SlabScratch<T> s = slab_buffers(p, scratch);
    const int64_t width = pass.x.stop - pass.x.start;
    if (p.mid.n == 1) {
        const int64_t rows = pass.col.stop - pass.col.start;
        const int64_t first = unit * row_groups_per_unit * L;
        const int64_t last = first + row_groups_per_unit * L < rows ? first + row_groups_per_unit * L : rows;
        for (int64_t r = first; r < last; r += L)
            row_group(pass, s, pass.spectrum + (pass.col.start + r) * p.col_stride, r * width, last - r < L ? last - r : L);
        return;
    }
    T* slice = pass.spectrum + (pass.col.start + unit) * p.col_stride;
    const int64_t rows = pass.mid.stop - pass.mid.start;
    if (pass.inverse)
        for (int64_t block = 0; block < p.blocks; ++block) {
            T* base = slice + block * p.block_stride;
            Line<T> all = whole(base, element<T>, p.mid.n), wanted{base, element<T>, pass.mid.start, pass.mid.stop};
            transform<-1>(p.mid, all, wanted, s.more);
        }
    for (int64_t r = 0; r < rows; r += L)
        row_group(pass, s, slice + (pass.mid.start + r) * element<T>, (unit * rows + r) * width, rows - r < L ? rows - r : L);
    if (pass.forward)
        for (int64_t block = 0; block < p.blocks; ++block) {
            T* base = slice + block * p.block_stride;
            Line<T> all = whole(base, element<T>, p.mid.n), present{base, element<T>, pass.mid.start, pass.mid.stop};
            transform<+1>(p.mid, present, all, s.more);
        }
}

template <class T>
constexpr SpectralKernels<T> spectral_table = {
    lanes<T>, column_scratch<T>, slab_scratch<T>, column_units<T>, slab_units<T>, column<T>, slab<T>, column_forward<T>,
};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
