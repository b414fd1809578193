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
    T* out = nullptr;
    T background = 0, eps = 0;
};

}  // namespace medeconv
