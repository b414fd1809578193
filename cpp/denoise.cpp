#include "denoise.hpp"

#include <algorithm>

#include "memory.hpp"
#include "threads.hpp"

namespace medeconv {
namespace {

// Work is cut along the first axis: a plane's rows take its slices' place.
template <class T>
void rows_as_slices(DenoisePass<T>& pass) {
    if (pass.depth > 1) return;
    std::swap(pass.depth, pass.height);
    for (auto* pair : {&pass.ahead, &pass.dual}) std::swap((*pair)[0], (*pair)[1]);
    for (auto* pair : {&pass.weight, &pass.step}) std::swap((*pair)[0], (*pair)[1]);
}
template <class T>
const DenoiseKernels<T>& kernels_for(const DenoisePass<T>& pass) {
    return denoise_kernels<T>()[(pass.ahead[0] ? 1 : 0) + (pass.ahead[1] ? 2 : 0) + (pass.ahead[2] ? 4 : 0)];
}

constexpr int64_t fewest_slices = 8, unit_values = 1 << 15;

}  // namespace

template <class T>
void denoised(DenoisePass<T> pass, T* x, int threads) {
    rows_as_slices(pass);
    const DenoiseKernels<T>& kernels = kernels_for(pass);
    const int64_t plane = pass.height * pass.width, thick = std::max<int64_t>(1, unit_values / plane);
    parallel_for((pass.depth + thick - 1) / thick, threads, [&](int64_t unit, int) {
        for (int64_t slice = unit * thick; slice < std::min(pass.depth, (unit + 1) * thick); ++slice)
            kernels.values(pass, slice, x + slice * plane);
    });
}

template <class T>
void denoise_step(DenoisePass<T> pass, int threads) {
    rows_as_slices(pass);
    const DenoiseKernels<T>& kernels = kernels_for(pass);
    const int64_t plane = pass.height * pass.width, thick = std::max(fewest_slices, unit_values / plane);
    const int64_t units = (pass.depth + thick - 1) / thick;
    threads = int(std::min<int64_t>(threads, units));
    // A slab's values are made while it ascends, each before what it is made of does. The first slice's is made before any other
    // slab moves: it depends on the slice before, and that one on it.
    const Buffer<T> firsts = acquire<T>(units * plane), rolling = acquire<T>(2 * plane * threads);
    parallel_for(units, threads, [&](int64_t unit, int) { kernels.values(pass, unit * thick, firsts.get() + unit * plane); });
    parallel_for(units, threads, [&](int64_t unit, int worker) {
        const T* x = firsts.get() + unit * plane;
        T* const rooms = rolling.get() + 2 * plane * worker;
        const int64_t stop = std::min(pass.depth, (unit + 1) * thick);
        for (int64_t slice = unit * thick; slice < stop; ++slice) {
            const T* next = nullptr;
            if (slice + 1 < stop) {
                T* const room = rooms + (slice & 1) * plane;
                kernels.values(pass, slice + 1, room);
                next = room;
            } else if (stop < pass.depth) {
                next = firsts.get() + (unit + 1) * plane;
            }
            kernels.ascend(pass, slice, x, next);
            x = next;
        }
    });
}

#define EACH_DTYPE(T)                                     \
    template void denoised(DenoisePass<T>, T*, int);      \
    template void denoise_step(DenoisePass<T>, int);
EACH_DTYPE(float)
EACH_DTYPE(double)

}  // namespace medeconv
