// Every launcher of cuda/ on the emulator, for the sanitizers: threads and blocks take turns in several orders, and what is
// written must be the same to the last bit, with no value left out. That values are right is the Python suite's to say.
//   test_launchers ORDER...   orders as of MEDECONV_EMULATOR_ORDER
//   test_launchers --broken   kernels with a mistake each; succeeds if the emulator finds them
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "gpu.hpp"
#include "launchers.hpp"

namespace {

using namespace medeconv::cuda;

__global__ void some_miss_a_barrier(float* x) {
    if (threadIdx.x < 16) __syncthreads();
    x[threadIdx.x] = 1;
}
__global__ void two_barriers(float* x) {
    if (threadIdx.x < 16) __syncthreads();
    else {
        x[threadIdx.x] = 1;
        __syncthreads();
    }
}
__global__ void shuffle_outside_the_mask(float* x) { x[threadIdx.x] = __shfl_down_sync(0xffffu, x[threadIdx.x], 1); }
__global__ void reads_what_nobody_wrote(float* x) {
    DYN_SHARED(float, shared);
    x[threadIdx.x] = shared[threadIdx.x];
}

bool fails(const char* text, void (*kernel)(float*), dim3 block, size_t shared_bytes, float* x) {
    try {
        launch(kernel, dim3(1), block, shared_bytes, nullptr, x);
    } catch (const Failure& failure) {
        if (std::strstr(failure.what(), text)) return true;
        std::printf("got: %s\n", failure.what());
    }
    std::printf("not found: %s\n", text);
    return false;
}

int broken() {
    const DeviceValues<float> x(2048, 1);
    bool found = fails("threads returned before the barrier", some_miss_a_barrier, dim3(32), 0, x);
    found &= fails("while others wait", two_barriers, dim3(32), 0, x);
    found &= fails("a shuffle reads a lane outside its mask", shuffle_outside_the_mask, dim3(32), 0, x);
    found &= fails("a mask names lanes that the block does not have", shuffle_outside_the_mask, dim3(8), 0, x);
    found &= fails("block (2048, 1, 1)", two_barriers, dim3(2048), 0, x);
    found &= fails("more shared memory than a block can have", two_barriers, dim3(32), 300 << 10, x);
    launch(reads_what_nobody_wrote, dim3(1), dim3(32), 4 * 32, nullptr, static_cast<float*>(x));
    std::vector<double> read;
    x.append_to(read, 32);
    for (const double value : read) found &= std::isnan(value);
    return found ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
    if (count == 2 && !std::strcmp(arguments[1], "--broken")) return broken();
    std::vector<Case> cases;
    add_array_cases(cases);
    add_conv_cases(cases);
    add_spectral_cases(cases);
    int bad = 0;
    for (const Case& c : cases) {
        std::vector<double> first;
        for (int i = 1; i < count; ++i) {
            setenv("MEDECONV_EMULATOR_ORDER", arguments[i], 1);
            const std::vector<double> got = c.run();
            if (first.empty()) first = got;
            size_t wrong = 0, missing = 0;
            for (size_t k = 0; k < got.size(); ++k) wrong += std::memcmp(&got[k], &first[k], sizeof(double)) != 0, missing += std::isnan(got[k]);
            if (wrong || missing || got.empty()) {
                std::printf("%s, %s: %zu of %zu values differ from the first run, %zu are NaN\n", c.name.c_str(), arguments[i], wrong, got.size(), missing);
                ++bad;
            }
        }
    }
    std::printf("%zu cases, %d of them wrong\n", cases.size(), bad);
    return bad != 0 || count < 2;
}
