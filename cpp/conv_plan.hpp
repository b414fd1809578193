// Network convolution (cross-correlation, channels first): the plan of one shape, its three kernels, and the bias's gradient.
#pragma once
#include <array>
#include <mutex>
#include <string>
#include <vector>

#include "conv.hpp"
#include "conv_shape.hpp"
#include "memory.hpp"
#include "threads.hpp"

namespace medeconv {

// What a pass needs beside the arrays; made once per plan.
template <class T>
struct ConvTables {
    ConvPass<T> pass{};
    std::array<std::vector<int32_t>, 3> edge;
    std::array<std::vector<uint8_t>, 3> used;
    std::vector<std::vector<int32_t>> offsets, weights;
    std::vector<ConvVariant> variants;
    std::vector<ConvBlock> blocks;
};

// Arrays are contiguous (batch, channel, z, y, x), weights (output channel, input channel / groups, z, y, x). Outputs are
// overwritten and alias nothing. Results do not depend on the number of threads.
template <class T>
class ConvPlan {
public:
    explicit ConvPlan(const ConvShape& shape);   // throws std::invalid_argument where no output is left
    ConvPlan(const ConvPlan&) = delete;          // its passes point into it

    ConvShape shape;
    std::array<int64_t, 3> output;               // spatial

    // out[n, o, p] = bias[o] + sum of weight[o, c, k] · x[n, c, p · stride + k · dilation - low]; then `end`, whose addend is as
    // large as out and none of the other arrays.
    void forward(const T* x, const T* weight, const T* bias, T* out, const ConvEnd<T>& end, int threads, const Poll& poll) const;
    // The exact transpose of `forward` in x; bias per input channel, and `end`, because a transposed convolution is this.
    void input_grad(const T* gradient, const T* weight, const T* bias, T* out, const ConvEnd<T>& end, int threads, const Poll& poll) const;
    // The gradient of `forward` in the weight.
    void weight_grad(const T* gradient, const T* x, T* out, int threads, const Poll& poll) const;

    const char* family() const;                  // of the forward kernel
    int64_t workspace_bytes(int threads) const;  // the most that one call takes beside its arrays

private:
    ConvTables<T> forward_;
    mutable ConvTables<T> backward_;             // made when it is asked for
    mutable std::once_flag backward_made_;
    ConvWeightPass<T> weight_{};
    std::array<int64_t, 3> padded_;              // input with its padding
    const ConvKernels<T>& kernels_;

    const ConvTables<T>& backward() const;
    void run(const ConvTables<T>& tables, const T* source, const T* weight, const T* bias, T* destination, const ConvEnd<T>& end, int threads,
             const Poll& poll) const;
};

// out[c] = sum over images and positions of x, in a fixed order and in double.
template <class T>
void sum_channels(const T* x, int64_t batch, int64_t channels, int64_t size, T* out, int threads, const Poll& poll);

}  // namespace medeconv
