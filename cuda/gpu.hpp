// The one include of every .cu: CUDA under nvcc, the emulator (emulator.hpp) under a C++ compiler.
//
// Rules for kernels, so that one source serves both:
//   - shared memory is dynamic, through DYN_SHARED, one array per kernel; its bytes are an argument of launch()
//   - no thread returns before a barrier that others of its block reach
//   - shuffles in blocks of whole warps; no floating-point atomics: results must not depend on the order of blocks
//   - inline PTX and what else only a GPU has stands behind a function with a plain alternative
// A launcher (the host's side, declared in <stem>.hpp without any of CUDA's types but Stream) takes device pointers, its
// workspace included, and a Stream; it allocates nothing and never waits, so that it can be captured as a graph.
#pragma once
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define DYN_SHARED(T, name)                                              \
    extern __shared__ __align__(16) unsigned char medeconv_shared_[];    \
    T* const name = reinterpret_cast<T*>(medeconv_shared_)
#else
#include "emulator.hpp"
#endif
#include "runtime.hpp"

namespace medeconv::cuda {

// Throws what `status` says of the call `what`.
void check(cudaError_t status, const char* what);

constexpr size_t usual_shared_bytes = 48 << 10;  // of a block, without asking for more
// Lets a kernel's blocks have so much on the current device, from now on; what has been asked for once is not asked for again.
void allow_shared_bytes(const void* kernel, size_t bytes);

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream, A... arguments) {
    if (shared_bytes > usual_shared_bytes) allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared_bytes);
#if defined(__CUDACC__)
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(arguments)...);
    check(cudaGetLastError(), "launch of a kernel");
#else
    check(emulator::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream,
                           [=] { kernel(static_cast<P>(arguments)...); }),
          "launch of a kernel");
#endif
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks in one dimension of a grid, whose other dimensions are too short for a volume.
inline dim3 blocks(int64_t count) {
    if (count > 0x7fffffff) throw Failure("an array of more blocks than a grid holds", 0);
    return dim3(unsigned(count));
}

}  // namespace medeconv::cuda
