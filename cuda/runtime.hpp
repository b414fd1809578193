// What the bindings need of CUDA's runtime, in plain C++: devices, memory, copies, streams, graphs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

struct CUstream_st;

namespace medeconv::cuda {

using Stream = CUstream_st*;  // cudaStream_t; null: the default stream of the current device

class Failure : public std::runtime_error {
public:
    Failure(const std::string& message, int status) : std::runtime_error(message), status(status) {}
    int status;  // cudaError_t
};
class OutOfMemory : public Failure {
public:
    OutOfMemory(size_t need, size_t free, size_t total);
    size_t need, free, total;  // bytes
};

struct Devices {
    int count;            // 0 where `error` says why
    int driver, runtime;  // versions, 1000 · major + 10 · minor; driver 0: there is none
    std::string error;    // name and text of CUDA's error, or empty
};
Devices devices();  // never throws
std::string describe_device(int device);
int device_of(const void* memory);                     // throws std::invalid_argument where it is no device's

// Makes `device` the calling thread's, until the guard is gone.
class OnDevice {
public:
    explicit OnDevice(int device);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;

private:
    int before_ = 0;
    bool other_ = false;
};

void* allocate(size_t bytes, Stream stream);           // ordered with the stream's work, as is release
void release(void* memory, Stream stream) noexcept;
void* allocate_lasting(size_t bytes);                  // for work of any stream
void release_lasting(void* memory) noexcept;           // waits for all work of the device
void free_memory(size_t& free, size_t& total);
void keep_freed_memory(int device);                    // for later allocations, until release_kept_memory
void release_kept_memory(int device);                  // waits for all work of the device; blocks that hold an allocation stay
size_t kept_memory(int device);                        // bytes of the pool's blocks that no allocation takes

void* allocate_pinned(size_t bytes);                   // host memory that copies reach while kernels run
void release_pinned(void* memory) noexcept;

// Large arrays go in slabs through page-locked memory: one is filled (emptied) while another is on its way. `from` may be changed
// when the call is back.
void copy_to_device(void* to, const void* from, size_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream);    // `to` is valid after synchronize
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream);
void set_zero(void* memory, size_t bytes, Stream stream);

Stream new_stream();
void delete_stream(Stream stream) noexcept;
void synchronize(Stream stream);
bool capturing(Stream stream);
void wait_for(Stream waiting, Stream producer);        // later work of `waiting` follows what `producer` has been given

// The work that a stream is given between construction and `finish`, to be repeated with one call.
class Graph {
public:
    explicit Graph(Stream stream);
    ~Graph();
    Graph(const Graph&) = delete;
    void finish();
    void run(Stream stream) const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace medeconv::cuda
