// The float kernels of one ISA, built with its flags, MEDECONV_ISA_NS and MEDECONV_VECTOR_BYTES; twin: isa_f64.cpp (two
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

extern const IsaKernels<float> kernels_f32;
constinit const IsaKernels<float> kernels_f32 = {spectral_table<float>, cosine_table<float>, separable_table<float>, direct_table<float>,
                                                overlap_table<float>, penalty_table<float>, denoise_table<float>, elementwise_table<float>,
                                                conv_table<float>};

}  // namespace medeconv::MEDECONV_ISA_NS
