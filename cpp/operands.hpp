// What a sweep's formula works on, and where. Plain data, shared by every engine.
#pragma once
#include <cstdint>

#include "shared/formulas.hpp"

namespace medeconv {

struct Range {
    int64_t start, stop;
};

// What stopping rules and accelerations ask of a sweep, summed while it runs:
//   ratio           I-divergence, squared residual, I-divergence of the held-out image; each times the weights
//   residual        0, squared residual times the weights
//   multiply, add   squared change, squared result, change · earlier change
//   copy            squared difference from `previous`, squared result
// Values enter times `unit`, which keeps their squares in range.
constexpr int sums_of_a_sweep = 3;

template <class T>
struct Operands {
    const T* image = nullptr;
    const T* weights = nullptr;
    const T* estimate = nullptr;
    const T* gain = nullptr;
    const T* factor = nullptr;    // of a correction, as a regularizer gives it
    const T* damping = nullptr;   // 2/threshold² (formulas.hpp)
    const T* partial = nullptr;   // added before the formula: other terms of a sum of filters, a background that varies; may be `out`
    const T* held_out = nullptr;  // counts that the estimate does not see, whose model is `held_out_scale` times the image's
    const T* previous = nullptr;  // given: what the next sweep gets is extrapolated from it
    T* change = nullptr;          // new - estimate: what an earlier sweep left there is read, then overwritten
    T* out = nullptr;             // may be the estimate or `previous`
    T* extrapolated = nullptr;    // receives what the next sweep gets; may be the estimate
    double* sums = nullptr;       // receives them (of a pass: a slot per piece of work, added in a fixed order)
    T background = 0, eps = 0, step = 1, alpha = 0, held_out_scale = 1, unit = 1;
    bool positive = false;

    // Nothing but what plain Richardson-Lucy and its like ask for.
    bool plain() const { return !partial && !factor && !damping && !held_out && !previous && !change && !sums; }
};

}  // namespace medeconv
