// A plan of the direct engine: boxes and the PSF's taps; chains as in spectral_plan.hpp.
#pragma once
#include <vector>

#include "direct.hpp"
#include "memory.hpp"
#include "spectral_plan.hpp"
#include "threads.hpp"

namespace medeconv {

template <class T>
class DirectPlan {
public:
    // Boxes as of a spectral plan, in any common grid; periodic: both boxes are the whole grid, which wraps around.
    DirectPlan(Box estimate_box, Box image_box, bool periodic);

    Box estimate_box, image_box;
    const Box& read_box(bool adjoint) const { return adjoint ? image_box : estimate_box; }
    const Box& written_box(bool adjoint) const { return adjoint ? estimate_box : image_box; }

    // A PSF of any shape; axes along which it is symmetric to the last bit take fewer multiplications (direct.hpp).
    struct Filters {
        std::vector<T> forward, adjoint;       // in the order in which a pass reads them
        Shape taps, centre;
        bool folded_z, folded_x;
    };
    Filters filters(const T* psf, Shape shape, Shape centre) const;

    // `result`: kept, destination-shaped, must not overlap `input`; null: not kept. `out` must not overlap `input`.
    void sweep(const T* input, T* result, const Filters& filters, bool adjoint, Formula formula, const Operands<T>& operands,
               int threads, const Poll& poll) const;
    int64_t largest_box() const;

private:
    const DirectKernels<T>& kernels_;
    bool periodic_;
};

}  // namespace medeconv
