// The spectral engine of a line: one axis cut into overlapping segments that fit the cache (overlap-save; Stockham 1966).
//
// A single long transform would keep one SIMD lane busy. Here lane = segment: L segments are taken from the source with
// what the filter reaches beyond each, transformed together, multiplied by the OTF, transformed back, and finished by the
// formula, all in L1 and L2. The source is read once and the result written once. Transforms and packing: spectral.hpp,
// half axis.
#pragma once
#include "spectral.hpp"

namespace medeconv {

template <class T>
struct OverlapPass {
    const SpectralView<T>* segment;      // half axis of one segment
    const T* otf;                        // (re, im) per slot, scaled; slot 0: the two real frequencies. It acts conjugated
    // destination i takes source positions i + base + m, m in [0, taps)
    int64_t source, destination, base, taps;
    bool periodic;
    const T* input;
    T* kept;                             // the result's place for the next sweep; null: not kept
    Formula formula;
    Operands<T> operands;
    int64_t step() const { return segment->real - taps + 1; }   // results per segment
};

template <class T>
struct OverlapKernels {
    int lanes;
    int64_t (*scratch)(const SpectralView<T>&);                                   // T elements per worker
    void (*group)(const OverlapPass<T>&, int64_t unit, T* scratch);               // `lanes` segments
    // Spectrum of `count` values, twice its value, as OverlapPass::otf lays it out.
    void (*spectrum)(const SpectralView<T>&, const T* values, int64_t count, T* otf, T* scratch);
};

template <class T>
const OverlapKernels<T>& overlap_kernels();                     // of the active ISA (dispatch.cpp)

}  // namespace medeconv
