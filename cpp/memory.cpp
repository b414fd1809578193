#include "memory.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>

namespace medeconv {
namespace {

constexpr size_t huge_page = size_t(2) << 20;
constexpr size_t cache_limit = size_t(1) << 30;   // kept beyond what is in use

struct Cache {
    std::mutex mutex;
    std::multimap<size_t, void*> free;            // size -> address
    std::unordered_map<void*, size_t> size;       // every live or cached buffer
    size_t cached = 0;
};
Cache* cache = new Cache;                         // never destroyed: buffers may outlive static objects

// The lock is taken over the fork, so that the child's copy is consistent and unlocked.
[[maybe_unused]] const int at_fork = pthread_atfork([] { cache->mutex.lock(); }, [] { cache->mutex.unlock(); },
                                                    [] { cache->mutex.unlock(); });

// Sizes in large steps, so that buffers of nearly the same size serve one another.
size_t rounded(size_t bytes) {
    const size_t unit = bytes >= huge_page ? huge_page : size_t(4096);
    return (bytes + unit - 1) / unit * unit;
}

// A few megabytes end in small pages, of which those beyond the bytes wanted stay untouched, not in a huge page that
// is mostly empty.
void* map_bytes(size_t bytes, size_t wanted) {
    if (bytes < huge_page) {
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) throw std::bad_alloc();
        return p;
    }
    const size_t total = bytes + huge_page;
    char* p = static_cast<char*>(mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (p == MAP_FAILED) throw std::bad_alloc();
    char* aligned = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + huge_page - 1) / huge_page * huge_page);
    if (aligned > p) munmap(p, size_t(aligned - p));
    if (aligned + bytes < p + total) munmap(aligned + bytes, size_t(p + total - (aligned + bytes)));
    const size_t huge = bytes >= 8 * huge_page ? bytes : wanted / huge_page * huge_page;
    madvise(aligned, huge, MADV_HUGEPAGE);
    return aligned;
}

}  // namespace

void* acquire_bytes(size_t wanted) {
    const size_t bytes = rounded(wanted ? wanted : 1);
    std::lock_guard lock(cache->mutex);
    // A buffer up to a quarter larger will do.
    auto found = cache->free.lower_bound(bytes);
    if (found != cache->free.end() && found->first <= bytes + bytes / 4) {
        void* p = found->second;
        cache->cached -= found->first;
        cache->free.erase(found);
        return p;
    }
    void* p = map_bytes(bytes, wanted);
    cache->size.emplace(p, bytes);
    return p;
}

void ReleaseBuffer::operator()(void* p) const {
    if (!p) return;
    std::lock_guard lock(cache->mutex);
    const size_t bytes = cache->size.at(p);
    if (cache->cached + bytes <= cache_limit) {
        cache->free.emplace(bytes, p);
        cache->cached += bytes;
        return;
    }
    cache->size.erase(p);
    munmap(p, bytes);
}

void discard_bytes(void* p) {
    std::unique_lock lock(cache->mutex);
    const auto found = cache->size.find(p);
    if (found->second < huge_page) {
        lock.unlock();
        ReleaseBuffer()(p);
        return;
    }
    munmap(p, found->second);
    cache->size.erase(found);
}

size_t cached_bytes() {
    std::lock_guard lock(cache->mutex);
    return cache->cached;
}

void release_cached() {
    std::lock_guard lock(cache->mutex);
    for (auto [bytes, p] : cache->free) {
        cache->size.erase(p);
        munmap(p, bytes);
    }
    cache->free.clear();
    cache->cached = 0;
}

}  // namespace medeconv
