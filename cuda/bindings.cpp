// The module: _cuda, or of the same source _cuda_emu on the emulator.
#include "bindings.hpp"

namespace py = pybind11;

PYBIND11_MODULE(MEDECONV_MODULE, m, py::mod_gil_not_used()) {
    m.doc() = "CUDA kernels of medeconv_fast; called through medeconv_fast.backends.cuda.";
    medeconv::cuda::bind_runtime(m);
    medeconv::cuda::bind_arrays(m);
    medeconv::cuda::bind_spectral(m);
    medeconv::cuda::bind_conv(m);
}
