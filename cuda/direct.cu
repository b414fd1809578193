// A block makes a tile of 32 × 32 values of one slice. The source's part that a square of taps reaches is copied to shared
// memory with what lies outside written out; a thread sums four rows of a column: seven values and four weights serve sixteen
// products. Of a line a block makes 1024 values; its threads sum every 256th.
#include "direct.hpp"

#include "formula.cuh"

namespace medeconv::cuda {
namespace {

constexpr int across = 32, down = 8, rows = 4;   // threads of a block, and rows per thread
constexpr int tile = 32;                         // = down · rows
constexpr int chunk = 16;                        // taps per axis whose source fits; a multiple of `rows`
constexpr int pitch = tile + chunk;

template <class T>
constexpr size_t shared_bytes = (size_t(pitch) * (tile + chunk - 1) + chunk * chunk) * sizeof(T);

template <Formula formula, bool plain, class T>
__global__ void __launch_bounds__(across* down, 2) direct_tiles(DirectPass<T> p, int64_t tiles_across, int64_t tiles_down) {
    DYN_SHARED(T, source);
    T* const weights = source + pitch * (tile + chunk - 1);
    const int64_t block = blockIdx.x, x0 = block % tiles_across * tile, y0 = block / tiles_across % tiles_down * tile;
    const int64_t z = block / tiles_across / tiles_down;
    const int column = threadIdx.x, first_row = threadIdx.y * rows;
    T sums[rows]{};
    for (int64_t m = 0; m < p.z.taps; ++m) {
        int64_t slice = z + p.z.base + m;
        if (p.periodic) slice = scalar::source_index(slice, p.z.source, Boundary::wrap);
        else if (slice < 0 || slice >= p.z.source) continue;  // as one block
        const T* from = p.input + slice * p.y.source * p.x.source;
        for (int64_t j0 = 0; j0 < p.y.taps; j0 += chunk)
            for (int64_t i0 = 0; i0 < p.x.taps; i0 += chunk) {
                const int taps_y = int(min(int64_t(chunk), p.y.taps - j0)), taps_x = int(min(int64_t(chunk), p.x.taps - i0));
                const int padded = (taps_y + rows - 1) / rows * rows;
                __syncthreads();  // nobody reads the tile before any more
                for (int r = threadIdx.y; r < tile + padded - 1; r += down) {
                    int64_t y = y0 + p.y.base + j0 + r;
                    if (p.periodic) y = scalar::source_index(y, p.y.source, Boundary::wrap);
                    const bool there = y >= 0 && y < p.y.source;
                    for (int c = column; c < tile + taps_x - 1; c += across) {
                        int64_t x = x0 + p.x.base + i0 + c;
                        if (p.periodic) x = scalar::source_index(x, p.x.source, Boundary::wrap);
                        source[r * pitch + c] = there && x >= 0 && x < p.x.source ? from[y * p.x.source + x] : T(0);
                    }
                }
                for (int k = threadIdx.y * across + column; k < padded * chunk; k += across * down) {
                    const int j = k / chunk, i = k % chunk;
                    weights[k] = j < taps_y && i < taps_x ? p.weight[(m * p.y.taps + j0 + j) * p.x.taps + i0 + i] : T(0);
                }
                __syncthreads();
                for (int i = 0; i < taps_x; ++i)
                    for (int j = 0; j < padded; j += rows) {
                        T values[2 * rows - 1];
                        for (int k = 0; k < 2 * rows - 1; ++k) values[k] = source[(first_row + j + k) * pitch + column + i];
                        for (int k = 0; k < rows; ++k) {
                            const T weight = weights[(j + k) * chunk + i];
                            for (int r = 0; r < rows; ++r) sums[r] += weight * values[k + r];
                        }
                    }
            }
    }
    const scalar::Numbers<T> number = numbers_of(p.operands);
    T totals[sums_of_a_sweep]{};
    for (int r = 0; r < rows; ++r) {
        const int64_t y = y0 + first_row + r, x = x0 + column;
        if (y >= p.y.destination || x >= p.x.destination) continue;
        const int64_t at = (z * p.y.destination + y) * p.x.destination + x;
        const T next = finish_value<formula, plain>(p.operands, number, sums[r], at, totals);
        if (p.kept) p.kept[at] = next;
    }
    if constexpr (!plain) {
        if (p.operands.sums) __syncthreads();  // the tile's memory is used again
        finish_block(p.operands, totals, reinterpret_cast<double*>(source), block);
    }
}

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

}  // namespace

int64_t direct_blocks(AxisTaps z, AxisTaps y, AxisTaps x) {
    if (is_line(z, y)) return ceil_div(x.destination, line_tile);
    return z.destination * ceil_div(y.destination, tile) * ceil_div(x.destination, tile);
}

template <class T>
void direct(const DirectPass<T>& pass, Stream stream) {
    const int64_t tiles_across = ceil_div(pass.x.destination, tile), tiles_down = ceil_div(pass.y.destination, tile);
    const int64_t count = direct_blocks(pass.z, pass.y, pass.x);
    if (is_line(pass.z, pass.y)) {
        with_formula(pass.formula, pass.operands, [&](auto f, auto plain) {
            launch(direct_lines<f, plain, T>, blocks(count), dim3(line_threads), line_bytes<T>, stream, pass);
        });
        return finish_sums(pass.operands.sums, count, stream);
    }
    with_formula(pass.formula, pass.operands, [&](auto f, auto plain) {
        launch(direct_tiles<f, plain, T>, blocks(count), dim3(across, down), shared_bytes<T>, stream, pass, tiles_across, tiles_down);
    });
    finish_sums(pass.operands.sums, count, stream);
}

template void direct<float>(const DirectPass<float>&, Stream);
template void direct<double>(const DirectPass<double>&, Stream);

}  // namespace medeconv::cuda
