// CUDA on the processor, for tests: what a .cu needs of the language and of the runtime, so that a C++ compiler takes it.
//
// Every thread of a block is a fibre; blocks run one after the other. Found are: barriers that not all threads reach or
// that are not the same one, shuffles among lanes that are not there, launches beyond the device's limits, allocations and
// waits while a graph is recorded; what is read before it is written (device and shared memory start as NaN); with
// AddressSanitizer accesses out of bounds; with ThreadSanitizer a missing barrier, and blocks that touch the same value.
// From the environment:
//   MEDECONV_EMULATOR_ORDER    forward, reverse, or random[:seed]: in which order the threads of a block take turns, and blocks
//   MEDECONV_EMULATOR_STREAMS  eager (default), or lazy: work waits until somebody waits for it, the latest stream first
//   MEDECONV_EMULATOR_MEMORY   bytes of the device
#pragma once
#include <math.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

// The language.
#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define DYN_SHARED(T, name) T* const name = static_cast<T*>(medeconv::emulator::shared_memory())

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
#define MEDECONV_VECTORS(T)                                                     \
    struct alignas(2 * sizeof(T)) T##2 { T x, y; };                             \
    struct alignas(16) T##4 { T x, y, z, w; };                                  \
    inline T##2 make_##T##2(T x, T y) { return {x, y}; }                        \
    inline T##4 make_##T##4(T x, T y, T z, T w) { return {x, y, z, w}; }
MEDECONV_VECTORS(float)
MEDECONV_VECTORS(double)
MEDECONV_VECTORS(int)
#undef MEDECONV_VECTORS

inline uint3 threadIdx, blockIdx;  // of the fibre that runs; one launch at a time
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// The runtime. The numbers are CUDA's.
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4, cudaMemPoolAttrReservedMemCurrent = 5, cudaMemPoolAttrUsedMemCurrent = 7 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
};
struct cudaDeviceProp {
    char name[64];
    int major, minor, multiProcessorCount;
    size_t sharedMemPerBlockOptin;
};
struct CUstream_st;
struct CUevent_st;
struct CUgraph_st;
typedef CUstream_st* cudaStream_t;
typedef CUevent_st* cudaEvent_t;
typedef CUgraph_st *cudaGraph_t, *cudaGraphExec_t;
typedef int cudaMemPool_t;

const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaDriverGetVersion(int*);
cudaError_t cudaRuntimeGetVersion(int*);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int);
cudaError_t cudaGetDevice(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaMalloc(void**, size_t);
cudaError_t cudaFree(void*);
cudaError_t cudaMallocAsync(void**, size_t, cudaStream_t);
cudaError_t cudaFreeAsync(void*, cudaStream_t);
cudaError_t cudaMallocHost(void**, size_t);
cudaError_t cudaFreeHost(void*);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes*, const void*);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t*, int);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t);
cudaError_t cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus*);
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes);

namespace medeconv::emulator {

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, std::function<void()> body);
void* shared_memory();

// What threads do together. `file` and `line` say where.
void barrier(const char* file, int line);
// The values that the lanes of `mask` gave, once all have; at least until the lane's next exchange.
const uint64_t* exchange(unsigned mask, uint64_t value, const char* file, int line);
int lane();
void expect_lane(unsigned mask, int lane, const char* file, int line);

template <class T>
T shuffle(unsigned mask, T value, int from, const char* file, int line) {
    static_assert(sizeof(T) <= 8, "shuffles take 4 or 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const uint64_t* given = exchange(mask, bits, file, line);
    expect_lane(mask, from, file, line);
    std::memcpy(&value, &given[from], sizeof value);
    return value;
}
template <class T>
T shuffle_down(unsigned mask, T value, int by, const char* file, int line) {
    return shuffle(mask, value, lane() + by < 32 ? lane() + by : lane(), file, line);
}
template <class T>
T shuffle_up(unsigned mask, T value, int by, const char* file, int line) {
    return shuffle(mask, value, lane() >= by ? lane() - by : lane(), file, line);
}

}  // namespace medeconv::emulator

#define __syncthreads() medeconv::emulator::barrier(__FILE__, __LINE__)
#define __syncwarp() ((void)medeconv::emulator::exchange(~0u, 0, __FILE__, __LINE__))
#define __shfl_sync(mask, value, lane) medeconv::emulator::shuffle(mask, value, lane, __FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, bits) \
    medeconv::emulator::shuffle(mask, value, medeconv::emulator::lane() ^ (bits), __FILE__, __LINE__)
#define __shfl_down_sync(mask, value, by) medeconv::emulator::shuffle_down(mask, value, by, __FILE__, __LINE__)
#define __shfl_up_sync(mask, value, by) medeconv::emulator::shuffle_up(mask, value, by, __FILE__, __LINE__)

// Of integers only: the order of blocks must not reach a result.
template <class T>
T atomicAdd(T* to, T value) {
    static_assert(std::is_integral_v<T>, "no floating-point atomics");
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class T>
T __ldg(const T* from) { return *from; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline void sincospif(float x, float* s, float* c) {
    *s = float(sin(double(x) * 3.14159265358979323846)), *c = float(cos(double(x) * 3.14159265358979323846));
}
inline void sincospi(double x, double* s, double* c) {
    *s = sin(x * 3.14159265358979323846), *c = cos(x * 3.14159265358979323846);
}
using std::max;
using std::min;
