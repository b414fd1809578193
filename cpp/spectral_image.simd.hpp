// The slab pass of an image: a few groups of L rows, lane = row. Layout and packing: spectral.hpp.
#pragma once
#include "formulas.simd.hpp"
#include "spectral_half.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int64_t row_groups_per_unit = 4;

// Real samples of L rows, [row][x]; the pitch keeps rows aligned and leaves room for whole vectors.
template <class T>
MEDECONV_INLINE int64_t row_pitch(const SpectralView<T>& p) {
    return ceil_div(p.real, lanes<T>) * lanes<T>;
}
template <class T>
MEDECONV_INLINE int64_t line_elements(const SpectralView<T>& p) {  // elements in the x line buffer
    int64_t from_rows = p.packed ? row_pitch(p) / 2 : row_pitch(p);
    return at_least(from_rows, at_least(p.blocks * lanes<T>, p.half.n));
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

// Scratch of one worker: rows, two lines, Bluestein's buffer.
template <class T>
struct ImageScratch {
    T *rows, *line, *other, *more;
};
template <class T>
MEDECONV_INLINE ImageScratch<T> image_buffers(const SpectralView<T>& p, T* scratch) {
    ImageScratch<T> s;
    s.rows = scratch;
    s.line = s.rows + lanes<T> * row_pitch(p);
    s.other = s.line + line_elements(p) * element<T>;
    s.more = s.other + (p.packed ? 0 : line_elements(p) * element<T>);
    return s;
}
template <class T>
int64_t image_scratch(const SpectralView<T>& p) {
    const ImageScratch<T> s = image_buffers<T>(p, nullptr);
    return int64_t(s.more - s.rows) + (p.half.inner ? p.half.inner->n : 0) * element<T>;
}

template <class T>
void rows_forward(const SpectralView<T>& p, const ImageScratch<T>& s, T* base, int64_t row_count) {
    rows_to_line(p, s.rows, s.line);
    Line<T> line = whole(s.line, element<T>, p.half.n);
    transform<+1>(p.half, line, line, s.more);
    if (p.packed) {
        split_or_join<false>(p, s.line);
        clear_beyond_bins(p, s.line);
        line_to_spectrum(p, s.line, base, row_count);
    } else {
        gather_bins(p, s.line, s.other);
        clear_beyond_bins(p, s.other);
        line_to_spectrum(p, s.other, base, row_count);
    }
}
template <class T>
void rows_inverse(const SpectralView<T>& p, const ImageScratch<T>& s, const T* base, int64_t row_count) {
    if (p.packed) {
        spectrum_to_line(p, base, s.line, row_count);
        split_or_join<true>(p, s.line);
    } else {
        spectrum_to_line(p, base, s.other, row_count);
        scatter_bins(p, s.other, s.line);
    }
    Line<T> line = whole(s.line, element<T>, p.half.n);
    transform<-1>(p.half, line, line, s.more);
    line_to_rows(p, s.line, s.rows);
}

template <class T>
void row_group(const SlabPass<T>& pass, const ImageScratch<T>& s, T* base, int64_t at, int64_t row_count) {
    const SpectralView<T>& p = *pass.plan;
    const int64_t pitch = row_pitch(p), width = pass.half.stop - pass.half.start;
    if (pass.inverse) rows_inverse(p, s, base, row_count);
    for (int64_t r = 0; r < row_count; ++r) {
        T* row = s.rows + r * pitch + pass.half.start;
        if (!pass.inverse) std::memcpy(row, pass.input + at + r * width, size_t(width) * sizeof(T));
        if (pass.inverse || pass.operands.previous) apply_formula<T>(pass.formula, pass.operands, row, at + r * width, width, at / width + r);
    }
    if (!pass.forward) return;
    for (int64_t r = 0; r < lanes<T>; ++r) {  // what lies outside the box is zero
        T* row = s.rows + r * pitch;
        if (r >= row_count) std::memset(row, 0, size_t(pitch) * sizeof(T));
        else {
            const Continuation& beyond = pass.beyond_half;
            const int64_t behind = pass.half.stop + beyond.high;
            std::memset(row, 0, size_t(pass.half.start) * sizeof(T));
            std::memcpy(row + pass.half.stop, row, size_t(beyond.high) * sizeof(T));
            std::memset(row + behind, 0, size_t(pitch - behind) * sizeof(T));
            std::memcpy(row + p.real - beyond.low, row + pass.half.stop - beyond.low, size_t(beyond.low) * sizeof(T));
        }
    }
    rows_forward(p, s, base, row_count);
}

template <class T>
void image_slab(const SlabPass<T>& pass, int64_t unit, T* scratch) {
    constexpr int L = lanes<T>;
    const SpectralView<T>& p = *pass.plan;
    const ImageScratch<T> s = image_buffers(p, scratch);
    const int64_t width = pass.half.stop - pass.half.start, rows = pass.col.stop - pass.col.start;
    const int64_t first = unit * row_groups_per_unit * L;
    const int64_t last = first + row_groups_per_unit * L < rows ? first + row_groups_per_unit * L : rows;
    for (int64_t r = first; r < last; r += L)
        row_group(pass, s, pass.spectrum + (pass.col.start + r) * p.col_stride, r * width, last - r < L ? last - r : L);
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
