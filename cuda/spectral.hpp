// The spectral engine on the GPU: H applied by fused passes over lines. Launchers: they allocate nothing and wait for nothing. Bytes:
// benchmarks/NOTES.md.
//
// Axes of one voxel are moved to the front; x is real, y and z are complex. A sweep of a volume is four kernels:
//   lines, forward   y, of the slices that hold data
//   lines, filter    z, × OTF, z inverse
//   lines, inverse   y, of the slices that are wanted
//   rows             x inverse, formula, x forward, of the rows that are wanted
// An image takes the last two of them, its y being filtered; a line takes the product with the OTF alone and one row.
// Rows that hold zeros, and results that nobody wants, are neither read nor written.
//
// Layout of a spectrum: [z][y][pitch] complex, `bins` = n_x/2 + 1 of a row in use, in natural order; y and z in slot order
// (axis.hpp) once transformed. A pitch is a multiple of 32 bytes, a sector of device memory. The OTF is laid out the same, or, of
// a symmetric psf, as its real parts. The x transform takes rows in pairs, as re + i·im, and leaves twice the spectrum of
// each; 1/2N is in the OTF.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#include "axis.hpp"
#include "operands.hpp"
#include "runtime.hpp"

namespace medeconv::cuda {

using Shape = std::array<int64_t, 3>;  // (z, y, x); absent leading axes are 1
using Box = std::array<Range, 3>;

// How a box that starts at 0 is continued periodically into its grid: `high` values behind it are its first ones, the last `low`
// of the grid its last ones.
struct Continuation {
    int64_t low = 0, high = 0;
};
using Reach = std::array<Continuation, 3>;

// An OTF (or a Wiener filter), times 1/2N. real: of a psf that is symmetric about its centre, half the traffic.
template <class T>
struct Transfer {
    const void* values;                  // Pair<T>, or T if real
    bool real;
};

template <class T>
class SpectralPlan {
public:
    // As cpp/spectral_plan.hpp; throws if an axis is longer than a block of threads can hold or no product of 2, 3, 5, 7.
    SpectralPlan(Shape grid, Box estimate_box, Box image_box, Reach reach = {});

    // The caller owns all device memory. Tables of the axes of these lengths (axis.hpp), in this order; they must stay as long as the
    // plan. Plans may share them, axes of one length as well.
    const Shape& lengths() const { return grid_; }
    void use_tables(const std::array<const void*, 3>& device);

    size_t spectrum_bytes() const;
    size_t transfer_bytes(bool symmetric) const;
    int64_t sum_blocks() const;          // operands.sums: sums_size(sum_blocks()) doubles (sums.hpp)
    size_t gcv_bytes() const;            // scratch
    Box estimate_box, image_box;         // of the grid as given

    // OTF of a psf (on the device), tap j at grid index (j - centre) mod grid, to `transfer`; `spectrum` is scratch.
    void transfer(const T* psf, Shape shape, Shape centre, bool symmetric, void* spectrum, void* transfer, Stream stream) const;
    // conj(H) / (|H|² + balance |R|²), of complete transfers.
    void wiener_transfer(const void* psf, const void* regularizer, double balance, void* transfer, Stream stream) const;
    // For each balance b the sums over the full spectrum of g²|Y|² and of g, g = b|R|²/(|H|² + b|R|²): `totals` on the device,
    // 2·count doubles, interleaved. `balances` on the host.
    void gcv(const T* image, const void* psf, const void* regularizer, const double* balances, int count, void* spectrum,
             void* scratch, double* totals, Stream stream) const;

    // With operands.previous what is loaded lies beyond `input` (formula copy).
    void load(void* spectrum, const T* input, bool adjoint, const Operands<T>& operands, Stream stream) const;
    void sweep(void* spectrum, Transfer<T> transfer, bool adjoint, Formula formula, const Operands<T>& operands, bool keep,
               Stream stream) const;

private:
    struct Passes;                       // the kernels' arguments: spectral_plan.cuh

    std::array<int, 3> order_;           // axes of one voxel moved to the front
    Shape grid_;
    Reach reach_;
    Axis<T> z_, y_, x_;
    AxisView<T> z_view_, y_view_, x_view_;
    int64_t bins_, pitch_;
};

}  // namespace medeconv::cuda
