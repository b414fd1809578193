// A small pool of threads. Not OpenMP: a forked child of an OpenMP parent dies, and two OpenMP runtimes clash.
#pragma once
#include <cstdint>
#include <functional>
#include <stdexcept>

namespace medeconv {

struct Interrupted : std::runtime_error {
    Interrupted() : std::runtime_error("interrupted") {}
};

// Called now and then on the calling thread during a run; true stops the run (Interrupted is thrown).
using Poll = std::function<bool()>;

// Calls body(unit, worker) for every unit in [0, units), on at most `threads` threads, the caller's included; worker is
// in [0, threads). Units are handed out one by one. If the pool is busy (another Python thread, a nested call), the
// caller does all the work itself, and one of the pool's threads makes room for it: n callers that ask for t threads each
// keep max(n, t) threads running, and never wait for one another. Workers run where their caller may run (Linux). Which
// thread runs a unit never changes a result. Denormals are flushed to zero while it runs, and the caller's setting is restored.
// Works in a forked child: the child gets a fresh pool.
void parallel_for(int64_t units, int threads, const std::function<void(int64_t unit, int worker)>& body, const Poll& poll = {});

}  // namespace medeconv
