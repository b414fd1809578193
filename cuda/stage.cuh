// Into shared memory without waiting, vectors out of it, and what keeps sums in registers.
#pragma once
#include "gpu.hpp"

// Sums live in registers only where every index is known; a seldom loop is not worth registers.
#if defined(__CUDACC__)
#define MEDECONV_UNROLL _Pragma("unroll")
#define MEDECONV_ROLLED _Pragma("unroll 1")
#else
#define MEDECONV_UNROLL
#define MEDECONV_ROLLED
#endif

namespace medeconv::cuda {

// Into shared memory without waiting; copies_done() waits for all that the thread started.
template <class T>
__device__ __forceinline__ void copy_async(T* to, const T* from) {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from), "n"(sizeof(T)) : "memory");
#else
    *to = *from;
#endif
}
__device__ __forceinline__ void copies_done() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Neither NaN nor infinite. Taps that only fill up a group are 0, and 0 times what is no number is none: a kernel with such taps
// makes its results that are none once more, by the filter's own taps alone.
template <class T>
__device__ __forceinline__ bool is_number(T x) { return x - x == T(0); }

// Neighbours that are loaded together: 16 bytes at a time.
template <class T, int n>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Lanes {
    T v[n];
};
template <int n, class T>
__device__ __forceinline__ Lanes<T, n> load(const T* from) {
    return *reinterpret_cast<const Lanes<T, n>*>(from);
}

}  // namespace medeconv::cuda
