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
// Ends a buffer whose size nothing else has: a large one goes back to the system at once, as it would only lie there.
void discard_bytes(void* p);
template <class T>
void discard(Buffer<T>& buffer) {
    if (buffer) discard_bytes(buffer.release());
}
size_t cached_bytes();               // held for reuse
void release_cached();               // give them back to the system

}  // namespace medeconv
