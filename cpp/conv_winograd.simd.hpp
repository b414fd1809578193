// Winograd's F(4 × 4, 3 × 3) (Lavin and Gray 2016): 36 products per 16 outputs instead of 144; and, for kernels that are a line
// along x, F(4, 3) and F(4, 5): 6 and 8 products per 4 outputs instead of 12 and 20. Structure: conv.hpp.
//
// Tiles of 6 × 6 (6, 8) source values, 4 apart, are transformed to Bᵀ d B; channels are then summed separately for each of the
// elements, by the same tiles of channels × vectors as everywhere, and Aᵀ m A are the 4 × 4 (4) outputs. Slices of a volume are
// transformed one by one, and the sums run over the kernel's slices too. A dilated kernel is a dense one on each of the
// phases of the image, y % dilation and x % dilation, whose tiles are summed together. Rounding grows with the channels: 6e-6
// of the largest output at 64, 2e-5 at 512; of a line's 1e-6 and 3e-6.
#pragma once
#include "conv_winograd_transforms.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// All elements' sums for one block of channels at slice `z` of the transformed sources.
template <class T>
MEDECONV_INLINE void sum_elements(const ConvPass<T>& p, const WinogradScratch<T>& s, int64_t e, const ConvBlock& block,
                                  const T* transformed, const T* weight, int64_t row, int64_t tiles) {
    const ConvTile<T> tile{transformed + e * s.element, s.offsets, p.sources * p.z_taps, weight, s.start, false,
                           s.products + e * s.product_element + row * s.row, s.row, block.rows};
    sum_line(block.rows, tile, tiles);
}

template <class T>
void winograd_unit(const ConvPass<T>& p, int64_t unit, T* scratch) {
    const WinogradScratch<T> s = winograd_buffers(p, scratch);
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    for (int r = 0; r < conv_rows; ++r) s.start[r] = T(0);
    auto read_from = [&](int64_t first) MEDECONV_BODY {   // where the kernel's slices lie in the ring, if it begins at `first`
        for (int64_t k = 0; k < p.z_taps; ++k)
            for (int64_t c = 0; c < p.sources; ++c)
                s.offsets[k * p.sources + c] = int32_t((first + k * p.z_step) % z.span * s.plane + c * s.row);
    };
    const int64_t slice_size = y.destination * x.destination;
    auto slice_of = [&](int64_t image, int64_t channel, int64_t at) MEDECONV_BODY {
        return p.destination + (image * p.groups * p.destinations + channel) * p.destination_size + at * slice_size;
    };
    auto bias_of = [&](int64_t channel) MEDECONV_BODY { return p.bias ? p.bias[channel] : T(0); };
    if (p.shared) {   // a block of channels of all images
        const int64_t group = unit / p.block_count;
        const ConvBlock& block = p.blocks[unit % p.block_count];
        const int64_t weights = winograd_weight_stride(p, block.rows), of_image = s.tiles / at_least(p.batch, 1);
        const Range ys{0, y.count}, xs{0, x.count};
        transform_weights(p, group, block, s.packed, weights);
        read_from(0);
        for (int64_t qz = 0; qz < z.count; ++qz) {
            const T* transformed = p.bands + group * s.elements * s.element + qz * s.plane;
            for (int64_t e = 0; e < s.elements; ++e) sum_elements(p, s, e, block, transformed, s.packed + e * weights, 0, s.tiles);
            for (int64_t image = 0; image < p.batch; ++image)
                for (int64_t o = 0; o < block.channels; ++o) {
                    const int64_t channel = group * p.destinations + block.first + o;
                    transform_result(p, s, s.products + o * s.row + image * of_image, bias_of(channel), ys, xs,
                                     slice_of(image, channel, qz));
                    if (p.ends) end_channels(p, image, channel, 1, Range{qz, qz + 1}, ys, xs);
                }
        }
        return;
    }
    const int64_t position = unit % p.positions(), group = unit / p.positions() % p.groups, image = unit / p.positions() / p.groups;
    auto range = [](const ConvAxis& axis, int64_t block) MEDECONV_BODY { return Range{block * axis.block, axis.stop(block * axis.block)}; };
    const Range xs = range(x, position % x.blocks()), ys = range(y, position / x.blocks() % y.blocks());
    const Range zs = range(z, position / x.blocks() / y.blocks());
    const T* const source = p.source + (image * p.groups + group) * p.sources * p.source_size;
    const int64_t tiles = winograd_tiles(p.axis, ys.stop - ys.start, xs.stop - xs.start).all();
    const T* const packed = p.packed + group * p.block_rows * p.sources * p.z_taps;
    int64_t ready = zs.start;            // slices before it are transformed
    for (int64_t qz = zs.start; qz < zs.stop; ++qz) {
        for (; ready < qz + z.span; ++ready)
            for (int64_t c = 0; c < p.sources; ++c) {
                const int64_t at = z.index(ready);
                transform_source(p.axis, s.rows, at < 0 ? nullptr : source + c * p.source_size + at * y.length * x.length, ys, xs,
                                 s.transformed + ready % z.span * s.plane + c * s.row, s.element, c + 1 < p.sources ? p.source_size : 0);
            }
        read_from(qz);
        for (int64_t e = 0; e < s.elements; ++e)
            for (int64_t b = 0; b < p.block_count; ++b)
                sum_elements(p, s, e, p.blocks[b], s.transformed,
                             packed + e * winograd_packed_stride(p) + p.blocks[b].rows_before * p.sources * p.z_taps,
                             p.blocks[b].rows_before, tiles);
        for (int64_t b = 0; b < p.block_count; ++b)
            for (int64_t o = 0; o < p.blocks[b].channels; ++o) {
                const int64_t channel = group * p.destinations + p.blocks[b].first + o;
                transform_result(p, s, s.products + (p.blocks[b].rows_before + o) * s.row, bias_of(channel), ys, xs,
                                 slice_of(image, channel, qz));
                if (p.ends) end_channels(p, image, channel, 1, Range{qz, qz + 1}, ys, xs);
            }
    }
}

// Shared transforms: [group][element][slice][channel][row]; a unit is a group, a slice and a channel of all images.
template <class T>
void winograd_copy_band(const ConvPass<T>& p, int64_t unit, T* bands, T* scratch) {
    const WinogradScratch<T> s = winograd_buffers(p, scratch);
    const int64_t c = unit % p.sources, group = unit / p.sources % p.groups, a = unit / p.sources / p.groups;
    const int64_t of_image = s.tiles / at_least(p.batch, 1);
    const int64_t at = p.axis[0].index(a);
    for (int64_t image = 0; image < p.batch; ++image) {
        const T* source = p.source + ((image * p.groups + group) * p.sources + c) * p.source_size;
        T* to = bands + group * s.elements * s.element + a * s.plane + c * s.row + image * of_image;
        transform_source(p.axis, s.rows, at < 0 ? nullptr : source + at * p.axis[1].length * p.axis[2].length, Range{0, p.axis[1].count},
                         Range{0, p.axis[2].count}, to, s.element, 0);
    }
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
