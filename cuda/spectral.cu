#include "spectral_plan.cuh"

namespace medeconv::cuda {

template class SpectralPlan<float>;

}  // namespace medeconv::cuda
