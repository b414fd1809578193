// The kernels of one ISA, and the choice among them.
#pragma once
#include "conv.hpp"
#include "cosine.hpp"
#include "denoise.hpp"
#include "direct.hpp"
#include "elementwise.hpp"
#include "overlap.hpp"
#include "penalty.hpp"
#include "separable.hpp"
#include "spectral.hpp"

namespace medeconv {

template <class T>
struct IsaKernels {
    SpectralKernels<T> spectral;
    CosineKernels<T> cosine;
    SeparableKernels<T> separable;
    DirectKernels<T> direct;
    OverlapKernels<T> overlap;
    PenaltyKernels<T> penalty;
    const DenoiseKernels<T>* denoise;
    ElementwiseKernels<T> elementwise;
    ConvKernels<T> conv;
};

// Names of the ISAs this build has and this machine runs, slowest first.
int supported_isas(const char* const** names);
// Active: MEDECONV_ISA if set (throws std::invalid_argument if unknown or unsupported), else the fastest supported.
template <class T>
const IsaKernels<T>& active_kernels();
const char* active_isa();

}  // namespace medeconv
