// A plan of the separable engine: boxes and one filter per axis; chains as in spectral_plan.hpp.
#pragma once
#include <array>
#include <vector>

#include "memory.hpp"
#include "separable.hpp"
#include "spectral_plan.hpp"
#include "threads.hpp"

namespace medeconv {

template <class T>
class SeparablePlan {
public:
    // Boxes as of a spectral plan, in any common grid. What lies outside the estimate is read where the boundary says. An adjoint
    // sweep writes `unfolded_box`. Where that is the estimate's, it reads by the boundary too: the transpose if the boundary is wrap
    // or zero, or reflect with filters that are symmetric about their centre. Where it is larger, zeros lie outside the image, and
    // the caller adds what lies outside the estimate to what it stands for (`fold`).
    SeparablePlan(Box estimate_box, Box image_box, Boundary boundary, Box unfolded_box);

    Box estimate_box, image_box, unfolded_box;
    const Box& read_box(bool adjoint) const { return adjoint ? image_box : estimate_box; }
    const Box& written_box(bool adjoint) const { return adjoint ? unfolded_box : image_box; }

    using Taps = std::array<std::vector<T>, 3>;
    struct Term {
        Taps forward, adjoint;                            // as AxisFilter's weight
        std::array<bool, 3> symmetric;
    };
    struct Filters {
        std::vector<Term> terms;
        std::array<int64_t, 3> taps, centre;
    };
    // psf[z, y, x] = sum over terms of taps[0][z] taps[1][y] taps[2][x], each as long as the others' and centred at `centre`.
    Filters filters(const std::vector<Taps>& terms, Shape centre) const;

    // `result`: kept, destination-shaped, must not overlap `input`; null: not kept.
    void sweep(const T* input, T* result, const Filters& filters, bool adjoint, Formula formula, const Operands<T>& operands,
               int threads, const Poll& poll) const;
    int64_t largest_box() const;

private:
    void apply(const T* input, T* result, const Filters& filters, const Term& term, bool adjoint, Formula formula,
               const Operands<T>& operands, int threads, const Poll& poll) const;
    const SeparableKernels<T>& kernels_;
    Boundary boundary_;
};

}  // namespace medeconv
