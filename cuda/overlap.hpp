// The spectral engine of a line: overlapping segments, each of which fits a block (overlap-save; Stockham 1966).
//
// Two segments are the real and the imaginary part of one line: the filter is real. A segment is read once, transformed,
// multiplied by the OTF, transformed back and finished by the formula, all in shared memory. Filters longer than a segment are
// the caller's to cut: their terms add up through `partial`.
#pragma once
#include "axis.hpp"
#include "direct.hpp"

namespace medeconv::cuda {

template <class T>
struct OverlapPass {
    PowerOfTwo<T> segment;
    AxisTaps line;           // taps: at most overlap_taps
    bool periodic;
    const Pair<T>* transfer; // in slot order: overlap_transfer's
    const T* input;          // must not overlap anything written
    T* kept;                 // what the next sweep gets; null: not kept
    Formula formula;
    Operands<T> operands;    // sums: sums_size(overlap_blocks) doubles (sums.hpp)
    int64_t step() const { return segment.n - line.taps + 1; }  // results per segment
};

template <class T>
void overlap(const OverlapPass<T>& pass, Stream stream);
// Of the weights of AxisTaps (destination i takes source i + base + m times weight m).
template <class T>
void overlap_transfer(const PowerOfTwo<T>& segment, const T* weights, int64_t taps, Pair<T>* transfer, Stream stream);

template <class T>
int64_t overlap_segment(int64_t taps);               // length of the segments for so many taps
template <class T>
int64_t overlap_taps();                              // most taps of one pass
template <class T>
int64_t overlap_blocks(int64_t segment, int64_t taps, int64_t destination);

}  // namespace medeconv::cuda
