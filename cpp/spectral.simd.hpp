// The passes of the spectral engine, built once per ISA.
#pragma once
#include "spectral_column.simd.hpp"
#include "spectral_image.simd.hpp"
#include "spectral_volume.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <class T>
int64_t slab_scratch(const SpectralView<T>& p) {
    return p.image ? image_scratch(p) : volume_scratch(p);
}
template <class T>
int64_t slab_units(const SpectralView<T>& p, Range col) {
    const int64_t n = col.stop - col.start;
    return p.image ? ceil_div(n, row_groups_per_unit * lanes<T>) : n;
}
template <class T>
void slab(const SlabPass<T>& pass, int64_t unit, T* scratch) {
    if (pass.plan->image) image_slab(pass, unit, scratch);
    else volume_slab(pass, unit, scratch);
}

template <class T>
constexpr SpectralKernels<T> spectral_table = {
    lanes<T>, column_scratch<T>, slab_scratch<T>, column_units<T>, slab_units<T>, column<T>, slab<T>, column_forward<T>,
};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
