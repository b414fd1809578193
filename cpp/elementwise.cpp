#include "elementwise.hpp"

#include <algorithm>
#include <cstring>

#include "spectral_plan.hpp"
#include "sums.hpp"

namespace medeconv {
namespace {

// Of positions [first, last) of an axis.
std::vector<int64_t> sources(int64_t first, int64_t last, int64_t n, Boundary boundary) {
    std::vector<int64_t> table;
    for (int64_t i = first; i < last; ++i) table.push_back(scalar::source_index(i, n, boundary));
    return table;
}
// Of what a row is continued by: rows may be long, and what lies inside needs no table.
struct Ends {
    std::vector<int64_t> low, high;
    Ends(int64_t before, int64_t behind, int64_t n, Boundary boundary)
        : low(sources(-before, 0, n, boundary)), high(sources(n, n + behind, n, boundary)) {}
};

// A row alone would be less work than handing it out.
template <class Body>
void for_rows(int64_t rows, int64_t width, int threads, Body body) {
    const int64_t chunk = std::max<int64_t>(1, (1 << 13) / width);
    parallel_for((rows + chunk - 1) / chunk, threads, [&](int64_t unit, int) {
        for (int64_t row = unit * chunk; row < std::min(rows, (unit + 1) * chunk); ++row) body(row);
    });
}

}  // namespace

template <class T>
void pad(const T* x, Shape shape, Shape low, Shape high, Boundary boundary, T* out, int threads) {
    std::array<std::vector<int64_t>, 2> from;
    for (size_t a = 0; a < 2; ++a) from[a] = sources(-low[a], shape[a] + high[a], shape[a], boundary);
    const Ends ends(low[2], high[2], shape[2], boundary);
    const int64_t width = low[2] + shape[2] + high[2], height = int64_t(from[1].size());
    for_rows(int64_t(from[0].size()) * height, width, threads, [&](int64_t row) {
        const T* source = x + (from[0][size_t(row / height)] * shape[1] + from[1][size_t(row % height)]) * shape[2];
        T* to = out + row * width;
        for (const int64_t i : ends.low) *to++ = source[i];
        std::memcpy(to, source, size_t(shape[2]) * sizeof(T));
        to += shape[2];
        for (const int64_t i : ends.high) *to++ = source[i];
    });
}

template <class T>
void fold(const T* y, Shape shape, Shape low, Shape high, Boundary boundary, T* out, int threads) {
    const Ends ends(low[2], high[2], shape[2], boundary);
    const int64_t width = low[2] + shape[2] + high[2], height = low[1] + shape[1] + high[1];
    std::array<std::vector<std::vector<int64_t>>, 2> of;  // each slice and row: those of y that fall onto it, in order
    for (size_t a = 0; a < 2; ++a) {
        of[a].resize(size_t(shape[a]));
        int64_t p = 0;
        for (const int64_t i : sources(-low[a], shape[a] + high[a], shape[a], boundary)) of[a][size_t(i)].push_back(p++);
    }
    for_rows(shape[0] * shape[1], width, threads, [&](int64_t line) {
        T* row = out + line * shape[2];
        bool first = true;
        for (const int64_t pz : of[0][size_t(line / shape[1])])
            for (const int64_t py : of[1][size_t(line % shape[1])]) {
                const T *from = y + (pz * height + py) * width, *own = from + low[2], *behind = own + shape[2];
                if (first) std::memcpy(row, own, size_t(shape[2]) * sizeof(T));
                else
                    for (int64_t x = 0; x < shape[2]; ++x) row[x] += own[x];
                first = false;
                for (const int64_t i : ends.low) row[i] += *from++;
                for (const int64_t i : ends.high) row[i] += *behind++;
            }
    });
}

template <class T>
void apply_formula(Formula formula, const T* blurred, Operands<T> o, int64_t n, int threads) {
    constexpr int64_t chunk = 1 << 16;
    const int64_t chunks = (n + chunk - 1) / chunk;
    const Sums<T> sums(o, chunks);
    const ElementwiseKernels<T>& kernels = elementwise_kernels<T>();
    parallel_for(chunks, threads, [&](int64_t unit, int) {
        kernels.formula(formula, o, blurred, unit * chunk, std::min(n, (unit + 1) * chunk), unit);
    });
    sums.finish();
}

#define INSTANTIATE(T)                                                                        \
    template void pad<T>(const T*, Shape, Shape, Shape, Boundary, T*, int);                   \
    template void fold<T>(const T*, Shape, Shape, Shape, Boundary, T*, int);                  \
    template void apply_formula<T>(Formula, const T*, Operands<T>, int64_t, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace medeconv
