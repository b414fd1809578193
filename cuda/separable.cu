// The pass over slices: a block makes a tile of 32 × 32 values. Each warp filters rows along x, from its own line of shared
// memory, into a column of filtered rows, which are then filtered along y, four results per thread. Long filters go by chunks.
// The pass along z: a thread makes eight values of a column; fifteen values serve eight taps of each.
#include "separable.hpp"

#include "formula.cuh"

namespace medeconv::cuda {
namespace {

constexpr int across = 32, down = 8, rows = 4;  // threads of a block, and rows per thread
constexpr int tile = 32;
constexpr int chunk = 64;                       // taps; a multiple of `rows`
constexpr int line = tile + chunk;
constexpr int filtered_rows = tile + chunk - 1;
constexpr int columns = 128, deep = 8;          // threads of a block of the z pass, and slices per thread

template <class T>
constexpr size_t shared_bytes = (size_t(filtered_rows) * tile + down * line) * sizeof(T);

// Destination slice k is the source's k + z_base, times weight_z[0] if that is given.
template <Formula formula, bool plain, class T>
__global__ void __launch_bounds__(across* down, 2) filter_slices(SeparablePass<T> p, int64_t z_base, int64_t tiles_across, int64_t tiles_down) {
    DYN_SHARED(T, filtered);
    T* const own_line = filtered + filtered_rows * tile + threadIdx.y * line;  // a warp's
    const int64_t block = blockIdx.x, x0 = block % tiles_across * tile, y0 = block / tiles_across % tiles_down * tile;
    const int64_t z = block / tiles_across / tiles_down;
    const int column = threadIdx.x, first_row = threadIdx.y * rows;
    int64_t slice = z + z_base;
    if (p.periodic) slice = scalar::source_index(slice, p.z.source, Boundary::wrap);
    const bool slice_there = slice >= 0 && slice < p.z.source;
    T sums[rows]{};
    for (int64_t j0 = 0; slice_there && j0 < p.y.taps; j0 += chunk) {
        const int taps_y = int(min(int64_t(chunk), p.y.taps - j0)), padded = (taps_y + rows - 1) / rows * rows;
        for (int r = threadIdx.y; r < tile + padded - 1; r += down) {
            int64_t y = y0 + p.y.base + j0 + r;
            if (p.periodic) y = scalar::source_index(y, p.y.source, Boundary::wrap);
            T sum = 0;
            if (y >= 0 && y < p.y.source) {  // as one warp
                const T* from = p.input + (slice * p.y.source + y) * p.x.source;
                for (int64_t i0 = 0; i0 < p.x.taps; i0 += chunk) {
                    const int taps_x = int(min(int64_t(chunk), p.x.taps - i0));
                    for (int c = column; c < tile + taps_x - 1; c += across) {
                        int64_t x = x0 + p.x.base + i0 + c;
                        if (p.periodic) x = scalar::source_index(x, p.x.source, Boundary::wrap);
                        own_line[c] = x >= 0 && x < p.x.source ? from[x] : T(0);
                    }
                    __syncwarp();
                    for (int i = 0; i < taps_x; ++i) sum += __ldg(p.weight_x + i0 + i) * own_line[column + i];
                    __syncwarp();
                }
            }
            filtered[r * tile + column] = sum;
        }
        __syncthreads();
        for (int j = 0; j < padded; j += rows) {
            T values[2 * rows - 1];
            for (int k = 0; k < 2 * rows - 1; ++k) values[k] = filtered[(first_row + j + k) * tile + column];
            for (int k = 0; k < rows; ++k) {
                const T weight = j + k < taps_y ? __ldg(p.weight_y + j0 + j + k) : T(0);
                for (int r = 0; r < rows; ++r) sums[r] += weight * values[k + r];
            }
        }
        __syncthreads();
    }
    const T scale = p.weight_z ? __ldg(p.weight_z) : T(1);
    const scalar::Numbers<T> number = numbers_of(p.operands);
    T totals[sums_of_a_sweep]{};
    for (int r = 0; r < rows; ++r) {
        const int64_t y = y0 + first_row + r, x = x0 + column;
        if (y >= p.y.destination || x >= p.x.destination) continue;
        const int64_t at = (z * p.y.destination + y) * p.x.destination + x;
        const T next = finish_value<formula, plain>(p.operands, number, sums[r] * scale, at, totals);
        if (p.kept) p.kept[at] = next;
    }
    if constexpr (!plain) finish_block(p.operands, totals, reinterpret_cast<double*>(filtered), block);
}

template <Formula formula, bool plain, class T>
__global__ void __launch_bounds__(columns) filter_columns(SeparablePass<T> p, int64_t plane, int64_t pieces) {
    DYN_SHARED(double, shared);
    const int64_t column = blockIdx.x % pieces * columns + threadIdx.x, z0 = blockIdx.x / pieces * deep;
    T totals[sums_of_a_sweep]{};
    if (column < plane) {
        T sums[deep]{};
        for (int64_t m0 = 0; m0 < p.z.taps; m0 += deep) {
            T values[2 * deep - 1];
            for (int k = 0; k < 2 * deep - 1; ++k) {
                int64_t z = z0 + p.z.base + m0 + k;
                if (p.periodic) z = scalar::source_index(z, p.z.source, Boundary::wrap);
                values[k] = z >= 0 && z < p.z.source ? p.input[z * plane + column] : T(0);
            }
            for (int k = 0; k < deep; ++k) {
                const T weight = m0 + k < p.z.taps ? __ldg(p.weight_z + m0 + k) : T(0);
                for (int r = 0; r < deep; ++r) sums[r] += weight * values[k + r];
            }
        }
        const scalar::Numbers<T> number = numbers_of(p.operands);
        for (int r = 0; r < deep; ++r) {
            if (z0 + r >= p.z.destination) continue;
            const int64_t at = (z0 + r) * plane + column;
            const T next = finish_value<formula, plain>(p.operands, number, sums[r], at, totals);
            if (p.kept) p.kept[at] = next;
        }
    }
    if constexpr (!plain) finish_block(p.operands, totals, shared, blockIdx.x);
}

int64_t slice_blocks(int64_t depth, AxisTaps y, AxisTaps x) {
    return depth * ceil_div(y.destination, tile) * ceil_div(x.destination, tile);
}

template <class T>
void run_slices(const SeparablePass<T>& p, int64_t depth, int64_t z_base, Stream stream) {
    with_formula(p.formula, p.operands, [&](auto f, auto plain) {
        launch(filter_slices<f, plain, T>, blocks(slice_blocks(depth, p.y, p.x)), dim3(across, down), shared_bytes<T>, stream, p, z_base,
               ceil_div(p.x.destination, tile), ceil_div(p.y.destination, tile));
    });
}

}  // namespace

int64_t separable_blocks(AxisTaps z, AxisTaps y, AxisTaps x) {
    if (is_line(z, y)) return direct_blocks(z, y, x);
    if (z.taps == 1) return slice_blocks(z.destination, y, x);
    return ceil_div(y.destination * x.destination, columns) * ceil_div(z.destination, deep);
}
int64_t separable_workspace(AxisTaps z, AxisTaps y, AxisTaps x) { return z.taps == 1 ? 0 : z.source * y.destination * x.destination; }

template <class T>
void separable(const SeparablePass<T>& pass, T* workspace, Stream stream) {
    if (is_line(pass.z, pass.y)) {
        direct<T>({pass.z, pass.y, pass.x, pass.periodic, pass.weight_x, pass.input, pass.kept, pass.formula, pass.operands,
                   {pass.weight_z, pass.weight_y}}, stream);
        return;
    }
    if (pass.z.taps == 1) {
        run_slices(pass, pass.z.destination, pass.z.base, stream);
    } else {
        SeparablePass<T> slices = pass;
        slices.formula = Formula::copy;
        slices.operands = {};
        slices.operands.out = workspace;
        slices.kept = nullptr;
        slices.weight_z = nullptr;
        run_slices(slices, pass.z.source, 0, stream);
        SeparablePass<T> last = pass;
        last.input = workspace;
        const int64_t plane = pass.y.destination * pass.x.destination, pieces = ceil_div(plane, columns);
        with_formula(pass.formula, pass.operands, [&](auto f, auto plain) {
            launch(filter_columns<f, plain, T>, blocks(pieces * ceil_div(pass.z.destination, deep)), dim3(columns),
                   plain ? 0 : sums_shared_bytes, stream, last, plane, pieces);
        });
    }
    finish_sums(pass.operands.sums, separable_blocks(pass.z, pass.y, pass.x), stream);
}

template void separable<float>(const SeparablePass<float>&, float*, Stream);
template void separable<double>(const SeparablePass<double>&, double*, Stream);

}  // namespace medeconv::cuda
