// The shape of a network convolution, for every engine that computes one.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "shared/boundary.hpp"

namespace medeconv {

enum class ConvPadding : int { zeros = 0, reflect = 1, replicate = 2, circular = 3 };   // torch's names and meaning

struct ConvShape {
    int64_t batch, sources, destinations, groups;   // channels of the input and of the output, all groups together
    std::array<int64_t, 3> input, kernel, stride, dilation, low, high;   // z, y, x; absent axes are 1, their padding 0
    ConvPadding padding;
    bool exact;                      // sums of products only
};

inline ConvPadding conv_padding_of(const std::string& name) {
    if (name == "zeros") return ConvPadding::zeros;
    if (name == "reflect") return ConvPadding::reflect;
    if (name == "replicate") return ConvPadding::replicate;
    if (name == "circular") return ConvPadding::circular;
    throw std::invalid_argument("padding_mode: got '" + name + "', expected zeros, reflect, replicate or circular");
}

// From 1 to 3 spatial axes: input (batch, channels, *spatial), weight (channels out, channels in / groups, *kernel).
inline ConvShape conv_shape_of(const std::vector<int64_t>& input, const std::vector<int64_t>& weight, const std::vector<int64_t>& stride,
                               const std::vector<std::pair<int64_t, int64_t>>& padding, const std::vector<int64_t>& dilation, int64_t groups,
                               const std::string& padding_mode, bool exact) {
    const size_t axes = stride.size();
    if (axes < 1 || axes > 3 || input.size() != axes + 2 || weight.size() != axes + 2 || padding.size() != axes || dilation.size() != axes)
        throw std::invalid_argument("expected 1 to 3 spatial axes, the same number in every argument");
    if (groups < 1 || weight[1] * groups != input[1])
        throw std::invalid_argument("weight_shape: got " + std::to_string(weight[1]) + " channels per group in " + std::to_string(groups) +
                                    " groups, the input has " + std::to_string(input[1]));
    ConvShape s{input[0], input[1], weight[0], groups, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0},
                conv_padding_of(padding_mode), exact};
    for (size_t i = 0; i < axes; ++i) {
        const size_t a = 3 - axes + i;
        s.input[a] = input[2 + i], s.kernel[a] = weight[2 + i], s.stride[a] = stride[i], s.dilation[a] = dilation[i];
        s.low[a] = padding[i].first, s.high[a] = padding[i].second;
    }
    return s;
}

// Of a padding that is not zeros.
inline Boundary boundary_of(ConvPadding padding) {
    return padding == ConvPadding::reflect ? Boundary::mirror : padding == ConvPadding::replicate ? Boundary::nearest : Boundary::wrap;
}

// Axes that nothing but a copy happens on become one: a 1×1 convolution has long rows whatever the image's shape.
inline void merge_axes(ConvShape& s) {
    auto plain = [&](size_t a) { return s.kernel[a] == 1 && s.stride[a] == 1 && s.low[a] == 0 && s.high[a] == 0; };
    for (size_t a : {size_t(1), size_t(0)})
        if (plain(a) && plain(2) && (a == 1 || (s.input[1] == 1 && plain(1))) && s.input[2] * s.input[a] < (int64_t(1) << 30)) {
            s.input[2] *= s.input[a];
            s.input[a] = 1;
        }
}

inline std::array<int64_t, 3> padded_input(const ConvShape& s) {
    return {s.input[0] + s.low[0] + s.high[0], s.input[1] + s.low[1] + s.high[1], s.input[2] + s.low[2] + s.high[2]};
}

// Of the output's spatial axes. Throws std::invalid_argument where none is left, or what the kernels cannot count.
inline std::array<int64_t, 3> conv_output(const ConvShape& s) {
    std::array<int64_t, 3> output{};
    const std::array<int64_t, 3> padded = padded_input(s);
    for (size_t a = 0; a < 3; ++a) {
        const int64_t span = (s.kernel[a] - 1) * s.dilation[a] + 1;
        if (std::min({s.input[a], s.kernel[a], s.stride[a], s.dilation[a]}) < 1 || std::min(s.low[a], s.high[a]) < 0)
            throw std::invalid_argument("conv: sizes, strides and dilations must be at least 1, padding at least 0");
        if (padded[a] < span)
            throw std::invalid_argument("conv: the kernel's extent " + std::to_string(span) + " exceeds the padded input's " +
                                        std::to_string(padded[a]));
        if (std::max(padded[a], s.stride[a]) >= int64_t(1) << 30) throw std::invalid_argument("conv: an axis is longer than 2^30");
        output[a] = (padded[a] - span) / s.stride[a] + 1;
    }
    if (s.groups < 1 || s.sources % s.groups || s.destinations % s.groups)
        throw std::invalid_argument("conv: channels must be a multiple of groups");
    return output;
}

}  // namespace medeconv
