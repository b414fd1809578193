#include "elementwise.hpp"

#include <algorithm>

#include "formula.cuh"

namespace medeconv::cuda {
namespace {

constexpr int threads = 256;
constexpr int values_per_thread = 4;

// What one access reaches at best, and where it may.
template <class T>
constexpr int packed = 16 / sizeof(T);
__device__ __forceinline__ bool is_aligned(const void* memory) { return reinterpret_cast<size_t>(memory) % 16 == 0; }

struct Extents {
    int64_t shape[3], low[3], high[3];
};
Extents extents(const Shape& shape, const Shape& low, const Shape& high) {
    Extents e;
    for (size_t a = 0; a < 3; ++a) e.shape[a] = shape[a], e.low[a] = low[a], e.high[a] = high[a];
    return e;
}

// How kernels over rows cut them: a warp makes a piece of a row.
constexpr int lanes = 32, warps = threads / lanes;
template <class T>
constexpr int at_once = 32 / sizeof(T);  // columns of a lane
struct Pieces {
    int64_t rows, width, per_row;
    int length;
    int64_t blocks() const { return ceil_div(rows * per_row, warps); }
};
Pieces pieces(int64_t rows, int64_t width) {
    const int64_t per_row = std::max<int64_t>(1, ceil_div(width, 1024));
    return {rows, width, per_row, int(ceil_div(ceil_div(width, per_row), lanes) * lanes)};
}
// The warp's own piece: `count` columns of a row from `first` on, none if that is below 1.
struct Piece {
    int64_t row, first;
    int count;
    __device__ __forceinline__ explicit Piece(const Pieces& cut) {
        const int64_t own = int64_t(blockIdx.x) * warps + threadIdx.x / lanes;
        row = own / cut.per_row, first = (own - row * cut.per_row) * cut.length;
        count = row < cut.rows ? int(min(int64_t(cut.length), cut.width - first)) : 0;
    }
    // Column c as one of the piece's, or its nearest end.
    __device__ __forceinline__ int place_of(int64_t c) const {
        return int(min(max(c - first, int64_t(0)), int64_t(max(count, 0))));
    }
};
// to[c] = from[c] for c in [begin, end), by a warp: at_once loads are on their way together.
template <class T>
__device__ __forceinline__ void copy_columns(const T* from, T* to, int begin, int end) {
    for (int c = begin + int(threadIdx.x % lanes); c < end; c += lanes * at_once<T>) {
        T values[at_once<T>];
        MEDECONV_UNROLL for (int k = 0; k < at_once<T>; ++k)
            if (k * lanes < end - c) values[k] = from[c + k * lanes];
        MEDECONV_UNROLL for (int k = 0; k < at_once<T>; ++k)
            if (k * lanes < end - c) to[c + k * lanes] = values[k];
    }
}

template <class T>
__global__ void __launch_bounds__(threads) pad_rows(const T* x, Extents e, Boundary boundary, T* out, Pieces cut) {
    const Piece piece(cut);
    if (piece.count <= 0) return;
    const int64_t height = e.shape[1] + e.low[1] + e.high[1], slice = piece.row / height;
    const int64_t z = scalar::source_index(slice - e.low[0], e.shape[0], boundary);
    const int64_t y = scalar::source_index(piece.row - slice * height - e.low[1], e.shape[1], boundary);
    const T* from = x + (z * e.shape[1] + y) * e.shape[2];
    T* to = out + piece.row * cut.width + piece.first;
    const int begin = piece.place_of(e.low[2]), end = piece.place_of(e.low[2] + e.shape[2]);
    copy_columns(from + (piece.first - e.low[2]), to, begin, end);
    MEDECONV_ROLLED for (int k = threadIdx.x % lanes; k < piece.count - (end - begin); k += lanes) {
        const int c = k < begin ? k : k + (end - begin);
        to[c] = from[scalar::source_index(piece.first + c - e.low[2], e.shape[2], boundary)];
    }
}

// The positions of a padded axis that source_index maps onto i, counted from the inner range's start: from `first` and from
// `twin` on, every `step`-th below `stop`.
struct Images {
    int64_t first, twin, step, stop;
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        MEDECONV_ROLLED for (int half = 0; half < 2; ++half)
            MEDECONV_ROLLED for (int64_t p = half ? twin : first; p < stop; p += step) f(p);
    }
};
__device__ __forceinline__ int64_t whole_periods(int64_t x, int64_t period) { return x < period ? 0 : x / period * period; }
__device__ __forceinline__ Images images(int64_t i, int64_t n, int64_t low, int64_t high, Boundary boundary) {
    const int64_t stop = n + high;
    if (boundary == Boundary::nearest || n == 1) {
        const int64_t end = i == n - 1 ? stop : i + 1;
        return {i == 0 ? -low : i, end, 1, end};
    }
    const int64_t period = boundary == Boundary::reflect ? 2 * n : boundary == Boundary::mirror ? 2 * n - 2 : n;
    const int64_t twin = boundary == Boundary::reflect ? period - 1 - i : boundary == Boundary::mirror && i > 0 ? period - i : i;
    return {i - whole_periods(i + low, period), twin != i ? twin - whole_periods(twin + low, period) : stop, period, stop};
}
// What is its own only image: all but the margins.
Range alone(int64_t n, int64_t low, int64_t high, Boundary boundary) {
    if (low == 0 && high == 0) return {0, n};
    if (boundary == Boundary::nearest || n == 1) return {low ? 1 : 0, high ? n - 1 : n};
    if (boundary == Boundary::wrap) return {high, n - low};
    const int64_t more = boundary == Boundary::mirror;  // the edge is not repeated: one value more on each side has a twin
    return {low ? low + more : 0, high ? n - high - more : n};
}
struct Alone {
    Range axis[3];
};
__device__ __forceinline__ bool holds(Range range, int64_t i) { return i >= range.start && i < range.stop; }

template <class T>
__global__ void __launch_bounds__(threads) fold_rows(const T* y, Extents e, Alone alone, Boundary boundary, T* out, Pieces cut) {
    const Piece piece(cut);
    if (piece.count <= 0) return;
    const int64_t width = e.shape[2] + e.low[2] + e.high[2], height = e.shape[1] + e.low[1] + e.high[1];
    const int64_t own_z = piece.row / e.shape[1], own_y = piece.row - own_z * e.shape[1];
    const bool only = holds(alone.axis[0], own_z) && holds(alone.axis[1], own_y);
    const Images single_z{own_z, own_z + 1, 1, own_z + 1}, single_y{own_y, own_y + 1, 1, own_y + 1};
    const Images in_z = only ? single_z : images(own_z, e.shape[0], e.low[0], e.high[0], boundary);
    const Images in_y = only ? single_y : images(own_y, e.shape[1], e.low[1], e.high[1], boundary);
    // The row of y at these positions, without its margin.
    auto row_at = [&](int64_t pz, int64_t py) { return y + ((pz + e.low[0]) * height + py + e.low[1]) * width + e.low[2]; };
    auto each_row = [&](auto f) { in_z.each([&](int64_t pz) { in_y.each([&](int64_t py) { f(row_at(pz, py)); }); }); };
    T* to = out + piece.row * cut.width + piece.first;
    const int begin = piece.place_of(alone.axis[2].start), end = max(begin, piece.place_of(alone.axis[2].stop));
    if (only) copy_columns(row_at(own_z, own_y) + piece.first, to, begin, end);
    else
        for (int c = begin + int(threadIdx.x % lanes); c < end; c += lanes * at_once<T>) {
            T sums[at_once<T>]{};
            each_row([&](const T* row) {
                const T* from = row + piece.first + c;
                MEDECONV_UNROLL for (int k = 0; k < at_once<T>; ++k) sums[k] += k * lanes < end - c ? from[k * lanes] : T(0);
            });
            MEDECONV_UNROLL for (int k = 0; k < at_once<T>; ++k)
                if (k * lanes < end - c) to[c + k * lanes] = sums[k];
        }
    MEDECONV_ROLLED for (int k = threadIdx.x % lanes; k < piece.count - (end - begin); k += lanes) {
        const int c = k < begin ? k : k + (end - begin);
        const Images in_x = images(piece.first + c, e.shape[2], e.low[2], e.high[2], boundary);
        T sum = 0;
        each_row([&](const T* row) { in_x.each([&](int64_t px) { sum += row[px]; }); });
        to[c] = sum;
    }
}

template <Formula formula, bool plain, class T>
__global__ void __launch_bounds__(threads) formula_values(const T* blurred, Operands<T> o, int64_t n) {
    DYN_SHARED(double, shared);
    const scalar::Numbers<T> number = numbers_of(o);
    T sums[sums_of_a_sweep]{}, values[values_per_thread]{};
    const int64_t first = int64_t(blockIdx.x) * threads * values_per_thread + threadIdx.x;
    const int count = int(min(ceil_div(n - first, threads), int64_t(values_per_thread)));
    MEDECONV_UNROLL for (int k = 0; k < values_per_thread; ++k)
        if (k < count) values[k] = blurred[first + k * threads];
    const auto there = [=](int k) { return k < count; };
    const auto at = [=](int k) { return first + k * threads; };
    Asked<formula, plain, values_per_thread, T> asked{};
    asked.ask(o, there, at);
    asked.finish(o, number, values, there, at, sums);
    if constexpr (!plain) finish_block(o, sums, shared, blockIdx.x);
}

// Block b adds the slots [b · part, (b + 1) · part) of those that lie `apart` slots from each other, into slot b · to_apart of `to`,
// which may be the first that it reads. A thread has slots_at_once of them on their way.
constexpr int slots_at_once = 4, most_threads = 1024;
constexpr int64_t slot_part = threads * slots_at_once;
__global__ void __launch_bounds__(most_threads) add_slots(const double* slots, int64_t count, int64_t apart, int64_t part, double* to,
                                                          int64_t to_apart) {
    DYN_SHARED(double, shared);
    const int64_t end = min(count, (int64_t(blockIdx.x) + 1) * part);
    double values[sums_of_a_sweep]{};
    for (int64_t slot = blockIdx.x * part + threadIdx.x; slot < end; slot += slots_at_once * blockDim.x) {
        double more[slots_at_once][sums_of_a_sweep];
        MEDECONV_UNROLL for (int i = 0; i < slots_at_once; ++i) {
            const int64_t at = slot + i * int64_t(blockDim.x);
            MEDECONV_UNROLL for (int k = 0; k < sums_of_a_sweep; ++k) more[i][k] = at < end ? slots[sums_of_a_sweep * apart * at + k] : 0.0;
        }
        MEDECONV_UNROLL for (int k = 0; k < sums_of_a_sweep; ++k) values[k] += (more[0][k] + more[1][k]) + (more[2][k] + more[3][k]);
    }
    const double total = add_block(values, shared);
    if (threadIdx.x < sums_of_a_sweep) to[sums_of_a_sweep * to_apart * blockIdx.x + threadIdx.x] = total;
}

// NaN goes through, as through NumPy's.
template <Pointwise op, class T>
__device__ __forceinline__ T combined(T x, T y) {
    if constexpr (op == Pointwise::add) return x + y;
    else if constexpr (op == Pointwise::subtract) return x - y;
    else if constexpr (op == Pointwise::multiply) return x * y;
    else if constexpr (op == Pointwise::divide) return x / y;
    else if constexpr (op == Pointwise::maximum) return x > y || x != x ? x : y;
    else if constexpr (op == Pointwise::minimum) return x < y || x != x ? x : y;
    else if constexpr (op == Pointwise::less) return x < y;
    else if constexpr (op == Pointwise::less_equal) return x <= y;
    else if constexpr (op == Pointwise::greater) return x > y;
    else if constexpr (op == Pointwise::greater_equal) return x >= y;
    else if constexpr (op == Pointwise::square_root) return sqrt(x);
    else return x;
}
// A block's values: by whole accesses where all are there and lie so, one by one elsewhere.
constexpr int packs_of_thread = 2;
template <class T>
constexpr int combined_at_once = threads * packs_of_thread * packed<T>;
template <Pointwise op, class T>
__global__ void __launch_bounds__(threads) combine(const T* a, T a_number, const T* b, T b_number, T* out, int64_t n) {
    const int64_t first = int64_t(blockIdx.x) * combined_at_once<T>;
    if (first + combined_at_once<T> > n || !is_aligned(a) || !is_aligned(b) || !is_aligned(out)) {
        const int64_t end = min(n, first + combined_at_once<T>);
        MEDECONV_ROLLED for (int64_t at = first + threadIdx.x; at < end; at += threads)
            out[at] = combined<op>(a ? a[at] : a_number, b ? b[at] : b_number);
        return;
    }
    const int64_t own = first + threadIdx.x * packed<T>;
    Lanes<T, packed<T>> x[packs_of_thread], y[packs_of_thread];
    MEDECONV_UNROLL for (int k = 0; k < packs_of_thread; ++k)
        MEDECONV_UNROLL for (int j = 0; j < packed<T>; ++j) x[k].v[j] = a_number, y[k].v[j] = b_number;
    if (a) MEDECONV_UNROLL for (int k = 0; k < packs_of_thread; ++k) x[k] = load<packed<T>>(a + own + k * threads * packed<T>);
    if (b) MEDECONV_UNROLL for (int k = 0; k < packs_of_thread; ++k) y[k] = load<packed<T>>(b + own + k * threads * packed<T>);
    MEDECONV_UNROLL for (int k = 0; k < packs_of_thread; ++k) {
        MEDECONV_UNROLL for (int j = 0; j < packed<T>; ++j) x[k].v[j] = combined<op>(x[k].v[j], y[k].v[j]);
        *reinterpret_cast<Lanes<T, packed<T>>*>(out + own + k * threads * packed<T>) = x[k];
    }
}

// The first NaN stays.
template <class T>
struct Statistics {
    double sum;
    T lowest, highest;
    __device__ __forceinline__ void take(double term, T low, T high) {
        sum += term;
        lowest = low < lowest || low != low ? low : lowest;
        highest = high > highest || high != high ? high : highest;
    }
};
__device__ __forceinline__ Statistics<double> statistics_of_warp(Statistics<double> own) {
    for (int by = 16; by > 0; by /= 2) {
        const double sum = __shfl_down_sync(~0u, own.sum, by), low = __shfl_down_sync(~0u, own.lowest, by);
        own.take(sum, low, __shfl_down_sync(~0u, own.highest, by));
    }
    return own;
}
// The threads' statistics in a fixed order, to `to`.
__device__ __forceinline__ void store_statistics(Statistics<double> own, double* shared, double* to) {
    own = statistics_of_warp(own);
    const int lane = threadIdx.x % 32, used = blockDim.x / 32;
    double* slot = shared + threadIdx.x / 32 * 3;
    if (lane == 0) slot[0] = own.sum, slot[1] = own.lowest, slot[2] = own.highest;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    slot = shared + 3 * min(lane, used - 1);
    own = statistics_of_warp({lane < used ? slot[0] : 0.0, slot[1], slot[2]});
    if (lane == 0) to[0] = own.sum, to[1] = own.lowest, to[2] = own.highest;
}

// Blocks go through the array together, a tile each: as many on every device, so that results are the same everywhere, and few
// enough to be all at work at once on a large one and to leave few slots.
constexpr int loads_at_once = 4;
constexpr int64_t most_statistics_blocks = 528;
template <class T>
constexpr int statistics_tile = threads * loads_at_once * packed<T>;
template <class T>
__device__ __forceinline__ Lanes<T, packed<T>> load_packed(const T* from, bool aligned) {
    if (aligned) return load<packed<T>>(from);
    Lanes<T, packed<T>> some;
    MEDECONV_UNROLL for (int j = 0; j < packed<T>; ++j) some.v[j] = from[j];
    return some;
}
template <bool product, class T>
__global__ void __launch_bounds__(threads, 4) block_statistics(const T* a, const T* b, int64_t n, double* results) {
    DYN_SHARED(double, shared);
    constexpr int size = packed<T>, tile = statistics_tile<T>;
    const bool aligned = is_aligned(a) && (!product || is_aligned(b));
    const int own = int(threadIdx.x) * size;
    Statistics<T> found{0, a[0], a[0]};
    int64_t first = int64_t(blockIdx.x) * tile;
    for (; first + tile <= n; first += int64_t(gridDim.x) * tile) {
        Lanes<T, size> x[loads_at_once], y[loads_at_once];
        MEDECONV_UNROLL for (int k = 0; k < loads_at_once; ++k) {
            x[k] = load_packed(a + first + own + k * threads * size, aligned);
            if constexpr (product) y[k] = load_packed(b + first + own + k * threads * size, aligned);
        }
        MEDECONV_UNROLL for (int k = 0; k < loads_at_once; ++k)
            MEDECONV_UNROLL for (int j = 0; j < size; ++j) {
                const T value = x[k].v[j];
                found.take(product ? double(value) * double(y[k].v[j]) : double(value), value, value);
            }
    }
    for (int64_t at = first + threadIdx.x; at < n; at += threads)  // of the last tile, what there is
        found.take(product ? double(a[at]) * double(b[at]) : double(a[at]), a[at], a[at]);
    store_statistics({found.sum, double(found.lowest), double(found.highest)}, shared, results + 3 * (1 + int64_t(blockIdx.x)));
}
__global__ void __launch_bounds__(most_threads) all_statistics(double* results, int64_t slots) {
    DYN_SHARED(double, shared);
    Statistics<double> own{0, results[4], results[5]};
    for (int64_t slot = threadIdx.x; slot < slots; slot += blockDim.x) {
        const double* s = results + 3 * (1 + slot);
        own.take(s[0], s[1], s[2]);
    }
    store_statistics(own, shared, results);
}

template <class T>
__global__ void __launch_bounds__(threads) crop_rows(const T* x, Extents e, T* out, Pieces cut) {
    // e.shape of x, e.low the start, e.high the lengths
    const Piece piece(cut);
    if (piece.count <= 0) return;
    const int64_t slice = piece.row / e.high[1], z = slice + e.low[0], y = piece.row - slice * e.high[1] + e.low[1];
    copy_columns(x + (z * e.shape[1] + y) * e.shape[2] + e.low[2] + piece.first, out + piece.row * cut.width + piece.first, 0, piece.count);
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
        launch(kernel, blocks(ceil_div(n, combined_at_once<T>)), dim3(threads), 0, stream, a, a_number, b, b_number, out, n);
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
    const int64_t slots = std::min(ceil_div(n, statistics_tile<T>), most_statistics_blocks);  // no more than formula_blocks(n)
    launch(b ? block_statistics<true, T> : block_statistics<false, T>, blocks(slots), dim3(threads), sums_shared_bytes, stream, a, b, n,
           results);
    launch(all_statistics, dim3(1), dim3(most_threads), sums_shared_bytes, stream, results, slots);
}

template <class T>
void crop(const T* x, Shape shape, Shape start, Shape length, T* out, Stream stream) {
    const Pieces cut = pieces(length[0] * length[1], length[2]);
    launch(crop_rows<T>, blocks(cut.blocks()), dim3(threads), 0, stream, x, extents(shape, start, length), out, cut);
}

template <class From, class To>
void convert(const From* x, To* out, int64_t n, Stream stream) {
    launch(convert_values<From, To>, blocks(ceil_div(n, threads)), dim3(threads), 0, stream, x, out, n);
}

void finish_sums(double* sums, int64_t count, Stream stream) {
    if (!sums) return;
    double* const slots = sums + sums_of_a_sweep;
    int64_t apart = 1;
    // One block alone would take in many slots too slowly. A block's sum goes where its first slot was.
    if (count > 4 * slot_part) {
        launch(add_slots, blocks(ceil_div(count, slot_part)), dim3(threads), sums_shared_bytes, stream, slots, count, apart, slot_part,
               slots, slot_part);
        count = ceil_div(count, slot_part), apart = slot_part;
    }
    launch(add_slots, dim3(1), dim3(count > threads ? most_threads : threads), sums_shared_bytes, stream, slots, count, apart, count, sums,
           int64_t(0));
}

template <class T>
void pad(const T* x, Shape shape, Shape low, Shape high, Boundary boundary, T* out, Stream stream) {
    const Pieces cut = pieces((shape[0] + low[0] + high[0]) * (shape[1] + low[1] + high[1]), shape[2] + low[2] + high[2]);
    launch(pad_rows<T>, blocks(cut.blocks()), dim3(threads), 0, stream, x, extents(shape, low, high), boundary, out, cut);
}

template <class T>
void fold(const T* y, Shape shape, Shape low, Shape high, Boundary boundary, T* out, Stream stream) {
    const Pieces cut = pieces(shape[0] * shape[1], shape[2]);
    Alone found;
    for (size_t a = 0; a < 3; ++a) found.axis[a] = alone(shape[a], low[a], high[a], boundary);
    launch(fold_rows<T>, blocks(cut.blocks()), dim3(threads), 0, stream, y, extents(shape, low, high), found, boundary, out, cut);
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
