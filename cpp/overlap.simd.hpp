// The pass of the spectral engine of a line, built once per ISA. Structure: overlap.hpp.
#pragma once
#include "overlap.hpp"
#include "rows.simd.hpp"
#include "spectral_image.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
int64_t overlap_scratch(const SpectralView<T>& p) {
    return image_scratch(p);
}

template <class T>
void overlap_spectrum(const SpectralView<T>& p, const T* values, int64_t count, T* otf, T* scratch) {
    const ImageScratch<T> s = image_buffers(p, scratch);
    std::memset(s.rows, 0, size_t(lanes<T> * row_pitch(p)) * sizeof(T));
    std::memcpy(s.rows, values, size_t(count) * sizeof(T));
    rows_to_line(p, s.rows, s.line);
    const Line<T> line = whole(s.line, element<T>, p.half.n);
    transform<+1>(p.half, line, line, s.more);
    split_or_join<false>(p, s.line);
    for (int64_t slot = 0; slot < p.half.n; ++slot) {
        otf[2 * slot] = s.line[slot * element<T>];
        otf[2 * slot + 1] = s.line[slot * element<T> + lanes<T>];
    }
}

template <class T>
void overlap_group(const OverlapPass<T>& pass, int64_t unit, T* scratch) {
    constexpr int L = lanes<T>;
    const SpectralView<T>& p = *pass.segment;
    const ImageScratch<T> s = image_buffers(p, scratch);
    const int64_t pitch = row_pitch(p), step = pass.step(), first = unit * L * step;
    for (int64_t r = 0; r < L; ++r) {
        T* row = s.rows + r * pitch;
        const int64_t at = first + r * step;
        if (at < pass.destination) extend_row(pass.input, pass.source, at + pass.base, pass.periodic ? Boundary::wrap : Boundary::zero, row, p.real);
        else std::memset(row, 0, size_t(p.real) * sizeof(T));
    }
    rows_to_line(p, s.rows, s.line);
    const Line<T> line = whole(s.line, element<T>, p.half.n);
    transform<+1>(p.half, line, line, s.more);
    split_or_join<false>(p, s.line);
    {
        const C<T> v = load_element(s.line);
        store_element(s.line, C<T>{v.re * pass.otf[0], v.im * pass.otf[1]});
    }
    for (int64_t slot = 1; slot < p.half.n; ++slot) {
        T* at = s.line + slot * element<T>;
        store_element(at, rotate<+1>(load_element(at), pass.otf[2 * slot], pass.otf[2 * slot + 1]));
    }
    split_or_join<true>(p, s.line);
    transform<-1>(p.half, line, line, s.more);
    line_to_rows(p, s.line, s.rows);
    for (int64_t r = 0; r < L; ++r) {
        const int64_t at = first + r * step, rest = pass.destination - at;
        if (rest <= 0) break;
        finish_row(pass.formula, pass.operands, pass.kept, s.rows + r * pitch, at, rest < step ? rest : step, unit * L + r);
    }
}

template <class T>
constexpr OverlapKernels<T> overlap_table = {lanes<T>, overlap_scratch<T>, overlap_group<T>, overlap_spectrum<T>};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
