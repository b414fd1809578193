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

template <Pointwise op, class T>
__global__ void __launch_bounds__(threads) combine(const T* a, T a_number, const T* b, T b_number, T* out, int64_t n) {
    const int64_t first = int64_t(blockIdx.x) * threads * values_per_thread + threadIdx.x;
    for (int64_t i = 0; i < values_per_thread; ++i) {
        const int64_t at = first + i * threads;
        if (at >= n) continue;
        const T x = a ? a[at] : a_number, y = b ? b[at] : b_number;
        T result;
        // NaN goes through, as through NumPy's.
        if constexpr (op == Pointwise::add) result = x + y;
        else if constexpr (op == Pointwise::subtract) result = x - y;
        else if constexpr (op == Pointwise::multiply) result = x * y;
        else if constexpr (op == Pointwise::divide) result = x / y;
        else if constexpr (op == Pointwise::maximum) result = x > y || x != x ? x : y;
        else if constexpr (op == Pointwise::minimum) result = x < y || x != x ? x : y;
        else if constexpr (op == Pointwise::less) result = x < y;
        else if constexpr (op == Pointwise::less_equal) result = x <= y;
        else if constexpr (op == Pointwise::greater) result = x > y;
        else if constexpr (op == Pointwise::greater_equal) result = x >= y;
        else if constexpr (op == Pointwise::square_root) result = sqrt(x);
        else result = x;
        out[at] = result;
    }
}

struct Statistics {
    double sum, lowest, highest;
    __device__ __forceinline__ void take(double term, double low, double high) {
        sum += term;
        lowest = low < lowest || low != low ? low : lowest;
        highest = high > highest || high != high ? high : highest;
    }
};
// The threads' statistics in a fixed order, for thread 0.
__device__ __forceinline__ Statistics statistics_of_block(Statistics own, double* shared) {
    for (int by = 16; by > 0; by /= 2) {
        const double sum = __shfl_down_sync(~0u, own.sum, by), low = __shfl_down_sync(~0u, own.lowest, by);
        own.take(sum, low, __shfl_down_sync(~0u, own.highest, by));
    }
    double* slot = shared + threadIdx.x / 32 * 3;
    if (threadIdx.x % 32 == 0) slot[0] = own.sum, slot[1] = own.lowest, slot[2] = own.highest;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < threads / 32; ++warp) own.take(shared[3 * warp], shared[3 * warp + 1], shared[3 * warp + 2]);
    return own;
}
__device__ __forceinline__ void store(double* to, const Statistics& s) { to[0] = s.sum, to[1] = s.lowest, to[2] = s.highest; }

template <class T>
__global__ void __launch_bounds__(threads) block_statistics(const T* a, const T* b, int64_t n, double* results) {
    DYN_SHARED(double, shared);
    const int64_t first = int64_t(blockIdx.x) * threads * values_per_thread + threadIdx.x;
    // A thread without values of its own says what the array's last value is.
    const double start = double(a[first < n ? first : n - 1]);
    Statistics own{0, start, start};
    for (int64_t i = 0; i < values_per_thread; ++i) {
        const int64_t at = first + i * threads;
        if (at < n) own.take(double(a[at]) * (b ? double(b[at]) : 1.0), double(a[at]), double(a[at]));
    }
    own = statistics_of_block(own, shared);
    if (threadIdx.x == 0) store(results + 3 * (1 + int64_t(blockIdx.x)), own);
}
__global__ void __launch_bounds__(threads) all_statistics(double* results, int64_t slots) {
    DYN_SHARED(double, shared);
    const double* first = results + 3 * (1 + (threadIdx.x < slots ? threadIdx.x : slots - 1));
    Statistics own{0, first[1], first[2]};
    for (int64_t slot = threadIdx.x; slot < slots; slot += threads) {
        const double* s = results + 3 * (1 + slot);
        own.take(s[0], s[1], s[2]);
    }
    own = statistics_of_block(own, shared);
    if (threadIdx.x == 0) store(results, own);
}

template <class T>
__global__ void crop_rows(const T* x, Extents e, int64_t height, T* out, int64_t pieces) {
    // e.shape of x, e.low the start, e.high the lengths
    const int64_t row = blockIdx.x / pieces, at = blockIdx.x % pieces * threads + threadIdx.x;
    if (at >= e.high[2]) return;
    const int64_t z = row / height + e.low[0], y = row % height + e.low[1];
    out[row * e.high[2] + at] = x[(z * e.shape[1] + y) * e.shape[2] + e.low[2] + at];
}

template <class From, class To>
__global__ void convert_values(const From* x, To* out, int64_t n) {
    const int64_t at = int64_t(blockIdx.x) * threads + threadIdx.x;
    if (at < n) out[at] = To(x[at]);
}

}  // namespace

template <class T>
void pointwise(Pointwise op, const T* a, T a_number, const T* b, T b_number, T* out, int64_t n, Stream stream) {
    auto run = [&](auto kernel) {
        launch(kernel, blocks(formula_blocks(n)), dim3(threads), 0, stream, a, a_number, b, b_number, out, n);
    };
    switch (op) {
    case Pointwise::add: return run(combine<Pointwise::add, T>);
    case Pointwise::subtract: return run(combine<Pointwise::subtract, T>);
    case Pointwise::multiply: return run(combine<Pointwise::multiply, T>);
    case Pointwise::divide: return run(combine<Pointwise::divide, T>);
    case Pointwise::maximum: return run(combine<Pointwise::maximum, T>);
    case Pointwise::minimum: return run(combine<Pointwise::minimum, T>);
    case Pointwise::less: return run(combine<Pointwise::less, T>);
    case Pointwise::less_equal: return run(combine<Pointwise::less_equal, T>);
    case Pointwise::greater: return run(combine<Pointwise::greater, T>);
    case Pointwise::greater_equal: return run(combine<Pointwise::greater_equal, T>);
    case Pointwise::square_root: return run(combine<Pointwise::square_root, T>);
    case Pointwise::copy: return run(combine<Pointwise::copy, T>);
    }
}

template <class T>
void statistics(const T* a, const T* b, int64_t n, double* results, Stream stream) {
    const int64_t slots = formula_blocks(n);
    launch(block_statistics<T>, blocks(slots), dim3(threads), sums_shared_bytes, stream, a, b, n, results);
    launch(all_statistics, dim3(1), dim3(threads), sums_shared_bytes, stream, results, slots);
}

template <class T>
void crop(const T* x, Shape shape, Shape start, Shape length, T* out, Stream stream) {
    launch(crop_rows<T>, blocks(length[0] * length[1] * pieces(length[2])), dim3(threads), 0, stream, x, extents(shape, start, length),
           length[1], out, pieces(length[2]));
}

template <class From, class To>
void convert(const From* x, To* out, int64_t n, Stream stream) {
    launch(convert_values<From, To>, blocks(ceil_div(n, threads)), dim3(threads), 0, stream, x, out, n);
}

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
    template void apply_formula<T>(Formula, const T*, Operands<T>, int64_t, Stream);        \
    template void pointwise<T>(Pointwise, const T*, T, const T*, T, T*, int64_t, Stream);   \
    template void statistics<T>(const T*, const T*, int64_t, double*, Stream);              \
    template void crop<T>(const T*, Shape, Shape, Shape, T*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE
template void convert<float, double>(const float*, double*, int64_t, Stream);
template void convert<double, float>(const double*, float*, int64_t, Stream);

}  // namespace medeconv::cuda
