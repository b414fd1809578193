// Network convolution (cross-correlation, channels first) on the GPU: the plan of one shape, its kernels, and the bias's
// gradient. Pointers are the device's.
#pragma once
#include <array>

#include "conv.hpp"
#include "conv_shape.hpp"

namespace medeconv::cuda {

// Arrays are contiguous (batch, channel, z, y, x), weights (output channel, input channel / groups, z, y, x). Outputs are
// overwritten and alias nothing. How sums are split depends on shape and dtype only: same bits on any GPU of ours.
template <class T>
class ConvPlan {
public:
    explicit ConvPlan(const ConvShape& shape);   // throws std::invalid_argument where no output is left

    ConvShape shape;
    std::array<int64_t, 3> output;               // spatial

    // `workspace`: forward_bytes, 0 where a block makes a tile alone.
    // out[n, o, p] = bias[o] + sum of weight[o, c, k] · x[n, c, p · stride + k · dilation - low]; relu: negative values to 0.
    void forward(const T* x, const T* weight, const T* bias, T* out, bool relu, void* workspace, Stream stream) const;
    // The exact transpose of `forward` in x; bias per input channel, and relu, because a transposed convolution is this.
    // `workspace`: input_grad_bytes.
    void input_grad(const T* gradient, const T* weight, const T* bias, T* out, bool relu, void* workspace, Stream stream) const;
    // The gradient of `forward` in the weight. `workspace`: weight_grad_bytes.
    void weight_grad(const T* gradient, const T* x, T* out, void* workspace, Stream stream) const;

    int64_t forward_bytes() const;
    int64_t input_grad_bytes() const;
    int64_t weight_grad_bytes() const;
    const char* family() const;                  // of the forward kernel

    const ConvPass<T>& forward_pass() const { return forward_; }
    const ConvPass<T>& backward_pass() const { return backward_; }
    const ConvWeightPass<T>& weight_pass() const { return weight_; }

private:
    int64_t padded_elements() const;             // of a gradient whose padding repeats values, else 0
    ConvPass<T> forward_, backward_;
    ConvWeightPass<T> weight_;
};

// out[c] = sum over images and positions of x, in a fixed order and in double. `workspace`: sum_channels_bytes.
template <class T>
void sum_channels(const T* x, int64_t batch, int64_t channels, int64_t size, T* out, void* workspace, Stream stream);
int64_t sum_channels_bytes(int64_t batch, int64_t channels, int64_t size);

}  // namespace medeconv::cuda
