// Network convolution: each way to cut a pass, each kernel.
#include "conv_plan.hpp"
#include "launchers.hpp"

using namespace medeconv;
using namespace medeconv::cuda;

namespace {

int64_t volume(const std::array<int64_t, 3>& v) { return v[0] * v[1] * v[2]; }

template <class T>
void add_cases(std::vector<Case>& cases, const std::string& type, size_t every) {
    using enum ConvPadding;
    const ConvShape shapes[] = {
        // batch, channels in, out, groups; input, kernel, stride, dilation, low, high; padding, exact
        {2, 3, 5, 1, {1, 9, 21}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},
        {1, 5, 33, 1, {1, 8, 40}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},        // several teams
        {1, 2, 12, 2, {6, 7, 40}, {3, 2, 3}, {1, 2, 1}, {1, 1, 2}, {1, 0, 2}, {0, 1, 1}, zeros, true},
        {2, 6, 6, 6, {1, 40, 50}, {1, 7, 5}, {1, 1, 1}, {1, 1, 1}, {0, 3, 2}, {0, 3, 2}, zeros, true},        // depthwise
        {1, 9, 1, 1, {5, 20, 70}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 0, 1}, {1, 2, 1}, zeros, true},        // one channel out
        {1, 9, 1, 1, {1, 1, 300}, {1, 1, 8}, {1, 1, 1}, {1, 1, 1}, {0, 0, 4}, {0, 0, 3}, zeros, true},        // of one line
        {1, 20, 17, 1, {1, 15, 33}, {1, 4, 4}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},      // phases
        {1, 3, 1, 1, {4, 9, 31}, {2, 3, 3}, {2, 2, 2}, {1, 1, 1}, {0, 1, 1}, {0, 0, 1}, zeros, false},        // phases merged
        {1, 3, 2, 1, {4, 8, 32}, {2, 2, 2}, {2, 2, 2}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},         // stored in pairs
        {1, 2, 3, 1, {1, 17, 25}, {1, 5, 2}, {1, 3, 4}, {1, 2, 1}, {0, 2, 0}, {0, 1, 1}, zeros, true},        // parts per tap
        {1, 2, 1, 1, {1, 3, 40}, {1, 2, 2}, {1, 2, 5}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},         // phases without taps
        {1, 33, 70, 1, {1, 11, 13}, {1, 1, 1}, {1, 2, 2}, {1, 1, 1}, {0, 0, 1}, {0, 0, 0}, zeros, true},
        {1, 4, 3, 1, {4, 6, 9}, {3, 3, 3}, {1, 2, 1}, {1, 1, 2}, {2, 3, 4}, {1, 2, 3}, reflect, true},
        {1, 4, 3, 1, {1, 6, 9}, {1, 3, 3}, {1, 1, 2}, {1, 2, 1}, {0, 4, 2}, {0, 2, 5}, circular, true},
        {1, 1, 2, 1, {1, 1, 2000}, {1, 1, 1500}, {1, 1, 1}, {1, 1, 1}, {0, 0, 3}, {0, 0, 0}, replicate, true},   // taps in blocks
        {1, 1, 1, 1, {1, 420, 10}, {1, 400, 3}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, zeros, true},        // and of one channel
        {1, 2, 2, 1, {1, 90, 40}, {1, 3, 3}, {1, 1, 1}, {1, 40, 15}, {0, 0, 0}, {0, 0, 0}, zeros, true},         // and far apart
        {1, 50, 33, 1, {1, 5, 6}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},        // sums in parts
        {2, 90, 4, 2, {1, 5, 5}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},         // of phases and groups
        {1, 30, 36, 1, {3, 4, 3}, {3, 3, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 0}, {1, 1, 0}, circular, true},     // of slices
        {1, 70, 1, 1, {1, 9, 12}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, zeros, true},        // and of rows
        {2, 6, 6, 6, {3, 9, 8}, {2, 3, 3}, {1, 2, 3}, {2, 1, 2}, {1, 1, 2}, {0, 2, 2}, zeros, true},          // points
    };
    for (size_t i = 0; i < std::size(shapes); i += every)
        cases.push_back({"conv " + std::to_string(i) + type, [shape = shapes[i]] {
            const ConvPlan<T> plan(shape);
            const int64_t kernel = volume(shape.kernel) * (shape.sources / shape.groups);
            const DeviceValues<T> x(shape.batch * shape.sources * volume(shape.input), 1), w(shape.destinations * kernel, 2);
            const DeviceValues<T> gradient(shape.batch * shape.destinations * volume(plan.output), 3), bias(shape.destinations, 4);
            const DeviceValues<T> source_bias(shape.sources, 5);
            const DeviceValues<T> y(shape.batch * shape.destinations * volume(plan.output)), to_x(shape.batch * shape.sources * volume(shape.input));
            const DeviceValues<T> to_w(shape.destinations * kernel), to_bias(shape.destinations);
            const int64_t batch = shape.batch, channels = shape.destinations, size = volume(plan.output);
            const DeviceValues<char> for_y(plan.forward_bytes()), for_x(plan.input_grad_bytes()), for_w(plan.weight_grad_bytes());
            const DeviceValues<char> for_bias(sum_channels_bytes(batch, channels, size));
            plan.forward(x, w, bias, y, true, static_cast<char*>(for_y), nullptr);
            plan.input_grad(gradient, w, source_bias, to_x, false, static_cast<char*>(for_x), nullptr);
            plan.weight_grad(gradient, x, to_w, static_cast<char*>(for_w), nullptr);
            sum_channels<T>(gradient, batch, channels, size, to_bias, static_cast<char*>(for_bias), nullptr);
            std::vector<double> all;
            y.append_to(all), to_x.append_to(all), to_w.append_to(all), to_bias.append_to(all);
            return all;
        }});
}

}  // namespace

void add_conv_cases(std::vector<Case>& cases) {
    add_cases<float>(cases, " float", 1);
    add_cases<double>(cases, " double", 3);   // the same source
}
