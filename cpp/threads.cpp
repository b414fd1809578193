#include "threads.hpp"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace medeconv {
namespace {

class FlushDenormals {  // for the current thread, until destroyed
public:
#if defined(__x86_64__) || defined(__i386__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
    ~FlushDenormals() { _mm_setcsr(saved_); }
private:
    unsigned saved_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" : : "r"(saved_ | (uint64_t(1) << 24)));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
private:
    uint64_t saved_;
#endif
};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Passes of a sweep follow each other within microseconds, and layers of a network within tens of them; to wake a thread that
// sleeps takes as long, on a virtual machine longer. Measured: with `patience` layers of a millisecond are 2 to 10 % faster,
// and ten times as much changes no more. But where threads wait for processors, one that spins keeps another from its work:
// a helper is patient only after `enough` waits in a row that were short.
using Clock = std::chrono::steady_clock;
constexpr std::chrono::microseconds patience{200}, impatience{20};
constexpr int enough = 8;

// Until `ready`, or for so long.
template <class Ready>
bool spin_until(const Ready& ready, std::chrono::microseconds most) {
    const auto end = Clock::now() + most;
    do {
        for (int i = 0; i < 64; ++i) {
            if (ready()) return true;
            relax();
        }
    } while (Clock::now() < end);
    return ready();
}

// Where a thread may run. A thread inherits that from the one that started it, so the pool's workers would stay where
// the first caller was, while a later caller may have been moved (taskset, a batch system, os.sched_setaffinity).
#ifdef __linux__
class Affinity {
public:
    void read() { known_ = sched_getaffinity(0, sizeof set_, &set_) == 0; }  // fails beyond 1024 processors: left alone
    void apply() const { if (known_) sched_setaffinity(0, sizeof set_, &set_); }
    bool operator!=(const Affinity& other) const {
        return known_ && !(other.known_ && CPU_EQUAL(&set_, &other.set_));
    }
private:
    cpu_set_t set_;
    bool known_ = false;
};
#else
struct Affinity {
    void read() {}
    void apply() const {}
    bool operator!=(const Affinity&) const { return false; }
};
#endif

// Looked up at most every 10 ms: a small sweep takes as long as a few system calls.
const Affinity& of_this_caller() {
    thread_local Affinity latest;
    thread_local Clock::time_point when{};
    const auto now = Clock::now();
    if (now - when > std::chrono::milliseconds(10)) {
        latest.read();
        when = now;
    }
    return latest;
}

void name_this_thread() {  // so that /proc, top and debuggers show whose it is
#ifdef __linux__
    pthread_setname_np(pthread_self(), "medeconv");
#elif defined(__APPLE__)
    pthread_setname_np("medeconv");
#endif
}

// Threads that are inside parallel_for now, whatever they run on. Started anew in a forked child, as the pool.
std::atomic<int> callers{0};

struct Caller {
    Caller() { callers.fetch_add(1, std::memory_order_relaxed); }
    ~Caller() { callers.fetch_sub(1, std::memory_order_relaxed); }
};

struct Job {
    int64_t units;
    int threads;  // that were asked for; there may be fewer units
    const std::function<void(int64_t, int)>* body;
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
    std::exception_ptr error;
    std::mutex error_mutex;

    // Poll only on the calling thread, and not so often that it costs.
    void work(int worker, const Poll* poll) {
        FlushDenormals flush;
        auto last = Clock::now();
        while (!stop.load(std::memory_order_relaxed)) {
            // Every further caller works on its own thread: as many helpers make room for it, between two units.
            if (worker >= 1 && worker + callers.load(std::memory_order_relaxed) > threads) return;
            int64_t unit = next.fetch_add(1, std::memory_order_relaxed);
            if (unit >= units) return;
            try {
                (*body)(unit, worker);
            } catch (...) {
                std::lock_guard lock(error_mutex);
                if (!error) error = std::current_exception();
                stop = true;
                return;
            }
            if (poll && *poll) {
                auto now = Clock::now();
                if (now - last > std::chrono::milliseconds(50)) {
                    last = now;
                    if ((*poll)()) {
                        stop = true;
                        std::lock_guard lock(error_mutex);
                        if (!error) error = std::make_exception_ptr(Interrupted());
                    }
                }
            }
        }
    }
};

class Pool {
public:
    std::mutex busy;  // held by the caller whose job runs

    void run(Job& job, const Poll& poll) {
        const int threads = int(std::min(int64_t(job.threads), job.units));
        const Affinity where = of_this_caller();
        {
            std::lock_guard lock(mutex_);
            while (int(workers_) < threads - 1) {
                std::thread([this, id = int(workers_) + 1] { serve(id); }).detach();
                ++workers_;
            }
            job_ = &job;
            wanted_ = threads - 1;
            where_ = where;
            ticket_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        job.work(0, &poll);
        {
            std::lock_guard lock(mutex_);
            job_ = nullptr;  // a worker that wakes only now has missed it
        }
        const auto all_done = [&] { return running_.load(std::memory_order_acquire) == 0; };
        if (!spin_until(all_done, patience)) {
            std::unique_lock lock(mutex_);
            done_.wait(lock, all_done);
        }
    }

private:
    void serve(int id) {
        uint64_t seen = 0;
        bool worked = false;
        int short_waits = 0;
        Affinity here, wanted_here;
        here.read();
        name_this_thread();
        for (;;) {
            const auto called = [&] { return ticket_.load(std::memory_order_acquire) != seen; };
            const auto begun = Clock::now();
            if (worked) spin_until(called, short_waits < enough ? impatience : patience);
            Job* job;
            bool mine;
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, called);
                seen = ticket_.load(std::memory_order_acquire);
                job = job_;
                mine = job != nullptr && id <= wanted_;
                if (mine) running_.fetch_add(1, std::memory_order_relaxed);
                wanted_here = where_;
            }
            worked = mine;
            short_waits = Clock::now() - begun < patience ? std::min(short_waits + 1, enough) : 0;
            if (!mine) continue;
            if (wanted_here != here) {
                wanted_here.apply();
                here = wanted_here;
            }
            job->work(id, nullptr);
            if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                std::lock_guard lock(mutex_);
                done_.notify_one();
            }
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::atomic<uint64_t> ticket_{0};
    std::atomic<int> running_{0};
    Job* job_ = nullptr;
    int workers_ = 0, wanted_ = 0;
    Affinity where_;  // of the caller whose job runs
};

// Never destroyed: detached workers may still wait in it while the process ends.
Pool* pool = new Pool;

// A forked child has none of the parent's threads, and its locks may be held by them: start anew.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    pool = new Pool;
    callers = 0;
});

}  // namespace

void parallel_for(int64_t units, int threads, const std::function<void(int64_t, int)>& body, const Poll& poll) {
    Job job;
    job.units = units;
    job.threads = threads;
    job.body = &body;
    Caller caller;
    Pool& p = *pool;
    if (threads > 1 && units > 1 && p.busy.try_lock()) {
        std::lock_guard lock(p.busy, std::adopt_lock);
        p.run(job, poll);
    } else {
        job.work(0, &poll);
    }
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace medeconv
