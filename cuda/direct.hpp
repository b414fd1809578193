// The direct engine: a sum over the taps of a small PSF of any shape. Pointers are the device's.
#pragma once
#include "elementwise.hpp"

namespace medeconv::cuda {

// One axis: destination i takes source positions i + base + m, m in [0, taps); a position outside [0, source) is zero, or
// taken modulo `source` when periodic.
struct AxisTaps {
    int64_t source, destination, base, taps;
};

template <class T>
struct DirectPass {
    AxisTaps z, y, x;
    bool periodic;
    const T* weight;         // [z.taps][y.taps][x.taps]
    const T* input;          // must not overlap anything written
    T* kept;                 // destination-shaped, what the next sweep gets; null: not kept
    Formula formula;
    Operands<T> operands;    // sums: sums_size(direct_blocks) doubles (sums.hpp)
};

template <class T>
void direct(const DirectPass<T>& pass, Stream stream);
int64_t direct_blocks(int64_t depth, int64_t height, int64_t width);  // for a destination of that shape

}  // namespace medeconv::cuda
