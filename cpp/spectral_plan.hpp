// A plan of the spectral engine: grid, boxes, tables; transfers (OTFs) and chains (a spectrum in flight).
#pragma once
#include <array>
#include <memory>
#include <vector>

#include "memory.hpp"
#include "spectral.hpp"
#include "threads.hpp"

namespace medeconv {

using Shape = std::array<int64_t, 3>;  // (z, y, x); absent leading axes are 1
using Box = std::array<Range, 3>;

// The real axis of a spectrum: its transform and the tables of its packing (spectral.hpp).
template <class T>
class HalfAxis {
public:
    // `turn`: as of Axis.
    HalfAxis(int64_t real, bool turn);
    int64_t real;
    bool packed;
    Axis<T> axis;
    void describe(SpectralView<T>& view, int64_t lanes) const;   // sets what a view says of the half axis

private:
    std::vector<HalfPair<T>> pairs_;
    int64_t middle_ = -1;
};

template <class T>
struct StoredTransfer {
    Buffer<T> main, mirror;
    bool real = false;
    Transfer<T> view() const { return {main.get(), mirror.get(), real}; }
};

template <class T>
class SpectralPlan {
public:
    using Stored = StoredTransfer<T>;
    // `reach`: per axis what H reads before and behind the box of a periodic axis, whose boxes are then both (0, length)
    // in a grid of at least length + reach; 0 where nothing is continued.
    using Reach = std::array<Continuation, 3>;
    SpectralPlan(Shape grid, Box estimate_box, Box image_box, Reach reach = {});

private:
    std::array<int, 3> order_;             // axes of one voxel moved to the front (spectral.cpp)

public:
    Shape grid;
    Box estimate_box, image_box;

    // OTF of a psf of that shape, tap j at grid index (j - centre) mod grid. Scaled for the passes (`scale`).
    // symmetric: psf[c + d] = psf[c - d] for all d; only its OTF's real part is kept, and no other function takes it.
    std::shared_ptr<StoredTransfer<T>> transfer(const T* psf, Shape shape, Shape centre, bool symmetric, int threads) const;
    // conj(H) / (|H|² + balance |R|²)
    std::shared_ptr<StoredTransfer<T>> wiener_transfer(const StoredTransfer<T>& psf, const StoredTransfer<T>& regularizer,
                                                       double balance) const;
    // For each balance b, sums over the full spectrum of g²|Y|² and g, g = b|R|²/(|H|² + b|R|²), Y the transform of
    // `image` (image box). Fixed order of summation.
    void gcv(const T* image, const StoredTransfer<T>& psf, const StoredTransfer<T>& regularizer, const double* balances,
             int count, double* numerator, double* denominator, int threads, const Poll& poll) const;

    // A chain's spectrum.
    Buffer<T> new_spectrum() const { return acquire<T>(spectrum_elements_); }
    // With operands.previous what is loaded lies beyond `input` (formula copy).
    void load(T* spectrum, const T* input, bool adjoint, const Operands<T>& operands, int threads, const Poll& poll) const;
    void sweep(T* spectrum, const StoredTransfer<T>& transfer, bool adjoint, Formula formula, const Operands<T>& operands,
               bool keep, int threads, const Poll& poll) const;

    int64_t spectrum_bytes() const { return spectrum_elements_ * int64_t(sizeof(T)); }
    int64_t transfer_bytes(bool symmetric) const {
        return (transfer_elements_ / (symmetric ? 2 : 1) + (view_.packed ? 2 * mid_.n * col_.n : 0)) * int64_t(sizeof(T));
    }

private:
    // (col, mid, half), see spectral.hpp.
    Box by_role(const Box& box) const;
    Reach continued(bool adjoint) const;   // of a source, by role
    // Complete transform of slabs in flight, laid out as an OTF.
    Buffer<T> finished(T* spectrum, Range source, T scale, int threads, const Poll& poll) const;
    void split_packed(StoredTransfer<T>& made) const;
    // Transform of slabs [start, stop) of the role `col` from `input`; boxes by role.
    void forward_slabs(T* spectrum, const T* input, const Box& box, const Reach& beyond, const Operands<T>& operands, int threads,
                       const Poll& poll) const;
    void run_slabs(SlabPass<T> pass, T* scratch, int64_t scratch_size, int threads, const Poll& poll) const;

    const SpectralKernels<T>& kernels_;
    Reach reach_;
    bool image_;                           // two-dimensional roles
    HalfAxis<T> half_;
    Axis<T> mid_, col_;
    SpectralView<T> view_{};
    std::vector<int64_t> mirror_mid_, mirror_col_;
    int64_t spectrum_elements_, transfer_elements_;
    double scale_;
};

}  // namespace medeconv
