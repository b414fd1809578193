// The double kernels of one ISA, built with its flags, MEDECONV_ISA_NS and MEDECONV_VECTOR_BYTES; twin: isa_f32.cpp (two
// files, so that two cores build them). Each exports exactly one table; everything else has internal linkage, so that no
// AVX code can be merged into the baseline by the linker.
#include "conv_table.simd.hpp"
#include "cosine.simd.hpp"
#include "denoise.simd.hpp"
#include "direct.simd.hpp"
#include "elementwise.simd.hpp"
#include "isa.hpp"
#include "overlap.simd.hpp"
#include "penalty.simd.hpp"
#include "separable.simd.hpp"
#include "spectral.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {

extern const IsaKernels<double> kernels_f64;
constinit const IsaKernels<double> kernels_f64 = {spectral_table<double>, cosine_table<double>, separable_table<double>, direct_table<double>,
                                                overlap_table<double>, penalty_table<double>, denoise_table<double>, elementwise_table<double>,
                                                conv_table<double>};

}  // namespace medeconv::MEDECONV_ISA_NS
