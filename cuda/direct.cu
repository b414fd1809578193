// A block makes a tile of 64 × 32 values of a few slices. The source comes into shared memory a slice at a time, the next while one
// is added: the part that a chunk of taps reaches, with what lies outside written out, and the weights of every destination slice
// that it serves. A thread makes two rows of two times four columns in each of them. It takes in a row of the source, twice eight
// values, and adds it wherever it belongs; a row of weights serves eight results. The taps of a row are unrolled, as many as fit
// the filter best; those of a column and of slices are counted, none too many.
// Of a line a block makes 1024 values; its threads sum every 256th.
#include "direct.hpp"

#include "formula.cuh"

namespace medeconv::cuda {
namespace {

constexpr int across = 8, down = 16, tile_threads = across * down;
constexpr int own_x = 4, groups = 2, own_y = 2;     // of a thread: columns side by side, how many times, and rows
template <class T>
constexpr int own_z = 16 / sizeof(T);               // and slices
constexpr int group = across * own_x;               // columns from a thread's first group to its next
constexpr int tile_x = groups * group, tile_y = down * own_y;
constexpr int pitch = tile_x + 8;
constexpr int chunk_y = 16;                         // taps
template <bool plain>
constexpr int finished_at_once = plain ? 4 : 2;     // values of a thread

// Of `taps` along a row: weights as they lie in shared memory, and values that a group needs, both in whole vectors.
template <int taps>
constexpr int padded = taps == 1 ? 1 : taps <= 4 ? 4 : 8;
template <int taps, class T>
constexpr int window = (own_x + taps - 1 + 16 / sizeof(T) - 1) / (16 / sizeof(T)) * (16 / sizeof(T));

// Values of shared memory: of a slice's part, and of all, where in the end the results lie.
constexpr int part_rows(int64_t taps_y) { return tile_y + int(taps_y < chunk_y ? taps_y : chunk_y) - 1; }
template <int taps, class T>
constexpr int part_size(int64_t taps_y) {
    return part_rows(taps_y) * pitch + (part_rows(taps_y) - tile_y + 1) * own_z<T> * padded<taps>;
}
template <int taps, class T>
size_t tile_bytes(int64_t taps_y) {
    return std::max(2 * part_size<taps, T>(taps_y), own_z<T> * tile_y * tile_x) * sizeof(T);
}

template <int n, class T>
__device__ __forceinline__ void load_vectors(T (&to)[n], const T* from) {
    constexpr int size = n * sizeof(T) < 16 ? n : 16 / sizeof(T);
    MEDECONV_UNROLL for (int i = 0; i < n; i += size) {
        const Lanes<T, size> some = load<size>(from + i);
        MEDECONV_UNROLL for (int k = 0; k < size; ++k) to[i + k] = some.v[k];
    }
}

// What is added at once: source slice `slice` of those that the block's results need, and the chunk's first taps.
struct Part {
    int slice, y, x;
    __device__ __forceinline__ Part after(int taps, int64_t taps_y, int64_t taps_x) const {
        if (x + taps < taps_x) return {slice, y, x + taps};
        if (y + chunk_y < taps_y) return {slice, y + chunk_y, 0};
        return {slice + 1, 0, 0};
    }
};

template <int taps, class T>
__device__ __forceinline__ void fetch(const DirectPass<T>& p, Part part, int64_t z0, int64_t y0, int64_t x0, T* to) {
    constexpr int columns = tile_x + taps - 1, warps = tile_threads / 32, columns_of_lane = (columns + 31) / 32;
    const int thread = int(threadIdx.y) * across + int(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int taps_y = int(min(int64_t(chunk_y), p.y.taps - part.y)), rows = tile_y + taps_y - 1;
    int64_t z = z0 + p.z.base + part.slice;
    if (p.periodic) z = scalar::source_index(z, p.z.source, Boundary::wrap);
    const int64_t y = y0 + p.y.base + part.y, x = x0 + p.x.base + part.x, down_one = p.x.source;
    const T* slice = p.input + z * p.y.source * p.x.source;
    T* row = to + warp * pitch + lane;
    if (x >= 0 && y >= 0 && x + columns <= p.x.source && y + rows <= p.y.source) {
        const T* from = slice + (y + warp) * down_one + x + lane;
        for (int r = warp; r < rows; r += warps, row += warps * pitch, from += warps * down_one)
            MEDECONV_UNROLL for (int k = 0; k < columns_of_lane; ++k)
                if (k * 32 + 32 <= columns || lane < columns - k * 32) copy_async(row + k * 32, from + k * 32);
    } else {
        int64_t of_lane[columns_of_lane];  // below 0: outside
        MEDECONV_UNROLL for (int k = 0; k < columns_of_lane; ++k) {
            int64_t at = x + lane + k * 32;
            if (p.periodic) at = scalar::source_index(at, p.x.source, Boundary::wrap);
            of_lane[k] = at < p.x.source ? at : -1;
        }
        MEDECONV_ROLLED for (int r = warp; r < rows; r += warps, row += warps * pitch) {
            int64_t at = y + r;
            if (p.periodic) at = scalar::source_index(at, p.y.source, Boundary::wrap);
            const bool there = at >= 0 && at < p.y.source;
            MEDECONV_UNROLL for (int k = 0; k < columns_of_lane; ++k) {
                if (lane + k * 32 >= columns) continue;
                if (there && of_lane[k] >= 0) copy_async(row + k * 32, slice + at * down_one + of_lane[k]);
                else row[k * 32] = T(0);
            }
        }
    }
    T* const weights = to + part_rows(p.y.taps) * pitch;  // [tap of y][destination slice][tap of x]
    MEDECONV_ROLLED for (int k = thread; k < taps_y * own_z<T> * padded<taps>; k += tile_threads) {
        const int i = k % padded<taps>, m = part.slice - k / padded<taps> % own_z<T>, j = k / padded<taps> / own_z<T>;
        if (i < taps && part.x + i < p.x.taps && m >= 0 && m < p.z.taps)
            copy_async(weights + k, p.weight + (m * p.y.taps + part.y + j) * p.x.taps + part.x + i);
        else weights[k] = T(0);
    }
}

// One result by the filter's own taps.
template <class T>
__device__ __forceinline__ T single_value(const DirectPass<T>& p, int64_t z, int64_t y, int64_t x) {
    T sum = 0;
    const T* weight = p.weight;
    MEDECONV_ROLLED for (int64_t m = 0; m < p.z.taps; ++m)
        MEDECONV_ROLLED for (int64_t j = 0; j < p.y.taps; ++j)
            MEDECONV_ROLLED for (int64_t i = 0; i < p.x.taps; ++i, ++weight) {
                int64_t a = z + p.z.base + m, b = y + p.y.base + j, c = x + p.x.base + i;
                if (p.periodic) {
                    a = scalar::source_index(a, p.z.source, Boundary::wrap), b = scalar::source_index(b, p.y.source, Boundary::wrap);
                    c = scalar::source_index(c, p.x.source, Boundary::wrap);
                }
                if (a < 0 || a >= p.z.source || b < 0 || b >= p.y.source || c < 0 || c >= p.x.source) continue;
                sum += *weight * p.input[(a * p.y.source + b) * p.x.source + c];
            }
    return sum;
}

template <int taps, bool plain, class T>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == 4 ? 4 : 3) direct_tiles(DirectPass<T> p, int64_t tiles_across,
                                                                                     int64_t tiles_down, int slices) {
    DYN_SHARED(T, shared);
    const int64_t block = blockIdx.x, x0 = block % tiles_across * tile_x, y0 = block / tiles_across % tiles_down * tile_y;
    const int64_t z0 = block / tiles_across / tiles_down * slices, first_slice = z0 + p.z.base;
    const int depth = int(min(int64_t(slices), p.z.destination - z0)), part = part_size<taps, T>(p.y.taps);
    int64_t begin = 0, end = depth + p.z.taps - 1;
    if (!p.periodic) begin = min(end, max(begin, -first_slice)), end = max(begin, min(end, p.z.source - first_slice));

    T sums[own_z<T>][own_y][groups][own_x]{};
    Part now{int(begin) - 1, 0, 0}, next{int(begin), 0, 0};
    T *own = shared, *next_own = shared + part;
    MEDECONV_ROLLED while (now.slice < end) {
        copies_done();
        __syncthreads();  // all have come, and nobody reads what the next overwrite
        if (next.slice < end) fetch<taps>(p, next, z0, y0, x0, next_own);
        // Its tap of destination slice z is now.slice - z.
        const int first_z = int(max(int64_t(0), now.slice - p.z.taps + 1)), last_z = min(depth - 1, now.slice);
        const int taps_y = now.slice < begin ? -own_y : int(min(int64_t(chunk_y), p.y.taps - now.y));  // at first there is none
        const T* row = own + threadIdx.y * own_y * pitch + threadIdx.x * own_x;
        const T* const weights = own + part_rows(p.y.taps) * pitch;
        MEDECONV_ROLLED for (int r = 0; r < own_y + taps_y - 1; ++r, row += pitch) {
            T values[groups][window<taps, T>];
            MEDECONV_UNROLL for (int g = 0; g < groups; ++g) load_vectors(values[g], row + g * group);
            MEDECONV_UNROLL for (int y = 0; y < own_y; ++y) {
                const int j = r - y;
                if (j < 0 || j >= taps_y) continue;
                MEDECONV_UNROLL for (int z = 0; z < own_z<T>; ++z) {
                    if (z < first_z || z > last_z) continue;
                    T weight[padded<taps>];
                    load_vectors(weight, weights + (j * own_z<T> + z) * padded<taps>);
                    MEDECONV_UNROLL for (int i = 0; i < taps; ++i)
                        MEDECONV_UNROLL for (int g = 0; g < groups; ++g)
                            MEDECONV_UNROLL for (int x = 0; x < own_x; ++x) sums[z][y][g][x] += weight[i] * values[g][x + i];
                }
            }
        }
        T* const last_own = own;
        own = next_own, next_own = last_own;
        now = next, next = now.after(taps, p.y.taps, p.x.taps);
    }

    // Through shared memory, so that a warp's results lie side by side.
    __syncthreads();
    MEDECONV_UNROLL for (int z = 0; z < own_z<T>; ++z)
        MEDECONV_UNROLL for (int y = 0; y < own_y; ++y)
            MEDECONV_UNROLL for (int g = 0; g < groups; ++g) {
                T* to = shared + (z * tile_y + threadIdx.y * own_y + y) * tile_x + g * group + threadIdx.x * own_x;
                constexpr int size = 16 / sizeof(T);
                MEDECONV_UNROLL for (int x = 0; x < own_x; x += size) {
                    Lanes<T, size> some;
                    MEDECONV_UNROLL for (int k = 0; k < size; ++k) some.v[k] = sums[z][y][g][x + k];
                    *reinterpret_cast<Lanes<T, size>*>(to + x) = some;
                }
            }
    __syncthreads();
    constexpr int rows_at_once = tile_threads / tile_x, of_thread = finished_at_once<plain>;
    const int thread = int(threadIdx.y) * across + int(threadIdx.x), column = thread % tile_x;
    const int rows = int(min(int64_t(tile_y), p.y.destination - y0));
    if (x0 + column < p.x.destination)
        MEDECONV_ROLLED for (int z = 0; z < depth; ++z)
            MEDECONV_ROLLED for (int row = thread / tile_x; row < rows; row += rows_at_once) {
                T& value = shared[(z * tile_y + row) * tile_x + column];
                if (!is_number(value)) value = single_value(p, z0 + z, y0 + row, x0 + column);
            }
    const scalar::Numbers<T> number = numbers_of(p.operands);
    T totals[sums_of_a_sweep]{};
    as_constant(p.formula, [&](auto formula) {
        if (x0 + column >= p.x.destination) return;
        for (int z = 0; z < depth; ++z)
            for (int row = thread / tile_x; row < rows; row += rows_at_once * of_thread) {
                const int64_t first = ((z0 + z) * p.y.destination + y0 + row) * p.x.destination + x0 + column;
                const int64_t step = rows_at_once * p.x.destination;
                T values[of_thread];
                MEDECONV_UNROLL for (int k = 0; k < of_thread; ++k)
                    values[k] = shared[(z * tile_y + row + k * rows_at_once) * tile_x + column];
                const int count = (rows - row + rows_at_once - 1) / rows_at_once;
                const auto there = [=](int k) { return k < count; };
                const auto at = [=](int k) { return first + k * step; };
                Asked<formula, plain, of_thread, T> asked{};
                asked.ask(p.operands, there, at);
                asked.finish(p.operands, number, values, there, at, totals);
                if (p.kept)
                    MEDECONV_UNROLL for (int k = 0; k < of_thread; ++k)
                        if (k < count) p.kept[first + k * step] = values[k];
            }
    });
    if constexpr (!plain) {
        if (p.operands.sums) __syncthreads();  // the results' memory is used again
        finish_block(p.operands, totals, reinterpret_cast<double*>(shared), block);
    }
}

constexpr int rows = 4;  // values per thread
constexpr int line_threads = 256, line_tile = rows * line_threads, line_chunk = line_threads;

template <class T>
constexpr size_t line_bytes = size_t(line_tile + 2 * line_chunk) * sizeof(T);

template <Formula formula, bool plain, class T>
__global__ void __launch_bounds__(line_threads, 2) direct_lines(DirectPass<T> p) {
    DYN_SHARED(T, source);
    T* const weights = source + line_tile + line_chunk;
    const int64_t x0 = int64_t(blockIdx.x) * line_tile;
    const int own = threadIdx.x;
    T sums[rows]{};
    for (int64_t i0 = 0; i0 < p.x.taps; i0 += line_chunk) {
        const int taps = int(min(int64_t(line_chunk), p.x.taps - i0));
        __syncthreads();  // nobody reads the part before any more
        for (int c = own; c < line_tile + taps - 1; c += line_threads) {
            int64_t x = x0 + p.x.base + i0 + c;
            if (p.periodic) x = scalar::source_index(x, p.x.source, Boundary::wrap);
            source[c] = x >= 0 && x < p.x.source ? p.input[x] : T(0);
        }
        if (own < taps) weights[own] = p.weight[i0 + own];
        __syncthreads();
        for (int i = 0; i < taps; ++i) {
            const T weight = weights[i];
            for (int r = 0; r < rows; ++r) sums[r] += weight * source[own + r * line_threads + i];
        }
    }
    T factor = 1;
    for (const T* times : p.times)
        if (times) factor *= __ldg(times);
    const scalar::Numbers<T> number = numbers_of(p.operands);
    T totals[sums_of_a_sweep]{};
    for (int r = 0; r < rows; ++r) {
        const int64_t at = x0 + own + r * line_threads;
        if (at >= p.x.destination) continue;
        const T next = finish_value<formula, plain>(p.operands, number, sums[r] * factor, at, totals);
        if (p.kept) p.kept[at] = next;
    }
    if constexpr (!plain) {
        if (p.operands.sums) __syncthreads();  // the source's memory is used again
        finish_block(p.operands, totals, reinterpret_cast<double*>(source), blockIdx.x);
    }
}

// Taps of a row that are unrolled: those that take the fewest products, a chunk's own cost counted as three halves of a tap.
int taps_at_once(int64_t taps) {
    int best = 1;
    for (const int n : {3, 5, 7})
        if (ceil_div(taps, n) * (2 * n + 3) < ceil_div(taps, best) * (2 * best + 3)) best = n;
    return best;
}

// Slices of a block: fewer where there would be too few blocks for a large GPU.
constexpr int64_t enough_blocks = 256;
template <class T>
int block_slices(AxisTaps z, AxisTaps y, AxisTaps x) {
    const int64_t tiles = ceil_div(y.destination, tile_y) * ceil_div(x.destination, tile_x);
    int slices = own_z<T>;
    while (slices > 1 && ceil_div(z.destination, slices) * tiles < enough_blocks) slices /= 2;
    return slices;
}
template <class T>
int64_t tile_blocks(AxisTaps z, AxisTaps y, AxisTaps x) {
    return ceil_div(z.destination, block_slices<T>(z, y, x)) * ceil_div(y.destination, tile_y) * ceil_div(x.destination, tile_x);
}

template <int taps, class T>
void launch_tiles(const DirectPass<T>& p, Stream stream) {
    launch(p.operands.plain() ? direct_tiles<taps, true, T> : direct_tiles<taps, false, T>, blocks(tile_blocks<T>(p.z, p.y, p.x)),
           dim3(across, down), tile_bytes<taps, T>(p.y.taps), stream, p, ceil_div(p.x.destination, tile_x),
           ceil_div(p.y.destination, tile_y), block_slices<T>(p.z, p.y, p.x));
}

}  // namespace

int64_t direct_blocks(AxisTaps z, AxisTaps y, AxisTaps x) {
    if (is_line(z, y)) return ceil_div(x.destination, line_tile);
    return std::max(tile_blocks<float>(z, y, x), tile_blocks<double>(z, y, x));
}

template <class T>
void direct(const DirectPass<T>& pass, Stream stream) {
    if (is_line(pass.z, pass.y)) {
        const int64_t count = direct_blocks(pass.z, pass.y, pass.x);
        with_formula(pass.formula, pass.operands, [&](auto f, auto plain) {
            launch(direct_lines<f, plain, T>, blocks(count), dim3(line_threads), line_bytes<T>, stream, pass);
        });
        return finish_sums(pass.operands.sums, count, stream);
    }
    switch (taps_at_once(pass.x.taps)) {
    case 1: launch_tiles<1>(pass, stream); break;
    case 3: launch_tiles<3>(pass, stream); break;
    case 5: launch_tiles<5>(pass, stream); break;
    case 7: launch_tiles<7>(pass, stream); break;
    }
    finish_sums(pass.operands.sums, tile_blocks<T>(pass.z, pass.y, pass.x), stream);
}

template void direct<float>(const DirectPass<float>&, Stream);
template void direct<double>(const DirectPass<double>&, Stream);

}  // namespace medeconv::cuda
