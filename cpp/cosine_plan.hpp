// A plan of the spectral engine by cosine transforms (cosine.hpp): axes, tables; transfers and chains.
#pragma once
#include <memory>
#include <vector>

#include "cosine.hpp"
#include "memory.hpp"
#include "spectral_plan.hpp"
#include "threads.hpp"

namespace medeconv {

// One axis of a plan, with the tables that a view points to.
template <class T>
class MirroredAxis {
public:
    MirroredAxis(int64_t n, int64_t lanes);
    Axis<T> axis;
    CosineAxis<T> view() const { return {axis.view, place_.data(), pairs_.data(), int64_t(pairs_.size()), middle_}; }

private:
    std::vector<int64_t> place_;
    std::vector<HalfPair<T>> pairs_;
    int64_t middle_ = -1;
};

template <class T>
struct CosineTransfer {
    Buffer<T> values;                      // scaled for the passes
};

template <class T>
class CosinePlan {
public:
    explicit CosinePlan(Shape shape);

private:
    std::array<int, 3> order_;             // as in SpectralPlan

public:
    Shape shape;
    Box estimate_box, image_box;           // both the whole image, as its user knows it
    using Stored = CosineTransfer<T>;

    // H of a psf of odd lengths that is symmetric about its centre along every axis.
    std::shared_ptr<Stored> transfer(const T* psf, Shape taps, int threads) const;

    Buffer<T> new_spectrum() const { return acquire<T>(spectrum_elements_); }
    // As in SpectralPlan; H is its own transpose, `adjoint` changes nothing.
    void load(T* spectrum, const T* input, bool adjoint, const Operands<T>& operands, int threads, const Poll& poll) const;
    void sweep(T* spectrum, const Stored& transfer, bool adjoint, Formula formula, const Operands<T>& operands, bool keep,
               int threads, const Poll& poll) const;

    int64_t spectrum_bytes() const { return spectrum_elements_ * int64_t(sizeof(T)); }
    int64_t transfer_bytes() const { return transfer_elements_ * int64_t(sizeof(T)); }

private:
    void run_slabs(CosinePass<T> pass, T* scratch, int64_t scratch_size, int threads, const Poll& poll) const;

    const CosineKernels<T>& kernels_;
    bool image_;                           // two-dimensional roles
    MirroredAxis<T> half_, mid_, col_;
    CosineView<T> view_{};
    int64_t spectrum_elements_, transfer_elements_;
};

}  // namespace medeconv
