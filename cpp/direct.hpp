// The direct engine: small PSFs that are no product of filters, as a sum over their taps, without an FFT.
//
// A unit of work is a block of rows and columns over a range of slices. Its source slices are copied, one after the
// other, into a ring in L2, with what lies outside (zeros, or the other end) written out beside them, so that inner
// loops check no bounds. As soon as the ring has what an output slice needs, tiles of `direct_rows` rows × a few vectors
// are summed over all taps in registers: a vector of a source row, loaded once per x tap, serves every output row of
// the tile that it reaches (the weights form a Toeplitz matrix in y). The formula follows while the rows are in L1.
//
// Symmetry saves multiplications. A PSF that is symmetric along z has its source slices added in pairs first (once per
// voxel, which costs little beside the taps of a slice); along x, two vectors are added for one multiplication, by
// units of the processor that would idle otherwise.
#pragma once
#include <cstdint>

#include "operands.hpp"

namespace medeconv {

constexpr int64_t direct_rows = 6;   // of a tile: 6 × 4 sums, 4 loaded vectors and a weight fit 32 registers

// One axis: destination i takes source positions i + base + m, m in [0, taps); a position outside [0, source) is zero,
// or taken modulo `source` when periodic.
struct DirectAxis {
    int64_t source, destination, base, taps;
    int64_t block;                   // of the destination, per unit
    bool folded;                     // weights of m and taps - 1 - m are equal and stored once (z, x)
    MEDECONV_INLINE int64_t weights() const { return folded ? (taps + 1) / 2 : taps; }
    MEDECONV_INLINE int64_t blocks() const { return (destination + block - 1) / block; }
};

template <class T>
struct DirectPass {
    DirectAxis z, y, x;
    bool periodic;
    const T* weight;                 // [z.weights()][x.weights()][y.taps]: a tile's rows read neighbouring weights
    const T* input;
    T* kept;                         // destination-shaped, the result's place for the next sweep; null: not kept
    Formula formula;
    Operands<T> operands;
};

template <class T>
struct DirectKernels {
    int64_t (*scratch)(const DirectPass<T>&);                  // T elements per worker
    void (*block)(const DirectPass<T>&, int64_t unit, T* scratch);   // units: z.blocks() · y.blocks() · x.blocks()
};

template <class T>
const DirectKernels<T>& direct_kernels();                      // of the active ISA (dispatch.cpp)

}  // namespace medeconv
