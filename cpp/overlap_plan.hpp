// A plan of the spectral engine of a line: segment length and OTFs; chains as of the engines without transforms.
#pragma once
#include <memory>
#include <vector>

#include "memory.hpp"
#include "overlap.hpp"
#include "spectral_plan.hpp"
#include "threads.hpp"

namespace medeconv {

template <class T>
class OverlapPlan {
public:
    // Boxes of which at most the last axis is longer than 1; periodic: both are the whole grid, which wraps around.
    OverlapPlan(Box estimate_box, Box image_box, bool periodic);

    Box estimate_box, image_box;
    const Box& read_box(bool adjoint) const { return adjoint ? image_box : estimate_box; }
    const Box& written_box(bool adjoint) const { return adjoint ? estimate_box : image_box; }

    struct Filters {
        int64_t taps, centre;
        std::unique_ptr<HalfAxis<T>> half;     // of one segment
        SpectralView<T> segment;
        std::vector<T> forward, adjoint;       // OverlapPass::otf
    };
    std::shared_ptr<Filters> filters(const T* psf, int64_t taps, int64_t centre) const;

    // `result`: kept, destination-shaped, must not overlap `input`; null: not kept. `out` must not overlap `input`.
    void sweep(const T* input, T* result, const Filters& filters, bool adjoint, Formula formula, const Operands<T>& operands,
               int threads, const Poll& poll) const;
    int64_t largest_box() const;

private:
    const OverlapKernels<T>& kernels_;
    bool periodic_;
};

}  // namespace medeconv
