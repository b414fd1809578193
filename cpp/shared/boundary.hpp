// What lies outside an image: the index inside it that stands for an index outside. No STL: also compiled by nvcc.
#pragma once
#include "formulas.hpp"

namespace medeconv {

enum class Boundary : int { reflect = 0, nearest = 1, mirror = 2, wrap = 3, zero = 4 };

namespace MEDECONV_ISA_NS {
namespace {

// reflect: edge repeated (d c b a | a b c d | d c b a); mirror: edge not repeated (d c b | a b c d | c b a);
// nearest: a a a | a b c d | d d d; wrap: b c d | a b c d | a b c; zero: -1. Any distance; n = 1 mirrors onto itself.
MEDECONV_INLINE long long source_index(long long i, long long n, Boundary boundary) {
    if (i >= 0 && i < n) return i;
    if (boundary == Boundary::zero) return -1;
    if (boundary == Boundary::nearest || n == 1) return i < 0 ? 0 : n - 1;
    const long long period = boundary == Boundary::reflect ? 2 * n : boundary == Boundary::mirror ? 2 * n - 2 : n;
    if (i < 0) i += period;
    if (i < 0 || i >= period) {  // rarely so far outside that it takes a division
        i %= period;
        if (i < 0) i += period;
    }
    if (i < n) return i;
    return boundary == Boundary::reflect ? period - 1 - i : period - i;
}

}  // namespace
}  // namespace MEDECONV_ISA_NS
}  // namespace medeconv
