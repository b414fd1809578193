// The weight gradient by Winograd's transform: dW = Gᵀ [sum over tiles of (Bᵀ d B) ⊙ (A g Aᵀ)] G.
//
// For a number of bands, tiles of source and gradient are transformed and transposed, channels fastest; then each of the 36
// elements is a product of two matrices over all tiles, added to sums that are transformed back at the end.
#pragma once
#include "conv_weight.simd.hpp"
#include "conv_winograd.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int64_t tiles_of_strip = 64;   // transformed before they are transposed

template <class T>
struct WinogradWeight {
    WinogradTiles of_slice;                               // of a band
    int64_t tiles, slices, source_slices;
    int64_t source_channels, gradient_channels;           // of a tile
    int64_t source_band, gradient_band;                   // of an element: [band][slice][tile][channel]
    int64_t source_element, gradient_element, group;      // [group][source elements, gradient elements]
    int64_t tile_row, strip_rows, row;                    // tiles of a row in every phase; tile rows of a strip; its tiles
    int64_t line;                                         // of WinogradRows
    int64_t sums;                                         // of an element: [group][kernel slice][element][destination][source]
};
template <class T>
MEDECONV_INLINE WinogradWeight<T> winograd_weight(const ConvWeightPass<T>& p) {
    constexpr int64_t L = lanes<T>;
    WinogradWeight<T> w{};
    w.of_slice = winograd_tiles(p.axis, p.axis[1].block, p.axis[2].block);
    w.tiles = w.of_slice.all();
    w.slices = p.axis[0].block, w.source_slices = p.axis[0].reach(w.slices);
    w.source_channels = ceil_div(p.sources, L) * L, w.gradient_channels = ceil_div(p.destinations, L) * L;
    w.source_band = w.source_slices * w.tiles * w.source_channels, w.gradient_band = w.slices * w.tiles * w.gradient_channels;
    // Elements an odd number of lines apart: the same tile of all of them is written together.
    w.source_element = p.bands_at_once * w.source_band + conv_sums * L, w.gradient_element = p.bands_at_once * w.gradient_band + L;
    w.group = winograd_elements * (w.source_element + w.gradient_element);
    w.tile_row = w.of_slice.y_phases * w.of_slice.row();
    w.strip_rows = at_least(tiles_of_strip / w.tile_row, 1);
    w.row = ceil_div(w.strip_rows * w.tile_row, L) * L + L;
    w.line = (w.strip_rows + 1) * w.of_slice.row() + 2 * L;
    w.sums = p.destinations * p.sources;
    return w;
}
template <class T>
int64_t winograd_weight_size(const ConvWeightPass<T>& p, int64_t* sums) {
    const WinogradWeight<T> w = winograd_weight(p);
    *sums = p.groups * p.taps[0] * winograd_elements * w.sums;
    return p.groups * w.group;
}
template <class T>
int64_t winograd_weight_scratch(const ConvWeightPass<T>& p) {
    const WinogradWeight<T> w = winograd_weight(p);
    constexpr int64_t L = lanes<T>;
    const int64_t transform = winograd_elements * L * w.row + winograd_row_size<T>(w.of_slice) + 24 * w.line;
    const int64_t offsets = p.bands_at_once * w.slices * w.tiles;
    return (transform > offsets ? transform : offsets) + 8 * L;
}
template <class T>
int64_t winograd_weight_units(const ConvWeightPass<T>& p, int64_t bands) {
    const WinogradWeight<T> w = winograd_weight(p);
    return bands * p.groups * (w.source_slices * (w.source_channels / lanes<T>) + w.slices * (w.gradient_channels / lanes<T>));
}

// A on four vectors.
template <class T>
MEDECONV_INLINE void winograd_gradient(const Vec<T>* m, Vec<T>* to) {
    const T two = 2, four = 4, eight = 8;
    const Vec<T> a = m[0] + m[2], b = m[1] + m[3], c = m[0] + four * m[2], d = two * m[1] + eight * m[3];
    to[0] = m[0], to[1] = a + b, to[2] = a - b, to[3] = c + d, to[4] = c - d, to[5] = m[3];
}
// Gᵀ on six vectors `step` apart.
template <class T>
MEDECONV_INLINE void winograd_taps(const Vec<T>* m, int step, Vec<T>* to) {
    const Vec<T> a = m[step] + m[2 * step], b = m[2 * step] - m[step], c = m[3 * step] + m[4 * step], d = m[3 * step] - m[4 * step];
    const T sixth = T(1.0 / 6);
    to[0] = T(0.25) * m[0] - sixth * a + T(1.0 / 24) * c;
    to[1] = sixth * b + T(1.0 / 12) * d;
    to[2] = sixth * (c - a) + m[5 * step];
}

// One channel's tiles of a slice of the gradient, zero beyond `ys` and `xs`: to[element · stride + tile].
template <class T>
MEDECONV_NOINLINE void transform_gradient(const WinogradTiles& tiles, const WinogradRows<T>& s, const T* slice, int64_t row_size, Range ys,
                                          Range xs, T* to, int64_t stride) {
    constexpr int L = lanes<T>;
    const int64_t width = xs.stop - xs.start, length = winograd_reach<T>(tiles), apart = tiles.x_phases;
    for (int64_t phase = 0; phase < tiles.y_phases; ++phase, to += tiles.phase()) {
        for (int64_t r = 0; r < 4 * tiles.down; ++r) {
            T* column = s.columns + r % 4 * s.line + r / 4 * tiles.row();
            const int64_t at = ys.start + r * tiles.y_phases + phase;
            if (at >= ys.stop) {
                for (int j = 0; j < 6; ++j) std::memset(column + 4 * j * s.line, 0, size_t(tiles.row()) * sizeof(T));
                continue;
            }
            const T* row = slice + at * row_size + xs.start;
            if (apart > 1 || length > width) {
                for (int64_t i = 0; i < apart; ++i) {
                    const int64_t n = i < width ? (width - i + apart - 1) / apart : 0;
                    copy_every(row + i, apart, n, s.row + i * length);
                    std::memset(s.row + i * length + n, 0, size_t(length - n) * sizeof(T));
                }
                row = s.row;
            }
            for (int64_t i = 0; i < apart; ++i, row += length, column += tiles.across)
                for (int64_t t = 0; t < tiles.across; t += L) {
                    Vec<T> d[6], transformed[6];
                    split_row<6, T>(row + 4 * t, d);
                    winograd_gradient<T>(d, transformed);
                    unroll<6>([&](auto j) MEDECONV_BODY { store_unaligned(column + 4 * j * s.line + t, transformed[j]); });
                }
        }
        for (int64_t t = 0; t < tiles.phase(); t += L)
            unroll<6>([&](auto j) MEDECONV_BODY {
                Vec<T> d[4], transformed[6];
                unroll<4>([&](auto i) MEDECONV_BODY { d[i] = load_unaligned(s.columns + (4 * j + i) * s.line + t); });
                winograd_gradient<T>(d, transformed);
                unroll<6>([&](auto i) MEDECONV_BODY { store_unaligned(to + (i * 6 + j) * stride + t, transformed[i]); });
            });
    }
}

// A unit: a band, a slice of it, and as many channels of source or gradient as a vector has lanes.
template <class T>
void winograd_weight_transform(const ConvWeightPass<T>& p, int64_t first, int64_t unit, T* transformed, T* scratch) {
    constexpr int64_t L = lanes<T>;
    const WinogradWeight<T> w = winograd_weight(p);
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const int64_t source_units = w.source_slices * (w.source_channels / L), gradient_units = w.slices * (w.gradient_channels / L);
    int64_t inner = unit % (source_units + gradient_units);
    const int64_t group = unit / (source_units + gradient_units) % p.groups, at = unit / (source_units + gradient_units) / p.groups;
    const bool of_source = inner < source_units;
    if (!of_source) inner -= source_units;
    const int64_t slices = of_source ? w.source_slices : w.slices, slice = inner % slices, c0 = inner / slices * L;
    const int64_t channels = of_source ? p.sources : p.destinations, pitch = of_source ? w.source_channels : w.gradient_channels;
    const int64_t count = channels - c0 < L ? channels - c0 : L;
    const WeightBand b = weight_band_of(p, first + at);
    const int64_t stride = of_source ? w.source_element : w.gradient_element;
    const int64_t band = of_source ? at * w.source_band : winograd_elements * w.source_element + at * w.gradient_band;
    T* const to = transformed + group * w.group + band + slice * w.tiles * pitch + c0;
    const T* const from = of_source ? p.source + ((b.image * p.groups + group) * p.sources + c0) * p.source_size
                                    : p.gradient + ((b.image * p.groups + group) * p.destinations + c0) * p.gradient_size;
    // A short band's missing slices add nothing: its gradient is zero there.
    const bool outside = b.zs.start + slice >= (of_source ? z.reach(z.count) : b.zs.stop);
    const int64_t plane = outside ? -1 : of_source ? z.index[b.zs.start + slice] : b.zs.start + slice;

    T* const planes = scratch;           // [element][channel][tile of the strip]
    WinogradRows<T> rows{planes + winograd_elements * L * w.row, nullptr, w.line};
    rows.columns = rows.row + winograd_row_size<T>(w.of_slice);
    const int64_t down = w.of_slice.down;
    for (int64_t strip = 0; strip < down; strip += w.strip_rows) {
        const int64_t tile_rows_left = down - strip < w.strip_rows ? down - strip : w.strip_rows;
        const Range ys{b.ys.start + 4 * y.dilation * strip, b.ys.start + 4 * y.dilation * (strip + tile_rows_left)};
        const Range xs{b.xs.start, b.xs.start + x.block};   // whole tiles: every band has as many
        const WinogradTiles of_strip = winograd_tiles(p.axis, ys.stop - ys.start, x.block);
        const int64_t tiles = of_strip.all();
        for (int64_t c = 0; c < count; ++c) {
            T* place = planes + c * w.row;
            if (of_source) {
                transform_source(p.axis, rows, plane < 0 ? nullptr : from + c * p.source_size + plane * y.length * x.length, ys, xs, place,
                                 L * w.row);
            } else if (plane < 0) {
                for (int64_t e = 0; e < winograd_elements; ++e) std::memset(place + e * L * w.row, 0, size_t(tiles) * sizeof(T));
            } else {
                const Range real_ys{ys.start, ys.stop < b.ys.stop ? ys.stop : b.ys.stop};
                transform_gradient(of_strip, rows, from + c * p.gradient_size + plane * y.count * x.count, x.count, real_ys, b.xs, place,
                                   L * w.row);
            }
        }
        for (int64_t e = 0; e < winograd_elements; ++e)
            transpose_rows<T>(count, tiles, to + e * stride + strip * w.tile_row * pitch, pitch,
                              [&](int64_t c, int64_t) MEDECONV_BODY { return (const T*)(planes + (e * L + c) * w.row); });
    }
}

// A unit: a group, a slice of the kernel and an element.
template <class T>
void winograd_weight_products(const ConvWeightPass<T>& p, int64_t bands, int64_t unit, const T* transformed, T* sums, T* scratch) {
    constexpr int64_t tiles_at_once = 512;
    const WinogradWeight<T> w = winograd_weight(p);
    const int64_t e = unit % winograd_elements, kz = unit / winograd_elements % p.taps[0], group = unit / winograd_elements / p.taps[0];
    int32_t* const offsets = reinterpret_cast<int32_t*>(scratch);
    int64_t n = 0;
    for (int64_t band = 0; band < bands; ++band)
        for (int64_t slice = 0; slice < w.slices; ++slice)
            for (int64_t t = 0; t < w.tiles; ++t)
                offsets[n++] = int32_t(band * w.source_band + ((slice + kz * p.dilation[0]) * w.tiles + t) * w.source_channels);
    const T* const source = transformed + group * w.group + e * w.source_element;
    const T* const gradient = transformed + group * w.group + winograd_elements * w.source_element + e * w.gradient_element;
    for (int64_t i = 0; i < n; i += tiles_at_once)
        sum_matrix(source, offsets + i, n - i < tiles_at_once ? n - i : tiles_at_once, gradient + i * w.gradient_channels,
                   w.gradient_channels, p.destinations, p.sources, static_cast<const T*>(nullptr), sums + unit * w.sums, p.sources);
}

template <class T>
void winograd_weight_collect(const ConvWeightPass<T>& p, int64_t unit, const T* sums, T* out) {
    constexpr int L = lanes<T>;
    const WinogradWeight<T> w = winograd_weight(p);
    const int64_t group = unit / p.destinations, o = unit % p.destinations, kernel = p.kernel();
    for (int64_t kz = 0; kz < p.taps[0]; ++kz)
        for (int64_t c = 0; c < p.sources; c += L) {
            const int64_t count = p.sources - c < L ? p.sources - c : L;
            const T* from = sums + (group * p.taps[0] + kz) * winograd_elements * w.sums + o * p.sources + c;
            Vec<T> half[18], taps[3];
            T values[9 * L];
            unroll<6>([&](auto j) MEDECONV_BODY {   // half[j · 3 + k]
                Vec<T> m[6];
                unroll<6>([&](auto i) MEDECONV_BODY { m[i] = load_first(from + (i * 6 + j) * w.sums, count); });
                winograd_taps<T>(m, 1, half + 3 * j);
            });
            unroll<3>([&](auto k) MEDECONV_BODY {
                winograd_taps<T>(half + k, 3, taps);
                unroll<3>([&](auto l) MEDECONV_BODY { store_unaligned(values + (k * 3 + l) * L, taps[l]); });
            });
            T* to = out + (unit * p.sources + c) * kernel + kz * 9;
            for (int64_t i = 0; i < count; ++i)
                for (int64_t k = 0; k < 9; ++k) to[i * kernel + k] = values[k * L + i];
        }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
