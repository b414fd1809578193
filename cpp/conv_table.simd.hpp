// The convolution kernels of one ISA: which family does what.
#pragma once
#include "conv_columns.simd.hpp"
#include "conv_depthwise.simd.hpp"
#include "conv_dots.simd.hpp"
#include "conv_weight.simd.hpp"
#include "conv_winograd.simd.hpp"
#include "conv_winograd_weight.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
int64_t conv_scratch(const ConvPass<T>& p) {
    if (p.columns) return column_buffers<T>(p, nullptr).total;
    if (p.depthwise) return depthwise_buffers<T>(p, nullptr).total;
    if (p.dots) return dot_scratch(p);
    return p.winograd ? winograd_buffers<T>(p, nullptr).total : conv_buffers<T>(p, nullptr).total;
}
template <class T>
int64_t conv_packed_size(const ConvPass<T>& p) {
    return p.winograd ? winograd_buffers<T>(p, nullptr).elements * winograd_packed_stride(p) : p.groups * p.group_packed();
}
template <class T>
void conv_pack(const ConvPass<T>& p, int64_t group, int64_t block, T* packed) {
    if (p.winograd) winograd_pack(p, group, block, packed);
    else pack_block(p, group, block, ConvPacked<T>{packed + group * p.group_packed(), p.block_rows, p.blocks[block].rows_before});
}
template <class T>
int64_t conv_bands_size(const ConvPass<T>& p) {
    constexpr int64_t slack = 8 * lanes<T>;
    if (p.dots) return p.batch * p.groups * p.destination_size * dot_row(p);
    if (!p.winograd) return slack + p.batch * p.groups * p.sources * p.band.channel + p.axis[2].span;
    const WinogradScratch<T> s = winograd_buffers<T>(p, nullptr);
    return slack + p.groups * s.elements * s.element;
}
template <class T>
int64_t conv_band_units(const ConvPass<T>& p) {
    if (p.dots) return dot_value_units(p);
    return p.groups * p.sources * (p.winograd ? p.axis[0].reach(p.axis[0].count) : p.batch);
}
template <class T>
void conv_copy_band(const ConvPass<T>& p, int64_t unit, T* bands, T* scratch) {
    if (p.winograd) {
        winograd_copy_band(p, unit, bands, scratch);
        return;
    }
    if (p.dots) {
        dot_values(p, unit, bands, scratch);
        return;
    }
    const Range zs{0, p.axis[0].count}, ys{0, p.axis[1].count}, xs{0, p.axis[2].count};
    copy_channels(p, p.source + unit * p.source_size, 1, zs, ys, xs, bands + unit * p.band.channel);   // unit: image, group, channel
}
template <class T>
int64_t conv_weight_scratch(const ConvWeightPass<T>& p) {
    if (p.winograd) return winograd_weight_scratch(p);
    return p.channels ? channel_buffers<T>(p, nullptr).total : weight_buffers<T>(p, nullptr).total;
}
template <class T>
void conv_weight_unit(const ConvWeightPass<T>& p, int64_t unit, T* scratch) {
    if (p.winograd) winograd_weight_bands(p, unit, scratch);
    else if (p.channels) channel_weight_unit(p, unit, scratch);
    else row_weight_unit(p, unit, scratch);
}
template <class T>
void conv_unit(const ConvPass<T>& p, int64_t unit, T* scratch) {
    if (p.columns) column_unit(p, unit, scratch);
    else if (p.depthwise) depthwise_unit(p, unit, scratch);
    else if (p.dots) dot_unit(p, unit);
    else if (p.winograd) winograd_unit(p, unit, scratch);
    else direct_unit(p, unit, scratch);
}

template <class T>
constexpr ConvKernels<T> conv_table = {
    lanes<T>,          conv_rows,          conv_scratch<T>, conv_packed_size<T>,    conv_pack<T>,        conv_bands_size<T>,
    conv_band_units<T>, conv_copy_band<T>, conv_unit<T>,    conv_weight_scratch<T>, conv_weight_unit<T>, conv_sum<T>,
    winograd_weight_size<T>, winograd_weight_units<T>, winograd_weight_transform<T>, winograd_weight_products<T>,
    winograd_weight_collect<T>, winograd_weight_block<T>};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
