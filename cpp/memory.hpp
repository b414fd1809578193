// Large buffers: 2 MB aligned, on huge pages where the system has them, kept for reuse after release.
// Fresh pages cost more than the arithmetic done on them.
#pragma once
#include <cstddef>
#include <memory>

namespace medeconv {

struct ReleaseBuffer {
    void operator()(void* p) const;
};
template <class T>
using Buffer = std::unique_ptr<T[], ReleaseBuffer>;

void* acquire_bytes(size_t bytes);   // contents undefined; throws std::bad_alloc
template <class T>
Buffer<T> acquire(int64_t elements) {
    return Buffer<T>(static_cast<T*>(acquire_bytes(size_t(elements) * sizeof(T))));
}
size_t cached_bytes();               // held for reuse
void release_cached();               // give them back to the system

}  // namespace medeconv
