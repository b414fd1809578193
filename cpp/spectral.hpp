// The spectral engine: H applied by fused FFT passes. The one place where the layout of a spectrum is defined.
//
// Axes have roles. `half` is the real axis, transformed first (y of a volume, x of an image), of which half the
// frequencies are kept; `mid` (x of a volume; length 1 for an image) and `col` (z of a volume, y of an image) follow.
// A sweep is
//   column pass  for L = `lanes` neighbouring half frequencies: col transform, × OTF, col inverse, all in L1
//                (last forward stage × OTF × first inverse stage in registers): spectral_column.simd.hpp;
//   slab pass    for each slab (a z slice of a volume, some rows of an image), in L2: mid inverse, half inverse,
//                formula, half forward, mid forward: spectral_volume.simd.hpp, spectral_image.simd.hpp.
// The first sweep is preceded by `load`, the forward half of a slab pass.
// A volume's half axis is y because there SIMD lanes are x: rows y, y + 1 of 16 voxels are a packed element as they
// stand, so that nothing is shuffled beside the real arrays, and the last stage of the inverse, the formula and the
// first forward stage, which work on the same elements, are one pass.
//
// Layout of a spectrum (T values):  element(block, mid, col) = block·block_stride + mid·2L + col·col_stride, where an
// element is [L real parts | L imaginary parts]. A volume has [col][block][mid], its col stride padded off the powers
// of two; an image has [block][col].
// Half frequencies are kept in slot order (axis.hpp). Even length n: n/2 of them, and slot 0 packs the two real-input
// frequencies as P = X(0) + i·X(n/2), so that a spectrum is as large as the volume. Odd n: (n+1)/2, unpacked.
// The OTF is laid out [block][mid][col]: in the order in which the column pass consumes it.
// With P packed, multiplying X(0) by H0 and X(n/2) by HN means  P'(k) = A·P(k) + B·conj(P(-k)),
// A = (H0 + HN)/2, B = (H0 - HN)/2, k the (mid, col) frequency: lane 0 of block 0 holds A, a side array holds B.
#pragma once
#include <cstdint>

#include "axis.hpp"
#include "operands.hpp"

namespace medeconv {

template <class T>
struct HalfPair {                        // two slots of the packed half axis, f and n/2 - f, and (cos, sin) of 2πf/n
    int64_t slot, partner;
    T cosine, sine;
};

template <class T>
struct SpectralView {  // everything a pass needs to know about a plan
    AxisView<T> half, mid, col;          // half.n = real/2 when packed, else real
    int64_t real;                        // real samples along the half axis
    bool packed, image;
    int64_t bins, blocks;                // kept half frequencies; blocks of `lanes`
    int64_t block_stride, col_stride;    // in T
    const int64_t* bin_slot;             // unpacked: slot of half frequency f
    const HalfPair<T>* pair;             // packed: all pairs but f = 0 and f = n/4
    int64_t pairs, middle;               // slot of f = n/4, or -1
    const int64_t* mirror_mid;           // slot of -f
    const int64_t* mirror_col;
};

template <class T>
struct Transfer {                        // an OTF (or a Wiener filter) in slot order, scaled by `scale`
    const T* main;                       // [block][mid][col] elements; real: their L real parts only
    const T* mirror;                     // B: [mid][col] complex pairs; null when unpacked
    bool real;                           // of a psf that is symmetric about its centre: half the traffic
};

// How a box that starts at 0 is continued periodically into its grid of n: `high` values behind it are its first ones, the
// last `low` of the grid its last ones. What the filter reaches: a periodic axis of any length gets a cheap grid.
struct Continuation {
    int64_t low = 0, high = 0;
    bool any() const { return low + high > 0; }
};

template <class T>
struct ColumnPass {
    const SpectralView<T>* plan;
    T* spectrum;
    Transfer<T> transfer;
    bool adjoint;                        // multiply by the conjugate
    Range source, destination;           // col positions that hold data, and that are wanted
    Continuation beyond;                 // of the source
};

template <class T>
struct SlabPass {
    const SpectralView<T>* plan;
    T* spectrum;
    Range half, mid, col;                // the box that the real arrays cover
    bool inverse, forward;               // inverse: spectrum -> formula; forward: result -> spectrum
    const T* input;                      // forward without inverse: the array to load (box-shaped)
    Formula formula;
    Operands<T> operands;
    Continuation beyond_half, beyond_mid; // of what goes forward
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
    // Forward col transform of one unit's columns, times `scale`, in slot order, to `to` as an OTF is laid out. The pass's
    // source is taken modulo n.
    void (*column_forward)(const ColumnPass<T>&, int64_t unit, T scale, T* to, T* scratch);
};

template <class T>
const SpectralKernels<T>& spectral_kernels();                 // of the active ISA (dispatch.cpp)

}  // namespace medeconv
