// The weight gradient by Winograd's transform: dW = Gᵀ [sum over tiles of (Bᵀ d B) ⊙ (A g Aᵀ)] G, of lines Gᵀ [.. Bᵀ d ⊙ A g].
//
// Tiles of source and gradient are transformed and transposed, channels fastest; each of the 36 (6, 8) elements is then a product
// of two matrices over the tiles, whose sums are transformed back at the end. What a unit of the products is (WinogradUnits):
//   elements   one of them; sums of all channels lie in memory, and a number of bands is transformed at a time
//   blocks     a block of channels, whose sums stay in its scratch: many channels, and few enough tiles to transform all of them
//   bands      a group's bands from their transforms to the result: few channels, nothing shared but the parts' sums
#pragma once
#include "conv_weight.simd.hpp"
#include "conv_winograd.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr int64_t tiles_of_strip = 64;   // transformed before they are transposed

template <class T>
struct WinogradWeight {
    WinogradTiles of_slice;                               // of a band
    int64_t elements, tiles, slices, source_slices;
    int64_t source_channels, gradient_channels;           // of a tile, in whole vectors
    int64_t source_pitch, gradient_pitch;                 // from tile to tile
    int64_t source_band, gradient_band;                   // of an element: [band][slice][tile][channel]
    int64_t source_element, gradient_element, group;      // [group][source elements, gradient elements]
    int64_t tile_row, strip_rows, row;                    // tiles of a row in every phase; tile rows of a strip; its tiles
    int64_t plane;                                        // of a strip's element: [channel][tile]
    int64_t line;                                         // of WinogradRows
    int64_t sums;                                         // of an element: [group][kernel slice][element][destination][source]
};
template <class T>
MEDECONV_INLINE WinogradWeight<T> winograd_weight(const ConvWeightPass<T>& p) {
    constexpr int64_t L = lanes<T>, line = 64 / int64_t(sizeof(T)), sets = 8;
    // An odd number of lines between what is written together, and not many powers of two between what is read together: else
    // they compete for the same sets of the cache.
    auto odd_lines = [](int64_t n) MEDECONV_BODY { return (ceil_div(n, line) | 1) * line; };
    auto pitch_of = [&](int64_t channels) MEDECONV_BODY { return channels % (sets * line) ? channels : odd_lines(channels); };
    WinogradWeight<T> w{};
    w.of_slice = winograd_tiles(p.axis, p.axis[1].block, p.axis[2].block);
    w.elements = w.of_slice.elements(), w.tiles = w.of_slice.all();
    w.slices = p.axis[0].block, w.source_slices = p.axis[0].reach(w.slices);
    w.source_channels = ceil_div(p.sources, L) * L, w.gradient_channels = ceil_div(p.destinations, L) * L;
    w.source_pitch = pitch_of(w.source_channels), w.gradient_pitch = pitch_of(w.gradient_channels);
    w.source_band = w.source_slices * w.tiles * w.source_pitch, w.gradient_band = w.slices * w.tiles * w.gradient_pitch;
    w.source_element = odd_lines(p.bands_at_once * w.source_band + conv_sums * L);
    w.gradient_element = odd_lines(p.bands_at_once * w.gradient_band + L);
    w.group = w.elements * (w.source_element + w.gradient_element);
    w.tile_row = w.of_slice.y_phases * w.of_slice.row();
    w.strip_rows = at_least(tiles_of_strip / w.tile_row, 1);
    w.row = odd_lines(ceil_div(w.strip_rows * w.tile_row, L) * L + L);
    w.plane = odd_lines(L * w.row);
    w.line = (w.strip_rows + 1) * w.of_slice.row() + 2 * L;
    w.sums = p.destinations * p.sources;
    return w;
}
template <class T>
int64_t winograd_weight_size(const ConvWeightPass<T>& p, int64_t* sums) {
    const WinogradWeight<T> w = winograd_weight(p);
    *sums = p.winograd_units == WinogradUnits::elements ? p.groups * p.taps[0] * w.elements * w.sums : 0;
    return p.groups * w.group;
}
// Of a worker: what one of the stages needs, or a unit that is bands needs all of it.
template <class T>
struct WinogradWeightScratch {
    T *transform, *sums, *transformed;
    int32_t* offsets;
    int64_t pitch, element;          // of a destination channel's sums, and of a block's: [element][destination][source channels]
    int64_t total;
};
template <class T>
MEDECONV_INLINE WinogradWeightScratch<T> winograd_weight_buffers(const ConvWeightPass<T>& p, const WinogradWeight<T>& w, T* scratch) {
    constexpr int64_t L = lanes<T>, line = 64 / int64_t(sizeof(T));
    WinogradWeightScratch<T> s{};
    ScratchCutter<T> cut{scratch};
    const bool bands = p.winograd_units == WinogradUnits::bands;
    s.transform = cut.take(w.elements * w.plane + winograd_rows_size<T>(w.of_slice) + 24 * w.line + 8 * L);
    const int64_t transform = cut.total;
    if (!bands) cut = {scratch};
    s.offsets = reinterpret_cast<int32_t*>(cut.take(p.bands_at_once * w.slices * w.tiles));
    s.pitch = ceil_div(p.sources_at_once, L) * L;
    s.element = (ceil_div(p.destinations_at_once * s.pitch, line) | 1) * line;
    const bool own = p.winograd_units != WinogradUnits::elements;
    s.sums = cut.take(own ? w.elements * s.element : 0);
    s.transformed = cut.take(bands ? w.group : 0);
    s.total = at_least(cut.total, transform);
    return s;
}
template <class T>
int64_t winograd_weight_scratch(const ConvWeightPass<T>& p) {
    return winograd_weight_buffers<T>(p, winograd_weight(p), nullptr).total;
}
// Transforms of a band and group: a slice of it, and as many channels of source or gradient as a vector has lanes.
template <class T>
MEDECONV_INLINE int64_t winograd_weight_transforms(const WinogradWeight<T>& w) {
    return w.source_slices * (w.source_channels / lanes<T>) + w.slices * (w.gradient_channels / lanes<T>);
}
template <class T>
int64_t winograd_weight_units(const ConvWeightPass<T>& p, int64_t bands) {
    return bands * p.groups * winograd_weight_transforms(winograd_weight(p));
}

// A on four vectors.
template <int elements, class T>
MEDECONV_INLINE void winograd_gradient(const Vec<T>* m, Vec<T>* to) {
    const T two = 2, four = 4, eight = 8;
    const Vec<T> a = m[0] + m[2], b = m[1] + m[3], c = m[0] + four * m[2], d = two * m[1] + eight * m[3];
    to[0] = m[0], to[1] = a + b, to[2] = a - b, to[3] = c + d, to[4] = c - d, to[elements - 1] = m[3];
    if constexpr (elements == 8) {
        const Vec<T> e = m[0] + T(0.25) * m[2], f = T(0.5) * m[1] + T(0.125) * m[3];
        to[5] = e + f, to[6] = e - f;
    }
}
// Gᵀ on six or eight vectors `step` apart.
template <int taps, class T>
MEDECONV_INLINE void winograd_taps(const Vec<T>* m, int step, Vec<T>* to) {
    const Vec<T> a = m[step] + m[2 * step], b = m[step] - m[2 * step], c = m[3 * step] + m[4 * step], d = m[3 * step] - m[4 * step];
    if constexpr (taps == 3) {
        const T sixth = T(1.0 / 6);
        to[0] = T(0.25) * m[0] - sixth * a + T(1.0 / 24) * c;
        to[1] = T(1.0 / 12) * d - sixth * b;
        to[2] = sixth * (c - a) + m[5 * step];
    } else {
        const T one = T(-2.0 / 9), two = T(1.0 / 90), half = T(32.0 / 45);
        const Vec<T> e = m[5 * step] + m[6 * step], f = m[5 * step] - m[6 * step], even = one * a, odd = one * b;
        to[0] = m[0] + even + two * c + half * e;
        to[1] = odd + T(2) * two * d + T(0.5) * half * f;
        to[2] = even + T(4) * two * c + T(0.25) * half * e;
        to[3] = odd + T(8) * two * d + T(0.125) * half * f;
        to[4] = even + T(16) * two * c + T(0.0625) * half * e + m[7 * step];
    }
}

// One channel's tiles of a slice of the gradient, zero beyond `ys` and `xs`: to[element · stride + tile]; `next` as above.
template <int along, class T>
MEDECONV_NOINLINE void transform_gradient(const WinogradTiles& tiles, const WinogradRows<T>& s, const T* slice, int64_t row_size, Range ys,
                                          Range xs, T* to, int64_t stride, int64_t next) {
    constexpr int L = lanes<T>;
    const bool line = tiles.tall == 1;
    const int64_t width = xs.stop - xs.start, length = winograd_reach<T>(tiles), phases = tiles.x_phases, used = 4 * tiles.across;
    const int64_t apart = line ? stride : 4 * s.line;
    for (int64_t phase = 0; phase < tiles.y_phases; ++phase, to += tiles.phase()) {
        auto row_of = [&](int64_t r, T* buffer) MEDECONV_BODY -> const T* {
            const int64_t at = ys.start + r * tiles.y_phases + phase;
            if (at >= ys.stop) return nullptr;
            const T* const row = slice + at * row_size + xs.start;
            if (next) prefetch_row(row + next, width);
            if (phases == 1 && length <= width) return row;
            for (int64_t i = 0; i < phases; ++i) {
                const int64_t n = i < width ? (width - i + phases - 1) / phases : 0;
                copy_every(row + i, phases, n, buffer + i * length);
                for (int64_t k = n; k < used; ++k) buffer[i * length + k] = T(0);
            }
            return buffer;
        };
        transform_rows<along, 4>(tiles, s, tiles.tall * tiles.down, to, apart, row_of,
                                 [](const Vec<T>* d, Vec<T>* out) MEDECONV_BODY { winograd_gradient<along, T>(d, out); });
        for (int64_t t = 0; !line && t < tiles.phase(); t += L)
            unroll<6>([&](auto j) MEDECONV_BODY {
                Vec<T> d[4], transformed[6];
                unroll<4>([&](auto i) MEDECONV_BODY { d[i] = load_unaligned(s.columns + (4 * j + i) * s.line + t); });
                winograd_gradient<6, T>(d, transformed);
                unroll<6>([&](auto i) MEDECONV_BODY { store_unaligned(to + (i * 6 + j) * stride + t, transformed[i]); });
            });
    }
}
template <class T>
MEDECONV_INLINE void transform_gradient(const WinogradTiles& tiles, const WinogradRows<T>& s, const T* slice, int64_t row_size, Range ys,
                                        Range xs, T* to, int64_t stride, int64_t next) {
    if (tiles.taps == 3) transform_gradient<6>(tiles, s, slice, row_size, ys, xs, to, stride, next);
    else transform_gradient<8>(tiles, s, slice, row_size, ys, xs, to, stride, next);
}

// The transform `inner` of band number `band`, to place `at` of the group's transformed bands.
template <class T>
MEDECONV_NOINLINE void transform_channels(const ConvWeightPass<T>& p, const WinogradWeight<T>& w, int64_t group, int64_t band_number,
                                          int64_t at, int64_t inner, T* transformed, T* scratch) {
    constexpr int64_t L = lanes<T>;
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const int64_t source_units = w.source_slices * (w.source_channels / L);
    const bool of_source = inner < source_units;
    if (!of_source) inner -= source_units;
    const int64_t slices = of_source ? w.source_slices : w.slices, slice = inner % slices, c0 = inner / slices * L;
    const int64_t channels = of_source ? p.sources : p.destinations, pitch = of_source ? w.source_pitch : w.gradient_pitch;
    const int64_t count = channels - c0 < L ? channels - c0 : L;
    const WeightBand b = weight_band_of(p, band_number);
    const int64_t stride = of_source ? w.source_element : w.gradient_element;
    const int64_t band = of_source ? at * w.source_band : w.elements * w.source_element + at * w.gradient_band;
    T* const to = transformed + band + slice * w.tiles * pitch + c0;
    const T* const from = of_source ? p.source + ((b.image * p.groups + group) * p.sources + c0) * p.source_size
                                    : p.gradient + ((b.image * p.groups + group) * p.destinations + c0) * p.gradient_size;
    // A short band's missing slices add nothing: its gradient is zero there.
    const bool outside = b.zs.start + slice >= (of_source ? z.reach(z.count) : b.zs.stop);
    const int64_t plane = outside ? -1 : of_source ? z.index(b.zs.start + slice) : b.zs.start + slice;

    T* const planes = scratch;           // [element][channel][tile of the strip]
    WinogradRows<T> rows{planes + w.elements * w.plane, nullptr, w.line};
    rows.columns = rows.rows + winograd_rows_size<T>(w.of_slice);
    const int64_t down = w.of_slice.down, tall = w.of_slice.tall * y.dilation;
    for (int64_t strip = 0; strip < down; strip += w.strip_rows) {
        const int64_t tile_rows_left = down - strip < w.strip_rows ? down - strip : w.strip_rows;
        const Range ys{b.ys.start + tall * strip, b.ys.start + tall * (strip + tile_rows_left)};
        const Range xs{b.xs.start, b.xs.start + x.block};   // whole tiles: every band has as many
        const WinogradTiles of_strip = winograd_tiles(p.axis, ys.stop - ys.start, x.block);
        const int64_t tiles = of_strip.all();
        for (int64_t c = 0; c < count; ++c) {
            T* place = planes + c * w.row;
            if (of_source) {
                transform_source(p.axis, rows, plane < 0 ? nullptr : from + c * p.source_size + plane * y.length * x.length, ys, xs, place,
                                 w.plane, c + 1 < count ? p.source_size : 0);
            } else if (plane < 0) {
                for (int64_t e = 0; e < w.elements; ++e) std::memset(place + e * w.plane, 0, size_t(tiles) * sizeof(T));
            } else {
                const Range real_ys{ys.start, ys.stop < b.ys.stop ? ys.stop : b.ys.stop};
                transform_gradient(of_strip, rows, from + c * p.gradient_size + plane * y.count * x.count, x.count, real_ys, b.xs, place,
                                   w.plane, c + 1 < count ? p.gradient_size : 0);
            }
        }
        for (int64_t e = 0; e < w.elements; ++e)
            transpose_rows<T>(count, tiles, to + e * stride + strip * w.tile_row * pitch, pitch,
                              [&](int64_t c, int64_t) MEDECONV_BODY { return (const T*)(planes + e * w.plane + c * w.row); });
    }
}

template <class T>
void winograd_weight_transform(const ConvWeightPass<T>& p, int64_t first, int64_t unit, T* transformed, T* scratch) {
    const WinogradWeight<T> w = winograd_weight(p);
    const int64_t transforms = winograd_weight_transforms(w), group = unit / transforms % p.groups, at = unit / transforms / p.groups;
    transform_channels(p, w, group, first + at, at, unit % transforms, transformed + group * w.group, scratch);
}

// Where the source's tiles lie that slice `kz` of the kernel reads, in the order of the gradient's.
template <class T>
MEDECONV_INLINE int64_t list_tiles(const ConvWeightPass<T>& p, const WinogradWeight<T>& w, int64_t bands, int64_t kz, int32_t* offsets) {
    int64_t n = 0;
    for (int64_t band = 0; band < bands; ++band)
        for (int64_t slice = 0; slice < w.slices; ++slice)
            for (int64_t t = 0; t < w.tiles; ++t)
                offsets[n++] = int32_t(band * w.source_band + ((slice + kz * p.dilation[0]) * w.tiles + t) * w.source_pitch);
    return n;
}
// An element's sums over `n` tiles for a block of channels, or, with `add`, added to what is there.
template <class T>
MEDECONV_INLINE void sum_tile_products(const WinogradWeight<T>& w, const WeightUnit& u, int64_t e, const int32_t* offsets, int64_t n,
                                       const T* transformed, bool add, T* sums, int64_t pitch) {
    constexpr int64_t tiles_at_once = 512;
    const T zero[conv_rows] = {};
    const T* const source = transformed + e * w.source_element + u.c0;
    const T* const gradient = transformed + w.elements * w.source_element + e * w.gradient_element + u.o0;
    for (int64_t i = 0; i == 0 || i < n; i += tiles_at_once)
        sum_matrix(source, offsets + i, n - i < tiles_at_once ? n - i : tiles_at_once, gradient + i * w.gradient_pitch,
                   w.gradient_pitch, u.os, u.cs, add || i > 0 ? nullptr : static_cast<const T*>(zero), sums, pitch);
}

// A unit: a group, a slice of the kernel and an element.
template <class T>
void winograd_weight_products(const ConvWeightPass<T>& p, int64_t bands, int64_t unit, const T* transformed, T* sums, T* scratch) {
    const WinogradWeight<T> w = winograd_weight(p);
    const WinogradWeightScratch<T> s = winograd_weight_buffers(p, w, scratch);
    const int64_t e = unit % w.elements, kz = unit / w.elements % p.taps[0], group = unit / w.elements / p.taps[0];
    const WeightUnit all{group, 0, 0, p.destinations, 0, p.sources, 0, 0};
    const int64_t n = list_tiles(p, w, bands, kz, s.offsets);
    sum_tile_products(w, all, e, s.offsets, n, transformed + group * w.group, true, sums + unit * w.sums, p.sources);
}

// Sums of up to a vector of source channels, elements `element` apart, to a slice's taps: to[channel · kernel + tap].
template <int taps, class T>
MEDECONV_INLINE void collect_taps(const T* sums, int64_t element, int64_t count, T* to, int64_t kernel) {
    constexpr int L = lanes<T>;
    Vec<T> v[L < taps ? taps : L]{};
    if constexpr (taps == 9) {
        Vec<T> half[18], along[3];   // half[j · 3 + k]
        unroll<6>([&](auto j) MEDECONV_BODY {
            Vec<T> m[6];
            unroll<6>([&](auto i) MEDECONV_BODY { m[i] = load_first(sums + (i * 6 + j) * element, count); });
            winograd_taps<3, T>(m, 1, half + 3 * j);
        });
        unroll<3>([&](auto k) MEDECONV_BODY {
            winograd_taps<3, T>(half + k, 3, along);
            unroll<3>([&](auto l) MEDECONV_BODY { v[k * 3 + l] = along[l]; });
        });
    } else {
        Vec<T> m[taps + 3];
        unroll<taps + 3>([&](auto j) MEDECONV_BODY { m[j] = load_first(sums + j * element, count); });
        winograd_taps<taps, T>(m, 1, v);
    }
    if constexpr (L >= 16) {
        transpose<T>(v);
        // Where a kernel is a slice, a vector ends in the next channels' places, before they are written.
        for (int64_t i = 0; i < count; ++i)
            if (kernel == taps && i * taps + L <= count * taps) store_unaligned(to + i * kernel, v[i]);
            else store_first(to + i * kernel, v[i], taps);
    } else {
        for (int64_t i = 0; i < count; ++i)
            for (int64_t k = 0; k < taps; ++k) to[i * kernel + k] = v[k][i];
    }
}
// A block of channels: sums [element][destination][source channels] of a slice of the kernel to their places in `out`.
template <class T>
MEDECONV_INLINE void collect_block(const ConvWeightPass<T>& p, const WeightUnit& u, int64_t kz, const T* sums, int64_t element,
                                   int64_t pitch, T* out) {
    constexpr int64_t L = lanes<T>;
    const int64_t kernel = p.kernel(), taps = p.taps[1] * p.taps[2];
    for (int64_t o = 0; o < u.os; ++o) {
        T* const to = out + ((u.group * p.destinations + u.o0 + o) * p.sources + u.c0) * kernel + kz * taps;
        for (int64_t c = 0; c < u.cs; c += L) {
            const T* const from = sums + o * pitch + c;
            const int64_t count = u.cs - c < L ? u.cs - c : L;
            if (taps == 9) collect_taps<9>(from, element, count, to + c * kernel, kernel);
            else if (taps == 3) collect_taps<3>(from, element, count, to + c * kernel, kernel);
            else collect_taps<5>(from, element, count, to + c * kernel, kernel);
        }
    }
}

// A unit: a destination channel, once all products are summed.
template <class T>
void winograd_weight_collect(const ConvWeightPass<T>& p, int64_t unit, const T* sums, T* out) {
    const WinogradWeight<T> w = winograd_weight(p);
    const WeightUnit u{unit / p.destinations, 0, unit % p.destinations, 1, 0, p.sources, 0, 0};
    for (int64_t kz = 0; kz < p.taps[0]; ++kz)
        collect_block(p, u, kz, sums + (u.group * p.taps[0] + kz) * w.elements * w.sums + u.o0 * p.sources, w.sums, p.sources, out);
}

// A unit: a block of channels over all bands, transformed before.
template <class T>
void winograd_weight_block(const ConvWeightPass<T>& p, int64_t unit, const T* transformed, T* scratch) {
    const WinogradWeight<T> w = winograd_weight(p);
    const WinogradWeightScratch<T> s = winograd_weight_buffers(p, w, scratch);
    const WeightUnit u = weight_unit_of(p, unit);
    for (int64_t kz = 0; kz < p.taps[0]; ++kz) {
        const int64_t n = list_tiles(p, w, p.bands(), kz, s.offsets);
        for (int64_t e = 0; e < w.elements; ++e)
            sum_tile_products(w, u, e, s.offsets, n, transformed + u.group * w.group, false, s.sums + e * s.element, s.pitch);
        collect_block(p, u, kz, s.sums, s.element, s.pitch, p.partial);
    }
}

// A unit: a part of the bands of one group. The kernel has one slice.
template <class T>
void winograd_weight_bands(const ConvWeightPass<T>& p, int64_t unit, T* scratch) {
    const WinogradWeight<T> w = winograd_weight(p);
    const WinogradWeightScratch<T> s = winograd_weight_buffers(p, w, scratch);
    const WeightUnit u = weight_unit_of(p, unit);
    if (u.first_band == u.last_band) std::memset(s.sums, 0, size_t(w.elements * s.element) * sizeof(T));
    for (int64_t band = u.first_band; band < u.last_band; ++band) {
        for (int64_t i = 0; i < winograd_weight_transforms(w); ++i)
            transform_channels(p, w, u.group, band, 0, i, s.transformed, s.transform);
        const int64_t n = list_tiles(p, w, 1, 0, s.offsets);
        for (int64_t e = 0; e < w.elements; ++e)
            sum_tile_products(w, u, e, s.offsets, n, s.transformed, band > u.first_band, s.sums + e * s.element, s.pitch);
    }
    collect_block(p, u, 0, s.sums, s.element, s.pitch, p.partial + u.part * p.size());
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
