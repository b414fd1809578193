// What a sweep's formula works on, and where. Plain data, shared by every engine.
#pragma once
#include <cstdint>

#include "shared/formulas.hpp"

namespace medeconv {

struct Range {
    int64_t start, stop;
};

template <class T>
struct Operands {
    const T* image = nullptr;
    const T* weights = nullptr;
    const T* estimate = nullptr;
    const T* gain = nullptr;
    const T* previous = nullptr;  // given: what the next sweep gets is extrapolated from it
    T* out = nullptr;             // may be the estimate or `previous`
    T* extrapolated = nullptr;    // receives what the next sweep gets; may be the estimate
    T background = 0, eps = 0, step = 1, alpha = 0;
    bool positive = false;
};

}  // namespace medeconv
