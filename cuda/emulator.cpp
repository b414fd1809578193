// Fibres, their scheduler, and the runtime. Compiled without ThreadSanitizer's checks: what happens here is not the kernels'
// doing; its fibres and what orders them are told to it by name.
#include "emulator.hpp"

#include <sys/mman.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(MEDECONV_EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace medeconv::emulator {
namespace {

std::string option(const char* name) {
    const char* value = getenv(name);
    return value ? value : "";
}

// ---- Fibres: a stack each, and what has to be kept to go on.

constexpr size_t stack_bytes = 256 << 10;

struct Fibre {
    char* stack = nullptr;
#if defined(__x86_64__)
    void* pointer = nullptr;
#else
    ucontext_t context;
#endif
    void* asan = nullptr;  // AddressSanitizer's own stack for it
    void* tsan = nullptr;
};

#if defined(__x86_64__)
// Saves the registers that a call must keep on the stack that is left, and takes those of the one that is entered.
extern "C" void medeconv_switch(void** leave, void* enter);
asm(R"(.text
.globl medeconv_switch
.hidden medeconv_switch
.type medeconv_switch,@function
medeconv_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size medeconv_switch, .-medeconv_switch
)");
#endif

enum class State : uint8_t { fresh, ready, at_barrier, in_warp, done };

constexpr int masks_at_once = 8;  // of a warp, in one block

struct Meeting {  // of the lanes of a mask
    unsigned mask = 0, arrived = 0, round = 0;
    const char* file = nullptr;
    int line = 0;
    uint64_t values[2][32];
};
struct Thread {
    Fibre* fibre = nullptr;
    State state = State::fresh;
    uint3 index{};
    const char* file = nullptr;  // where it waits
    int line = 0;
    Meeting* meeting = nullptr;
};

struct Broken : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// One block at a time.
struct Machine {
    std::recursive_mutex busy;
    std::vector<Thread> threads;
    std::vector<Fibre*> fibres;                      // kept from block to block
    std::vector<Meeting> meetings;                   // masks_at_once for each warp; nothing is allocated in a fibre
    std::vector<unsigned> order;
    const std::function<void()>* body = nullptr;
    Fibre scheduler;
    const void* scheduler_stack = nullptr;
    size_t scheduler_size = 0;
    unsigned current = 0, alive = 0, waiting = 0;
    const char* barrier_file = nullptr;
    int barrier_line = 0;
    unsigned barriers = 0;                           // passed by the block
    std::string error;
    char* shared = nullptr;
    uint64_t random = 1;
    char start, end, barrier[2];                     // names for ThreadSanitizer
};
Machine machine;

void released([[maybe_unused]] void* what) {
#if defined(MEDECONV_EMULATOR_TSAN)
    __tsan_release(what);
#endif
}
void acquired([[maybe_unused]] void* what) {
#if defined(MEDECONV_EMULATOR_TSAN)
    __tsan_acquire(what);
#endif
}

void switch_to(Fibre& from, Fibre& to) {
#if defined(MEDECONV_EMULATOR_TSAN)
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
    const bool back = &to == &machine.scheduler;
    __sanitizer_start_switch_fiber(&from.asan, back ? machine.scheduler_stack : to.stack, back ? machine.scheduler_size : stack_bytes);
#endif
#if defined(__x86_64__)
    medeconv_switch(&from.pointer, to.pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.asan, nullptr, nullptr);
#endif
}

void run_kernel_as_current() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack, &machine.scheduler_size);
#endif
    for (;;) {  // once for each block
        acquired(&machine.start);
        (*machine.body)();
        released(&machine.end);
        Thread& thread = machine.threads[machine.current];
        thread.state = State::done;
        --machine.alive;
        switch_to(*thread.fibre, machine.scheduler);
    }
}

Fibre* new_fibre() {
    auto* fibre = new Fibre;
    void* memory = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    fibre->stack = static_cast<char*>(memory);
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(fibre->stack + stack_bytes);
    *--top = nullptr;  // as if called: the stack is off by one word
    *--top = reinterpret_cast<void*>(&run_kernel_as_current);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fibre->pointer = top;
#else
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = fibre->stack, fibre->context.uc_stack.ss_size = stack_bytes;
    makecontext(&fibre->context, run_kernel_as_current, 0);
#endif
#if defined(MEDECONV_EMULATOR_TSAN)
    fibre->tsan = __tsan_create_fiber(0);
#endif
    return fibre;
}
void drop_fibres() {  // after an error: they stand somewhere inside a kernel
    for (Fibre* fibre : machine.fibres) {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(fibre->stack, stack_bytes);  // others may be given these pages
#endif
        munmap(fibre->stack, stack_bytes);
#if defined(MEDECONV_EMULATOR_TSAN)
        __tsan_destroy_fiber(fibre->tsan);
#endif
        delete fibre;
    }
    machine.fibres.clear();
}

std::string place(const char* file, int line) {
    const char* name = strrchr(file, '/');
    return std::string(name ? name + 1 : file) + ":" + std::to_string(line);
}
std::string triple(uint3 i) { return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")"; }

// Inside a kernel: the block ends here.
[[noreturn]] void fail(const std::string& message) {
    Thread& thread = machine.threads[machine.current];
    if (machine.error.empty()) machine.error = message + " [block " + triple(blockIdx) + ", thread " + triple(thread.index) + "]";
    released(&machine.end);
    for (;;) switch_to(*thread.fibre, machine.scheduler);
}
void wait_as(State state, const char* file, int line) {
    Thread& thread = machine.threads[machine.current];
    thread.state = state, thread.file = file, thread.line = line;
    released(&machine.end);  // it may never come back
    switch_to(*thread.fibre, machine.scheduler);
}

// ---- The scheduler.

enum class Order { forward, reverse, random };
Order chosen_order() {
    const std::string text = option("MEDECONV_EMULATOR_ORDER");
    if (text.empty() || text == "forward") return Order::forward;
    if (text == "reverse") return Order::reverse;
    if (text.rfind("random", 0) != 0) throw Broken("MEDECONV_EMULATOR_ORDER: expected forward, reverse or random[:seed]");
    if (text.size() > 7) machine.random = strtoull(text.c_str() + 7, nullptr, 10) * 2 + 1;
    return Order::random;
}
template <class I>
void arrange(std::vector<I>& order, size_t count, Order how) {
    order.resize(count);
    for (size_t i = 0; i < count; ++i) order[i] = I(how == Order::reverse ? count - 1 - i : i);
    if (how != Order::random) return;
    for (size_t i = count; i > 1; --i) {
        machine.random = machine.random * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(order[i - 1], order[(machine.random >> 33) % i]);
    }
}

void run_block(dim3 size, Order how) {
    Machine& m = machine;
    const unsigned count = size.x * size.y * size.z;
    m.threads.assign(count, {});
    for (Meeting& meeting : m.meetings) meeting.mask = meeting.arrived = meeting.round = 0;
    m.alive = count, m.waiting = 0, m.barriers = 0, m.barrier_file = nullptr;
    size_t first = 0;
#if defined(MEDECONV_EMULATOR_TSAN)
    // What the fibre itself did before is in order for ThreadSanitizer: neighbouring blocks take different ones.
    first = (blockIdx.x + blockIdx.y + blockIdx.z) % 2 * 1024;
#endif
    while (m.fibres.size() < first + count) m.fibres.push_back(new_fibre());
    for (unsigned i = 0; i < count; ++i) {
        m.threads[i].fibre = m.fibres[first + i];
        m.threads[i].index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    }
    arrange(m.order, count, how);
    while (m.alive && m.error.empty()) {
        bool moved = false;
        for (size_t k = 0; k < count && m.error.empty(); ++k) {
            Thread& thread = m.threads[m.order[k]];
            if (thread.state > State::ready) continue;
            moved = true;
            thread.state = State::ready;
            m.current = m.order[k];
            threadIdx = thread.index;
            switch_to(m.scheduler, *thread.fibre);
        }
        if (!m.error.empty() || !m.alive) break;
        if (m.waiting == m.alive) {
            if (m.alive != count) {
                m.error = "threads returned before the barrier at " + place(m.barrier_file, m.barrier_line) + " [block " + triple(blockIdx) + "]";
                break;
            }
            ++m.barriers, m.waiting = 0, m.barrier_file = nullptr;
            for (Thread& thread : m.threads) thread.state = State::ready;
            if (how == Order::random) arrange(m.order, count, how);
        } else if (!moved) {
            m.error = "no thread can go on:";
            int shown = 0;
            for (const Thread& thread : m.threads)
                if (thread.state != State::done && shown++ < 4) m.error += " thread " + triple(thread.index) + " waits at " + place(thread.file, thread.line) + ";";
        }
    }
}

// Shared memory, full of NaN, for one block after the other. Under ThreadSanitizer each block has its own until the grid's end:
// reuse would need an order between blocks.
class SharedMemory {
public:
    SharedMemory([[maybe_unused]] uint64_t blocks, size_t bytes) : bytes_(bytes) {
        if (!bytes) return;
#if defined(MEDECONV_EMULATOR_TSAN)
        memory_.resize(blocks);
#else
        memory_.resize(1);
#endif
        for (void*& memory : memory_) {
            if (posix_memalign(&memory, 128, bytes)) throw std::bad_alloc();
            memset(memory, 0xff, bytes);
        }
    }
    char* of(uint64_t block) {
        if (!bytes_) return nullptr;
        void* const memory = memory_[block % memory_.size()];
#if !defined(MEDECONV_EMULATOR_TSAN)
        memset(memory, 0xff, bytes_);
#endif
        return static_cast<char*>(memory);
    }
    ~SharedMemory() {
        for (void* memory : memory_) free(memory);
    }

private:
    size_t bytes_;
    std::vector<void*> memory_;
};

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
    Machine& m = machine;
    const std::lock_guard<std::recursive_mutex> lock(m.busy);
    m.body = &body;
    m.error.clear();
    gridDim = grid, blockDim = block;
#if defined(MEDECONV_EMULATOR_TSAN)
    m.scheduler.tsan = __tsan_get_current_fiber();
#endif
    const Order how = chosen_order();
    std::vector<uint64_t> order;
    arrange(order, uint64_t(grid.x) * grid.y * grid.z, how);
    SharedMemory shared(order.size(), shared_bytes);
    m.meetings.resize((block.x * block.y * block.z + 31) / 32 * masks_at_once);  // kernels read them: before they start
    released(&m.start);
    for (const uint64_t i : order) {
        blockIdx = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
        m.shared = shared.of(i);
        run_block(block, how);
        if (!m.error.empty()) break;
    }
    acquired(&m.end);
    if (m.error.empty()) return;
    drop_fibres();
    throw Broken(m.error);
}

}  // namespace

void* shared_memory() { return machine.shared; }

void barrier(const char* file, int line) {
    Machine& m = machine;
    if (m.barrier_file && (m.barrier_line != line || strcmp(m.barrier_file, file)))
        fail("a barrier at " + place(file, line) + " while others wait at " + place(m.barrier_file, m.barrier_line));
    m.barrier_file = file, m.barrier_line = line, ++m.waiting;
    void* name = &m.barrier[m.barriers & 1];
    released(name);
    wait_as(State::at_barrier, file, line);
    acquired(name);
}

int lane() { return int(machine.current & 31); }

const uint64_t* exchange(unsigned mask, uint64_t value, const char* file, int line) {
    Machine& m = machine;
    const unsigned first = m.current & ~31u, count = unsigned(m.threads.size());
    const unsigned there = count - first >= 32 ? ~0u : (1u << (count - first)) - 1;
    if (mask & ~there) fail("a mask names lanes that the block does not have, at " + place(file, line));
    if (!(mask >> lane() & 1)) fail("a lane outside its own mask, at " + place(file, line));
    Meeting *met = &m.meetings[first / 32 * masks_at_once], *const stop = met + masks_at_once;
    while (met < stop && met->mask && met->mask != mask) ++met;
    if (met == stop) fail("a warp uses more masks than the emulator knows, at " + place(file, line));
    met->mask = mask;
    if (met->arrived && (met->line != line || strcmp(met->file, file)))
        fail("a warp meets at " + place(file, line) + " and at " + place(met->file, met->line));
    met->file = file, met->line = line;
    uint64_t* values = met->values[met->round & 1];
    values[lane()] = value;
    met->arrived |= 1u << lane();
    released(values);
    if (met->arrived == mask) {
        met->arrived = 0, ++met->round;
        for (unsigned i = 0; i < 32; ++i)
            if (mask >> i & 1) {
                Thread& other = m.threads[first + i];
                if (other.state == State::in_warp && other.meeting == met) other.state = State::ready;
            }
    } else {
        m.threads[m.current].meeting = met;
        wait_as(State::in_warp, file, line);
    }
    acquired(values);
    return values;
}
void expect_lane(unsigned mask, int lane, const char* file, int line) {
    if (lane < 0 || lane > 31 || !(mask >> lane & 1)) fail("a shuffle reads a lane outside its mask, at " + place(file, line));
}

}  // namespace medeconv::emulator

// ---- The runtime: streams are queues, device memory is the host's.

struct CUevent_st {
    int device;
    bool happened = true;
    cudaStream_t stream = nullptr;
    int users = 1;
};
struct CUgraph_st {
    std::vector<std::function<void()>> work;
};
struct CUstream_st {
    int device = 0;
    std::deque<std::function<void()>> queue;  // what lazy streams have not done yet
    CUgraph_st* recording = nullptr;
    size_t freed = 0;  // bytes, since the host last asked to wait
};

namespace {

using medeconv::emulator::option;

constexpr int most_devices = 8;
std::array<CUstream_st, most_devices> default_streams;
thread_local int current_device = 0;
std::vector<cudaStream_t> streams;  // in the order of their making
std::recursive_mutex runtime_busy;
cudaError_t latest = cudaSuccess;
std::string latest_text;
struct Allocation {
    size_t bytes;
    int device;
    bool pooled;
};
std::map<void*, Allocation> allocated;
std::array<size_t, most_devices> in_use{}, kept{};  // by whoever allocates; by the pool, of what was freed
std::map<void*, size_t> pinned;
std::map<const void*, int> shared_allowed;
thread_local int recordings = 0;  // those of other threads do not stand in the way

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t failed(cudaError_t status, const std::string& text) {
    latest_text = text;
    return latest = status;
}
// 1 and 2 are CUDA's names of the default streams.
cudaStream_t resolved(cudaStream_t stream) {
    if (reinterpret_cast<uintptr_t>(stream) > 2) return stream;
    CUstream_st& own = default_streams[size_t(current_device)];
    own.device = current_device;
    return &own;
}
int device_count() {
    const std::string text = option("MEDECONV_EMULATOR_DEVICES");
    return text.empty() ? 1 : std::min(most_devices, atoi(text.c_str()));
}
// What CUDA refuses: a kernel for a stream of another device than the thread's.
cudaError_t on_current_device(cudaStream_t stream, const char* what) {
    if (resolved(stream)->device == current_device) return cudaSuccess;
    return failed(cudaErrorInvalidResourceHandle, std::string(what) + " for a stream of device " + std::to_string(resolved(stream)->device) +
                  ", the current one is " + std::to_string(current_device));
}

cudaError_t run_now(const std::function<void()>& work) {
    try {
        work();
    } catch (const std::exception& error) {
        return failed(cudaErrorLaunchFailure, error.what());
    }
    return cudaSuccess;
}
cudaError_t drain(cudaStream_t stream) {
    while (!stream->queue.empty()) {
        const std::function<void()> work = std::move(stream->queue.front());
        stream->queue.pop_front();
        if (const cudaError_t status = run_now(work)) return status;
    }
    return cudaSuccess;
}
cudaError_t drain_all() {
    for (size_t i = streams.size(); i > 0; --i)
        if (const cudaError_t status = drain(streams[i - 1])) return status;
    for (CUstream_st& stream : default_streams)
        if (const cudaError_t status = drain(&stream)) return status;
    return cudaSuccess;
}
cudaError_t enqueue(cudaStream_t given, std::function<void()> work) {
    const Lock lock(runtime_busy);
    const cudaStream_t stream = resolved(given);
    if (stream->recording) stream->recording->work.push_back(std::move(work));
    else if (option("MEDECONV_EMULATOR_STREAMS") == "lazy") stream->queue.push_back(std::move(work));
    else return run_now(work);
    return cudaSuccess;
}
cudaError_t not_while_recording(const char* what) {
    return recordings ? failed(cudaErrorStreamCaptureUnsupported, std::string(what) + " while a graph is recorded") : cudaSuccess;
}
bool is_pinned(const void* memory) {
    auto after = pinned.upper_bound(const_cast<void*>(memory));
    if (after == pinned.begin()) return false;
    --after;
    return static_cast<const char*>(memory) < static_cast<const char*>(after->first) + after->second;
}
size_t device_bytes() {
    const std::string text = option("MEDECONV_EMULATOR_MEMORY");
    return text.empty() ? size_t(16) << 30 : size_t(strtoull(text.c_str(), nullptr, 10));
}
// What the pool keeps of a device: no more than there is, where a test has made the device smaller.
size_t& pool_of(int device) {
    const size_t used = in_use[size_t(device)];
    size_t& bytes = kept[size_t(device)];
    bytes = std::min(bytes, device_bytes() - std::min(used, device_bytes()));
    return bytes;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t status) {
    switch (status) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    default: return "cudaErrorInvalidValue";
    }
}
const char* cudaGetErrorString(cudaError_t status) { return status == cudaSuccess ? "no error" : latest_text.c_str(); }
cudaError_t cudaGetLastError() { return std::exchange(latest, cudaSuccess); }
cudaError_t cudaGetDeviceCount(int* count) { return *count = device_count(), cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    *properties = {"emulator", 0, 0, 1, 227 << 10};
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) { return *device = current_device, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidValue, "no device " + std::to_string(device));
    return current_device = device, cudaSuccess;
}

namespace {
cudaError_t allocated_on(int device, void** memory, size_t bytes, bool pooled) {
    const Lock lock(runtime_busy);
    *memory = nullptr;
    if (const cudaError_t status = not_while_recording("an allocation")) return status;
    size_t &used = in_use[size_t(device)], &spare = pool_of(device);
    const size_t taken = used + (pooled ? 0 : spare);  // what the pool keeps is for its own allocations
    if (bytes > device_bytes() - std::min(taken, device_bytes())) return failed(cudaErrorMemoryAllocation, "out of memory");
    if (posix_memalign(memory, 256, bytes ? bytes : 1)) return failed(cudaErrorMemoryAllocation, "out of memory");
    memset(*memory, 0xff, bytes);  // NaN
    allocated[*memory] = {bytes, device, pooled}, used += bytes;
    if (pooled) spare -= std::min(spare, bytes);
    return cudaSuccess;
}
cudaError_t give_back(void* memory) {
    const auto found = allocated.find(memory);
    if (found == allocated.end()) return failed(cudaErrorInvalidValue, "freed what was never allocated");
    const Allocation gone = found->second;
    in_use[size_t(gone.device)] -= gone.bytes;
    if (gone.pooled) kept[size_t(gone.device)] += gone.bytes;
    allocated.erase(found);
    free(memory);
    return cudaSuccess;
}
}  // namespace
cudaError_t cudaMalloc(void** memory, size_t bytes) { return allocated_on(current_device, memory, bytes, false); }
cudaError_t cudaFree(void* memory) {
    const Lock lock(runtime_busy);
    if (!memory) return cudaSuccess;
    if (const cudaError_t status = not_while_recording("memory freed")) return status;
    if (const cudaError_t status = drain_all()) return status;  // as a device does
    return give_back(memory);
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
    return allocated_on(resolved(stream)->device, memory, bytes, true);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
    const Lock lock(runtime_busy);
    *attributes = {cudaMemoryTypeUnregistered, -2};
    auto after = allocated.upper_bound(const_cast<void*>(memory));
    if (after == allocated.begin()) return cudaSuccess;
    --after;
    if (static_cast<const char*>(memory) < static_cast<const char*>(after->first) + std::max<size_t>(after->second.bytes, 1))
        *attributes = {cudaMemoryTypeDevice, after->second.device};
    return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
    const Lock lock(runtime_busy);
    if (resolved(stream)->recording) return not_while_recording("memory freed");
    return enqueue(stream, [memory, freed_on = resolved(stream)] {
        const auto found = allocated.find(memory);
        if (found != allocated.end()) freed_on->freed += found->second.bytes;
        give_back(memory);
    });
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
    const Lock lock(runtime_busy);
    if (posix_memalign(memory, 4096, bytes)) return failed(cudaErrorMemoryAllocation, "out of host memory");
    pinned[*memory] = bytes;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
    const Lock lock(runtime_busy);
    pinned.erase(memory);
    return free(memory), cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    const Lock lock(runtime_busy);
    *total = device_bytes();
    *free = *total - std::min(in_use[size_t(current_device)] + pool_of(current_device), *total);
    return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) { return *pool = device, cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t device, cudaMemPoolAttr attribute, void* value) {
    const Lock lock(runtime_busy);
    unsigned long long bytes = 0;
    for (const auto& [memory, allocation] : allocated)
        if (allocation.pooled && allocation.device == device) bytes += allocation.bytes;
    if (attribute == cudaMemPoolAttrReservedMemCurrent) bytes += pool_of(device);
    *static_cast<unsigned long long*>(value) = bytes;
    return cudaSuccess;
}
// Memory whose giving back the host has not waited for counts as in use, as CUDA's manual has it.
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t device, size_t) {
    const Lock lock(runtime_busy);
    size_t unseen = 0;
    for (const cudaStream_t stream : streams) unseen += stream->device == device ? stream->freed : 0;
    unseen += default_streams[size_t(device)].freed;
    pool_of(device) = std::min(pool_of(device), unseen);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    const Lock lock(runtime_busy);
    const void* host = kind == cudaMemcpyHostToDevice ? from : kind == cudaMemcpyDeviceToHost ? to : nullptr;
    const cudaError_t status = enqueue(stream, [=] { memmove(to, from, bytes); });
    const bool waits = host && !is_pinned(host) && !resolved(stream)->recording;  // copies of pageable memory do
    return status == cudaSuccess && waits ? drain(resolved(stream)) : status;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
    return enqueue(stream, [=] { memset(memory, value, bytes); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    const Lock lock(runtime_busy);
    streams.push_back(*stream = new CUstream_st{current_device, {}, nullptr, 0});
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const Lock lock(runtime_busy);
    const cudaError_t status = drain(stream);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return status;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const Lock lock(runtime_busy);
    if (resolved(stream)->recording) return not_while_recording("a wait");
    const cudaError_t status = drain(resolved(stream));
    resolved(stream)->freed = 0;
    return status;
}
cudaError_t cudaDeviceSynchronize() {
    const Lock lock(runtime_busy);
    if (const cudaError_t status = not_while_recording("a wait")) return status;
    const cudaError_t status = drain_all();
    for (const cudaStream_t stream : streams) stream->freed = 0;
    for (CUstream_st& stream : default_streams) stream.freed = 0;
    return status;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = resolved(stream)->recording ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    const Lock lock(runtime_busy);
    if (!stream) return failed(cudaErrorStreamCaptureUnsupported, "the default stream cannot be recorded");
    if (stream->recording) return failed(cudaErrorInvalidValue, "recorded already");
    stream->recording = new CUgraph_st;
    ++recordings;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const Lock lock(runtime_busy);
    if (!stream || !stream->recording) return failed(cudaErrorInvalidValue, "nothing is recorded");
    --recordings;
    *graph = std::exchange(stream->recording, nullptr);
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = new CUevent_st{current_device, true, nullptr, 1}, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const Lock lock(runtime_busy);
    if (--event->users == 0) delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const Lock lock(runtime_busy);
    if (event->device != resolved(stream)->device)
        return failed(cudaErrorInvalidResourceHandle, "an event of another device than its stream's");
    event->happened = false, event->stream = resolved(stream), ++event->users;
    return enqueue(stream, [event] {
        event->happened = true;
        cudaEventDestroy(event);
    });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const Lock lock(runtime_busy);
    if (const cudaError_t status = not_while_recording("a wait")) return status;
    return event->happened ? cudaSuccess : drain(event->stream);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const Lock lock(runtime_busy);
    ++event->users;
    return enqueue(stream, [event] {
        while (!event->happened && !event->stream->queue.empty()) {
            const std::function<void()> work = std::move(event->stream->queue.front());
            event->stream->queue.pop_front();
            work();
        }
        cudaEventDestroy(event);
    });
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
    return *ready = new CUgraph_st(*graph), cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t stream) {
    if (const cudaError_t status = on_current_device(stream, "a graph")) return status;
    for (const auto& work : ready->work)
        if (const cudaError_t status = enqueue(stream, work)) return status;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
    const Lock lock(runtime_busy);
    if (bytes > 227 << 10) return failed(cudaErrorInvalidValue, "more shared memory than a block can have");
    shared_allowed[kernel] = bytes;  // as on a GPU, less than before too
    return cudaSuccess;
}

namespace medeconv::emulator {

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, std::function<void()> body) {
    {
        const Lock lock(runtime_busy);
        if (const cudaError_t status = on_current_device(stream, "a kernel")) return status;
        const auto found = shared_allowed.find(kernel);
        const size_t most = std::max<size_t>(48 << 10, found == shared_allowed.end() ? 0 : size_t(found->second));
        const uint64_t threads = uint64_t(block.x) * block.y * block.z;
        if (threads == 0 || threads > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 ||
            grid.z > 65535 || shared_bytes > most)
            return failed(cudaErrorInvalidConfiguration, "grid " + triple({grid.x, grid.y, grid.z}) + ", block " +
                          triple({block.x, block.y, block.z}) + ", " + std::to_string(shared_bytes) + " bytes of shared memory");
    }
    return enqueue(stream, [=] { run_grid(grid, block, shared_bytes, body); });
}

}  // namespace medeconv::emulator
