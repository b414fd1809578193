// The column pass of the spectral engine: col transform, × OTF, inverse, in L1. Layout and packing: spectral.hpp.
#pragma once
#include "fft.simd.hpp"
#include "spectral.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int64_t columns_per_unit = 32;  // neighbouring columns share pages, and each fetches the next

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

// A source continued beyond its box is put together in the work buffer first.
template <class T>
MEDECONV_INLINE Line<T> source_line(const ColumnPass<T>& pass, T* base, T* buffer) {
    const int64_t n = pass.plan->col.n, stride = pass.plan->col_stride, stop = pass.source.stop;
    const Line<T> from{base, stride, pass.source.start, stop};
    if (!pass.beyond.any()) return from;
    auto copy = [&](int64_t j, int64_t source) { store_element(buffer + j * element<T>, load_element(base + source * stride)); };
    for (int64_t j = 0; j < stop; ++j) copy(j, j);
    for (int64_t j = stop; j < stop + pass.beyond.high; ++j) copy(j, j - stop);
    const int64_t tail = n - pass.beyond.low;
    for (int64_t j = stop + pass.beyond.high; j < tail; ++j) store_element(buffer + j * element<T>, C<T>{Vec<T>{}, Vec<T>{}});
    for (int64_t j = tail; j < n; ++j) copy(j, j - n + stop);
    return whole(buffer, element<T>, n);
}

template <Otf kind, class T>
void packed_columns(const ColumnPass<T>& pass, int64_t mid, T* scratch) {
    const SpectralView<T>& p = *pass.plan;
    const int64_t partner = p.mirror_mid[mid];
    if (partner < mid) return;  // done with its partner
    const int64_t n = p.col.n, count = partner == mid ? 1 : 2;
    const int64_t which[2] = {mid, partner};
    T* buffer[2] = {scratch, count == 2 ? scratch + n * element<T> : scratch};
    T* more = scratch + 2 * n * element<T>;
    for (int64_t i = 0; i < count; ++i) {
        const Line<T> from = source_line(pass, pass.spectrum + which[i] * element<T>, buffer[i]);
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
            store_element(ends[e], filtered<kind>(load_element(ends[e]), pass.transfer.main + at[e] * otf_step<kind, T>));
            const T br = pass.transfer.mirror[2 * at[e]];
            const T bi = kind == Otf::conjugated ? -pass.transfer.mirror[2 * at[e] + 1] : pass.transfer.mirror[2 * at[e] + 1];
            ends[e][0] += br * re[o] + bi * im[o];
            ends[e][lanes<T>] += bi * re[o] - br * im[o];
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        Line<T> to{pass.spectrum + which[i] * element<T>, p.col_stride, pass.destination.start, pass.destination.stop};
        transform<-1>(p.col, whole(buffer[i], element<T>, n), to, more);
    }
}

template <Otf kind, class T>
void plain_columns(const ColumnPass<T>& pass, Columns c, T* scratch) {
    const SpectralView<T>& p = *pass.plan;
    for (int64_t mid = c.first; mid < c.last; ++mid) {
        T* base = pass.spectrum + c.block * p.block_stride + mid * element<T>;
        const Line<T> from = source_line(pass, base, scratch);
        Line<T> to{base, p.col_stride, pass.destination.start, pass.destination.stop};
        const T* otf = pass.transfer.main + (c.block * p.mid.n + mid) * p.col.n * otf_step<kind, T>;
        const bool more = mid + 1 < c.last && !pass.beyond.any();
        filter_line<kind>(p.col, from, to, otf, more ? base + element<T> : nullptr, more ? otf + p.col.n * otf_step<kind, T> : nullptr,
                          scratch, scratch + 2 * p.col.n * element<T>);
    }
}

template <Otf kind, class T>
void columns(const ColumnPass<T>& pass, Columns c, T* scratch) {
    if (c.packed) packed_columns<kind>(pass, c.first, scratch);
    else plain_columns<kind>(pass, c, scratch);
}
template <class T>
void column(const ColumnPass<T>& pass, int64_t unit, T* scratch) {
    const Columns c = columns_of(*pass.plan, unit);
    if (pass.transfer.real) columns<Otf::real>(pass, c, scratch);
    else if (pass.adjoint) columns<Otf::conjugated>(pass, c, scratch);
    else columns<Otf::plain>(pass, c, scratch);
}

template <class T>
void column_forward(const ColumnPass<T>& pass, int64_t unit, T scale, T* to, T* scratch) {
    const SpectralView<T>& p = *pass.plan;
    const Columns c = columns_of(p, unit);
    const int64_t n = p.col.n;
    const Line<T> work = whole(scratch, element<T>, n);
    for (int64_t mid = c.first; mid < c.last; ++mid) {
        const T* base = pass.spectrum + c.block * p.block_stride + mid * element<T>;
        if (pass.source.stop - pass.source.start < n) std::memset(scratch, 0, size_t(n * element<T>) * sizeof(T));
        for (int64_t j = pass.source.start; j < pass.source.stop; ++j) {
            const int64_t at = j < n ? j : j - n;
            store_element(scratch + at * element<T>, load_element(base + at * p.col_stride));
        }
        transform<+1>(p.col, work, work, scratch + 2 * n * element<T>);
        T* target = to + (c.block * p.mid.n + mid) * n * element<T>;
        for (int64_t j = 0; j < n; ++j) {
            const C<T> v = load_element(scratch + j * element<T>);
            store_element(target + j * element<T>, C<T>{v.re * scale, v.im * scale});
        }
    }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
