// The spectral engine: H applied by fused FFT passes. The one place where the layout of a spectrum is defined.
//
// Axes have roles: x is the contiguous axis, transformed first; `mid` (y of a volume; length 1 for an image) and
// `col` (z of a volume, y of an image) follow. A sweep is
//   column pass  for `lanes` neighbouring x frequencies: col transform, × OTF, col inverse, all in L1
//                (last forward stage × OTF × first inverse stage in registers);
//   slab pass    for each slab (a z slice of a volume, `lanes` rows of an image), in L2:
//                mid inverse, x inverse, formula, x forward, mid forward.
// The first sweep is preceded by `load`, the forward half of a slab pass.
//
// Layout of a spectrum (T values):  element(block, mid, col) = block·block_stride + mid·2L + col·col_stride, where an
// element is [L real parts | L imaginary parts], L = lanes. A volume has [col][block][mid], its col stride padded
// off the powers of two; an image has [block][col].
// x frequencies are kept in slot order (axis.hpp). Even nx: nx/2 of them, and slot 0 packs the two real-input
// frequencies as P = X(0) + i·X(nx/2), so that a spectrum is as large as the volume. Odd nx: (nx+1)/2, unpacked.
// The OTF is laid out [block][mid][col]: in the order in which the column pass consumes it.
// With P packed, multiplying X(0) by H0 and X(nx/2) by HN means  P'(k) = A·P(k) + B·conj(P(-k)),
// A = (H0 + HN)/2, B = (H0 - HN)/2, k the (mid, col) frequency: lane 0 of block 0 holds A, a side array holds B.
#pragma once
#include <cstdint>

#include "axis.hpp"
#include "operands.hpp"

namespace medeconv {

template <class T>
struct SpectralView {  // everything a pass needs to know about a plan
    AxisView<T> x, mid, col;             // x.n = nx/2 when packed, else nx
    int64_t nx;                          // real samples along x
    bool packed;
    int64_t bins, blocks;                // kept x frequencies; blocks of `lanes`
    int64_t block_stride, col_stride;    // in T
    const int64_t* bin_slot;             // unpacked: slot of x frequency f
    const int64_t* mirror_x;             // packed: slot of -f in the nx/2-point transform
    const T* split;                      // packed: per x slot (cos, sin) of 2πf/nx
    const int64_t* mirror_mid;           // slot of -f
    const int64_t* mirror_col;
};

template <class T>
struct Transfer {                        // an OTF (or a Wiener filter) in slot order, scaled by `scale`
    const T* main;                       // [block][mid][col] elements
    const T* mirror;                     // B: [mid][col] complex pairs; null when unpacked
};

template <class T>
struct ColumnPass {
    const SpectralView<T>* plan;
    T* spectrum;
    Transfer<T> transfer;
    bool adjoint;                        // multiply by the conjugate
    Range source, destination;           // col positions that hold data, and that are wanted
};

template <class T>
struct SlabPass {
    const SpectralView<T>* plan;
    T* spectrum;
    Range x, mid, col;                   // the box that the real arrays cover
    bool inverse, forward;               // inverse: spectrum -> formula; forward: result -> spectrum
    const T* input;                      // forward without inverse: the array to load (box-shaped)
    Formula formula;
    Operands<T> operands;
};

// The per-ISA functions; one table per ISA and dtype.
template <class T>
struct SpectralKernels {
    int lanes;
    int64_t (*column_scratch)(const SpectralView<T>&);        // T elements per worker
    int64_t (*slab_scratch)(const SpectralView<T>&);
    int64_t (*column_units)(const SpectralView<T>&);          // independent pieces of a column pass
    int64_t (*slab_units)(const SpectralView<T>&, Range col);
    void (*column)(const ColumnPass<T>&, int64_t unit, T* scratch);
    void (*slab)(const SlabPass<T>&, int64_t unit, T* scratch);
    // Forward col transform of one unit's columns, in place, left in slot order (to make OTFs and power spectra).
    void (*column_forward)(const ColumnPass<T>&, int64_t unit, T* scratch);
};

template <class T>
const SpectralKernels<T>& spectral_kernels();                 // of the active ISA (dispatch.cpp)

}  // namespace medeconv
