// The kernels of one ISA, and the choice among them.
#pragma once
#include "direct.hpp"
#include "overlap.hpp"
#include "separable.hpp"
#include "spectral.hpp"

namespace medeconv {

struct IsaKernels {
    SpectralKernels<float> spectral_f32;
    SpectralKernels<double> spectral_f64;
    SeparableKernels<float> separable_f32;
    SeparableKernels<double> separable_f64;
    DirectKernels<float> direct_f32;
    DirectKernels<double> direct_f64;
    OverlapKernels<float> overlap_f32;
    OverlapKernels<double> overlap_f64;
};

// Names of the ISAs this build has and this machine runs, slowest first.
int supported_isas(const char* const** names);
// Active: MEDECONV_ISA if set (throws std::invalid_argument if unknown or unsupported), else the fastest supported.
const IsaKernels& active_kernels();
const char* active_isa();

}  // namespace medeconv
