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
    const T* times[2] = {};  // single weights that a line's sums are multiplied by, or null
};

// Nothing but x is longer than one: such a pass has a kernel of its own, that fills a block with one row.
inline bool is_line(AxisTaps z, AxisTaps y) {
    const auto is_one = [](AxisTaps a) { return a.source == 1 && a.destination == 1 && a.base == 0 && a.taps == 1; };
    return is_one(z) && is_one(y);
}

template <class T>
void direct(const DirectPass<T>& pass, Stream stream);
int64_t direct_blocks(AxisTaps z, AxisTaps y, AxisTaps x);  // at most, in any dtype

}  // namespace medeconv::cuda
