#include "gpu.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

namespace medeconv::cuda {
namespace {

std::string megabytes(size_t bytes) { return std::to_string((bytes + 999999) / 1000000) + " MB"; }

void check_allocation(cudaError_t status, size_t bytes) {
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        size_t free = 0, total = 0;
        free_memory(free, total);
        throw OutOfMemory(bytes, free, total);
    }
    check(status, "allocation");
}

}  // namespace

OutOfMemory::OutOfMemory(size_t need, size_t free, size_t total)
    : Failure("GPU memory: " + megabytes(need) + " more are needed, " + megabytes(free) + " of " + megabytes(total) + " are free", 2),
      need(need), free(free), total(total) {}

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // or the next launch would report it again
    throw Failure(std::string(what) + ": " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status), int(status));
}

Devices devices() {
    Devices found{0, 0, 0, {}};
    const cudaError_t status = cudaGetDeviceCount(&found.count);
    if (status != cudaSuccess) {
        found.count = 0;
        found.error = std::string(cudaGetErrorName(status)) + ", " + cudaGetErrorString(status);
        cudaGetLastError();
    }
    if (cudaDriverGetVersion(&found.driver) != cudaSuccess) found.driver = 0;
    if (cudaRuntimeGetVersion(&found.runtime) != cudaSuccess) found.runtime = 0;
    return found;
}

std::string describe_device(int device) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device), "properties of a device");
    return std::string(properties.name) + ", compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor);
}

int device_of(const void* memory) {
    cudaPointerAttributes attributes;
    check(cudaPointerGetAttributes(&attributes, memory), "device of an array");
    if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
        throw std::invalid_argument("expected an array in GPU memory, got a pointer that is no device's");
    return attributes.device;
}

OnDevice::OnDevice(int device) {
    check(cudaGetDevice(&before_), "the current device");
    other_ = device != before_;
    if (other_) check(cudaSetDevice(device), "choice of a device");
}
OnDevice::~OnDevice() {
    if (other_) cudaSetDevice(before_);
}

void allow_shared_bytes(const void* kernel, size_t bytes) {
    static std::shared_mutex busy;
    static std::map<std::pair<const void*, int>, size_t> allowed;  // by kernel and device, the most asked for
    int device = 0;
    check(cudaGetDevice(&device), "the current device");
    {
        const std::shared_lock reading(busy);
        const auto found = allowed.find({kernel, device});
        if (found != allowed.end() && found->second >= bytes) return;
    }
    // Never less than before: a thread that was allowed more may be about to launch.
    const std::unique_lock writing(busy);
    size_t& most = allowed[{kernel, device}];
    if (most >= bytes) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "shared memory of a kernel");
    most = bytes;
}

void* allocate(size_t bytes, Stream stream) {
    void* memory = nullptr;
    check_allocation(cudaMallocAsync(&memory, bytes ? bytes : 1, stream), bytes);
    return memory;
}
void* allocate_lasting(size_t bytes) {
    void* memory = nullptr;
    cudaError_t status = cudaMalloc(&memory, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) {  // what the pool keeps for `allocate` is not cudaMalloc's to take
        cudaGetLastError();
        int device = 0;
        check(cudaGetDevice(&device), "the current device");
        release_kept_memory(device);
        status = cudaMalloc(&memory, bytes ? bytes : 1);
    }
    check_allocation(status, bytes);
    return memory;
}
void release_lasting(void* memory) noexcept {
    if (cudaFree(memory) != cudaSuccess) cudaGetLastError();
}
void release(void* memory, Stream stream) noexcept {
    // At the interpreter's end the driver may be gone: there is nobody left to tell.
    if (cudaFreeAsync(memory, stream) != cudaSuccess) cudaGetLastError();
}
void free_memory(size_t& free, size_t& total) { check(cudaMemGetInfo(&free, &total), "free memory"); }

void keep_freed_memory(int device) {
    cudaMemPool_t pool;
    check(cudaDeviceGetDefaultMemPool(&pool, device), "memory pool");
    unsigned long long most = ~0ull;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &most), "memory pool");
}
void release_kept_memory(int device) {
    cudaMemPool_t pool;
    check(cudaDeviceGetDefaultMemPool(&pool, device), "memory pool");
    unsigned long long reserved = 0;
    check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "memory pool");
    if (!reserved) return;  // a device that nobody uses is not woken
    // What was freed in the order of a stream's work counts as in use until the host has waited for that work.
    const OnDevice on(device);
    check(cudaDeviceSynchronize(), "work of a device");
    check(cudaMemPoolTrimTo(pool, 0), "memory pool");
}
size_t kept_memory(int device) {
    cudaMemPool_t pool;
    check(cudaDeviceGetDefaultMemPool(&pool, device), "memory pool");
    unsigned long long reserved = 0, used = 0;
    check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "memory pool");
    check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), "memory pool");
    return size_t(reserved - used);
}

void* allocate_pinned(size_t bytes) {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, bytes ? bytes : 1), "pinned host memory");
    return memory;
}
void release_pinned(void* memory) noexcept {
    if (cudaFreeHost(memory) != cudaSuccess) cudaGetLastError();
}

namespace {

constexpr size_t slab_bytes = 8 << 20;

// A thread's two slabs of page-locked memory, with events of the device where they were last used.
class Slabs {
public:
    void to_device(void* to, const void* from, size_t bytes, Stream stream) {
        make();
        for (size_t start = 0, turn = 0; start < bytes; start += slab_bytes, turn ^= 1) {
            const size_t part = std::min(slab_bytes, bytes - start);
            wait(turn);
            std::memcpy(slab_[turn], static_cast<const char*>(from) + start, part);
            send(turn, static_cast<char*>(to) + start, slab_[turn], part, cudaMemcpyHostToDevice, stream);
        }
    }
    // Back when all is there.
    void to_host(void* to, const void* from, size_t bytes, Stream stream) {
        make();
        for (size_t start = 0, turn = 0; start < bytes + slab_bytes; start += slab_bytes, turn ^= 1) {
            if (start < bytes) {
                wait(turn);
                const size_t part = std::min(slab_bytes, bytes - start);
                send(turn, slab_[turn], static_cast<const char*>(from) + start, part, cudaMemcpyDeviceToHost, stream);
            }
            if (start == 0) continue;
            const size_t before = start - slab_bytes;
            wait(turn ^ 1);
            std::memcpy(static_cast<char*>(to) + before, slab_[turn ^ 1], std::min(slab_bytes, bytes - before));
        }
    }
    ~Slabs() { drop(); }

private:
    void wait(size_t turn) {
        if (used_[turn]) check(cudaEventSynchronize(done_[turn]), "copy between host and device");
        used_[turn] = false;
    }
    void send(size_t turn, void* to, const void* from, size_t bytes, cudaMemcpyKind kind, Stream stream) {
        check(cudaMemcpyAsync(to, from, bytes, kind, stream), "copy between host and device");
        check(cudaEventRecord(done_[turn], stream), "copy between host and device");
        used_[turn] = true;
    }
    void make() {
        int device = 0;
        check(cudaGetDevice(&device), "the current device");
        if (device == device_) return;
        drop();
        for (int i = 0; i < 2; ++i) {
            slab_[i] = allocate_pinned(slab_bytes);
            check(cudaEventCreateWithFlags(&done_[i], cudaEventDisableTiming), "an event");
        }
        device_ = device;
    }
    void drop() {
        for (int i = 0; i < 2; ++i) {
            if (used_[i]) cudaEventSynchronize(done_[i]);  // a copy may still be reading
            if (slab_[i]) release_pinned(slab_[i]);
            if (done_[i]) cudaEventDestroy(done_[i]);
            slab_[i] = nullptr, done_[i] = nullptr, used_[i] = false;
        }
        device_ = -1;
    }
    int device_ = -1;
    void* slab_[2]{};
    cudaEvent_t done_[2]{};
    bool used_[2]{};
};

thread_local Slabs slabs;

}  // namespace

void copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
    if (bytes >= 2 * slab_bytes && !capturing(stream)) return slabs.to_device(to, from, bytes, stream);
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copy to the device");
}
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
    if (bytes >= 2 * slab_bytes && !capturing(stream)) return slabs.to_host(to, from, bytes, stream);
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copy to the host");
}
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy on the device");
}
void set_zero(void* memory, size_t bytes, Stream stream) { check(cudaMemsetAsync(memory, 0, bytes, stream), "zeros on the device"); }

Stream new_stream() {
    cudaStream_t stream;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a new stream");
    return stream;
}
void delete_stream(Stream stream) noexcept {
    if (cudaStreamDestroy(stream) != cudaSuccess) cudaGetLastError();
}
void synchronize(Stream stream) { check(cudaStreamSynchronize(stream), "work of a stream"); }
bool capturing(Stream stream) {
    cudaStreamCaptureStatus status;
    check(cudaStreamIsCapturing(stream, &status), "state of a stream");
    return status != cudaStreamCaptureStatusNone;
}
void wait_for(Stream waiting, Stream producer) {
    if (waiting == producer) return;
    cudaEvent_t event;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
    cudaError_t status = cudaEventRecord(event, producer);
    if (status == cudaSuccess) status = cudaStreamWaitEvent(waiting, event, 0);
    cudaEventDestroy(event);  // takes effect when it has happened
    check(status, "wait for another stream");
}

struct Graph::State {
    Stream stream;
    cudaGraphExec_t ready = nullptr;
    bool recording = true;
};
Graph::Graph(Stream stream) : state_(new State{stream}) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "start of a graph");
}
Graph::~Graph() {
    if (state_->recording) {  // an error in between: what was recorded is dropped
        cudaGraph_t graph = nullptr;
        if (cudaStreamEndCapture(state_->stream, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
        cudaGetLastError();
    }
    if (state_->ready) cudaGraphExecDestroy(state_->ready);
}
void Graph::finish() {
    cudaGraph_t graph = nullptr;
    state_->recording = false;
    check(cudaStreamEndCapture(state_->stream, &graph), "end of a graph");
    const cudaError_t status = cudaGraphInstantiate(&state_->ready, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "graph");
}
void Graph::run(Stream stream) const { check(cudaGraphLaunch(state_->ready, stream), "run of a graph"); }

}  // namespace medeconv::cuda
