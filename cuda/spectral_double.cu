#include "spectral_plan.cuh"

namespace medeconv::cuda {

template class SpectralPlan<double>;

}  // namespace medeconv::cuda
