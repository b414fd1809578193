// Built once per ISA, with that ISA's flags, MEDECONV_ISA_NS and MEDECONV_VECTOR_BYTES. It exports exactly one
// function; everything else has internal linkage, so that no AVX code can be merged into the baseline by the linker.
#include "direct.simd.hpp"
#include "isa.hpp"
#include "overlap.simd.hpp"
#include "separable.simd.hpp"
#include "spectral.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {

extern const IsaKernels kernels;
constinit const IsaKernels kernels = {
    spectral_table<float>, spectral_table<double>, separable_table<float>, separable_table<double>,
    direct_table<float>, direct_table<double>, overlap_table<float>, overlap_table<double>,
};

}  // namespace medeconv::MEDECONV_ISA_NS
