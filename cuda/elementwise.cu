#include "elementwise.hpp"

#include "formula.cuh"

namespace medeconv::cuda {
namespace {

constexpr int threads = 256;
constexpr int values_per_thread = 4;

struct Extents {
    int64_t shape[3], low[3], high[3];
};
Extents extents(const Shape& shape, const Shape& low, const Shape& high) {
    Extents e;
    for (size_t a = 0; a < 3; ++a) e.shape[a] = shape[a], e.low[a] = low[a], e.high[a] = high[a];
    return e;
}
// Blocks of a kernel over rows: one piece of one row each, so that nothing is divided per value.
int64_t pieces(int64_t width) { return ceil_div(width, threads); }

template <class T>
__global__ void pad_rows(const T* x, Extents e, Boundary boundary, T* out, int64_t pieces) {
    const int64_t width = e.shape[2] + e.low[2] + e.high[2], height = e.shape[1] + e.low[1] + e.high[1];
    const int64_t row = blockIdx.x / pieces, at = blockIdx.x % pieces * threads + threadIdx.x;
    if (at >= width) return;
    const int64_t z = scalar::source_index(row / height - e.low[0], e.shape[0], boundary);
    const int64_t y = scalar::source_index(row % height - e.low[1], e.shape[1], boundary);
    const int64_t from = scalar::source_index(at - e.low[2], e.shape[2], boundary);
    out[row * width + at] = x[(z * e.shape[1] + y) * e.shape[2] + from];
}

// f(p) for every position p of the padded axis that source_index maps onto i, counted from the inner range's start.
template <class F>
__device__ __forceinline__ void each_image(int64_t i, int64_t n, int64_t low, int64_t high, Boundary boundary, F f) {
    if (boundary == Boundary::nearest || n == 1) {
        const int64_t stop = i == n - 1 ? n + high : i + 1;
        for (int64_t p = i == 0 ? -low : i; p < stop; ++p) f(p);
        return;
    }
    const int64_t period = boundary == Boundary::reflect ? 2 * n : boundary == Boundary::mirror ? 2 * n - 2 : n;
    const int64_t twin = boundary == Boundary::reflect ? period - 1 - i : boundary == Boundary::mirror ? (period - i) % period : i;
    for (int64_t p = i - (i + low) / period * period; p < n + high; p += period) f(p);
    if (twin != i)
        for (int64_t p = twin - (twin + low) / period * period; p < n + high; p += period) f(p);
}

template <class T>
__global__ void fold_rows(const T* y, Extents e, Boundary boundary, T* out, int64_t pieces) {
    const int64_t width = e.shape[2] + e.low[2] + e.high[2], height = e.shape[1] + e.low[1] + e.high[1];
    const int64_t row = blockIdx.x / pieces, at = blockIdx.x % pieces * threads + threadIdx.x;
    if (at >= e.shape[2]) return;
    T sum = 0;
    each_image(row / e.shape[1], e.shape[0], e.low[0], e.high[0], boundary, [&](int64_t pz) {
        each_image(row % e.shape[1], e.shape[1], e.low[1], e.high[1], boundary, [&](int64_t py) {
            const T* from = y + ((pz + e.low[0]) * height + py + e.low[1]) * width + e.low[2];
            each_image(at, e.shape[2], e.low[2], e.high[2], boundary, [&](int64_t px) { sum += from[px]; });
        });
    });
    out[row * e.shape[2] + at] = sum;
}

template <Formula formula, bool plain, class T>
__global__ void __launch_bounds__(threads) formula_values(const T* blurred, Operands<T> o, int64_t n) {
    DYN_SHARED(double, shared);
    const scalar::Numbers<T> number = numbers_of(o);
    T sums[sums_of_a_sweep]{};
    const int64_t first = int64_t(blockIdx.x) * threads * values_per_thread + threadIdx.x;
    for (int64_t i = 0; i < values_per_thread; ++i) {
        const int64_t at = first + i * threads;
        if (at < n) finish_value<formula, plain>(o, number, blurred[at], at, sums);
    }
    if constexpr (!plain) finish_block(o, sums, shared, blockIdx.x);
}

__global__ void __launch_bounds__(threads) add_slots(double* sums, int64_t slots) {
    DYN_SHARED(double, shared);
    double values[sums_of_a_sweep]{};
    for (int64_t slot = threadIdx.x; slot < slots; slot += threads)
        for (int k = 0; k < sums_of_a_sweep; ++k) values[k] += sums[sums_of_a_sweep * (1 + slot) + k];
    const double total = add_block(values, shared);
    if (threadIdx.x < sums_of_a_sweep) sums[threadIdx.x] = total;
}

}  // namespace

void finish_sums(double* sums, int64_t blocks, Stream stream) {
    if (sums) launch(add_slots, dim3(1), dim3(threads), sums_shared_bytes, stream, sums, blocks);
}

template <class T>
void pad(const T* x, Shape shape, Shape low, Shape high, Boundary boundary, T* out, Stream stream) {
    const int64_t width = shape[2] + low[2] + high[2], rows = (shape[0] + low[0] + high[0]) * (shape[1] + low[1] + high[1]);
    launch(pad_rows<T>, blocks(rows * pieces(width)), dim3(threads), 0, stream, x, extents(shape, low, high), boundary, out, pieces(width));
}

template <class T>
void fold(const T* y, Shape shape, Shape low, Shape high, Boundary boundary, T* out, Stream stream) {
    const int64_t rows = shape[0] * shape[1];
    launch(fold_rows<T>, blocks(rows * pieces(shape[2])), dim3(threads), 0, stream, y, extents(shape, low, high), boundary, out,
           pieces(shape[2]));
}

int64_t formula_blocks(int64_t n) { return ceil_div(n, threads * values_per_thread); }

template <class T>
void apply_formula(Formula formula, const T* blurred, Operands<T> operands, int64_t n, Stream stream) {
    with_formula(formula, operands, [&](auto f, auto plain) {
        launch(formula_values<f, plain, T>, blocks(formula_blocks(n)), dim3(threads), plain ? 0 : sums_shared_bytes, stream, blurred,
               operands, n);
    });
    finish_sums(operands.sums, formula_blocks(n), stream);
}

#define INSTANTIATE(T)                                                           \
    template void pad<T>(const T*, Shape, Shape, Shape, Boundary, T*, Stream);   \
    template void fold<T>(const T*, Shape, Shape, Shape, Boundary, T*, Stream);  \
    template void apply_formula<T>(Formula, const T*, Operands<T>, int64_t, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace medeconv::cuda
