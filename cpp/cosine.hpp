// The spectral engine where the image goes on as its own mirror image (scipy's "reflect": the edge voxel twice) and the
// psf is symmetric along every axis: H is diagonal in cosine transforms (DCT-II) of the image's own size, so that nothing
// is padded or folded, and H is its own transpose (Martucci, IEEE Trans. Signal Process. 42, 1038 (1994)).
//
// A cosine transform of n values is a complex one of n (Makhoul, IEEE Trans. Acoust. Speech Signal Process. 28, 27 (1980)):
// value i becomes element place[i] of the line, even ones rising from the front, odd ones falling from the end; with V its
// transform, E = (V(k) + V(n-k))/2 and D = -i(V(k) - V(n-k))/2 the coefficients are, c and s being of πk/2n,
//   C(k) = cE + sD,   C(n-k) = sE - cD.
// Real and imaginary parts of an element are two lines of their own: an element is 2·lanes real values.
//
// Axes have the roles of spectral.hpp, but none is halved: `half` is only the one whose coefficients are neighbours in an
// element (y of a volume, x of an image). Passes: column pass (col transform, × H, inverse, in L1), slab pass (a z slice of
// a volume or 2·lanes rows of an image: inverse, formula, forward, in L2).
// Layout of a spectrum: [col][block][mid] elements, col in places, mid and half in slots; H: [block][mid][col], in slots.
#pragma once
#include <cstdint>

#include "axis.hpp"
#include "operands.hpp"
#include "spectral.hpp"

namespace medeconv {

template <class T>
struct CosineAxis {
    AxisView<T> axis;
    const int64_t* place;                // of value i; beyond n, to the next multiple of 2·lanes: i
    const HalfPair<T>* pair;             // all pairs of slots of k and n-k, and (cos, sin) of πk/2n
    int64_t pairs, middle;               // slot of n/2, or -1
};

template <class T>
struct CosineView {
    CosineAxis<T> half, mid, col;
    bool image;
    int64_t blocks;                      // of 2·lanes neighbouring coefficients of the half axis
    int64_t block_stride, col_stride;    // in T
};

template <class T>
struct CosinePass {                      // of columns and of slabs
    const CosineView<T>* plan;
    T* spectrum;
    const T* transfer;                   // columns
    bool inverse, forward;               // slabs; inverse: spectrum -> formula; forward: result -> spectrum
    const T* input;                      // forward without inverse: the array to load
    Formula formula;
    Operands<T> operands;
};

template <class T>
struct CosineKernels {
    int lanes;
    int64_t (*column_scratch)(const CosineView<T>&);          // T elements per worker
    int64_t (*slab_scratch)(const CosineView<T>&);
    int64_t (*column_units)(const CosineView<T>&);
    int64_t (*slab_units)(const CosineView<T>&);
    int64_t (*slots_of_sums)(const CosineView<T>&);
    void (*column)(const CosinePass<T>&, int64_t unit, T* scratch);
    void (*slab)(const CosinePass<T>&, int64_t unit, T* scratch);
    // n elements: to[k] = scale · sum over d < taps of cosines[k·taps + d] · from[d·stride ... + 2·lanes)
    void (*evaluate)(const double* from, int64_t stride, const double* cosines, int64_t taps, int64_t n, double scale, T* to);
};

template <class T>
const CosineKernels<T>& cosine_kernels();                     // of the active ISA (dispatch.cpp)

}  // namespace medeconv
