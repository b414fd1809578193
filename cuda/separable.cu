// The pass over slices: a block makes a tile of `across` columns times eight rows per warp. Each warp copies rows of the source to
// shared memory and filters them there along x, in place, eight results per lane (of 8 bytes: four): from 16 bytes loaded come 32
// products and more. Of the filtered rows each lane then makes eight results in each of its four (two) columns: a value loaded
// serves eight taps. Columns are a warp apart, so that whole lines of memory are written whatever the length of rows.
// The pass along z: a thread goes down a column, eight results at a time, and keeps the values in reach of 16 taps in registers
// while the next are on their way: each value is read once, but for those that two segments of a column reach.
// Filters are filled up with zeros to whole groups of taps. Long filters go by chunks.
#include "separable.hpp"

#include <algorithm>

#include "formula.cuh"

namespace medeconv::cuda {
namespace {

constexpr int results = 8;                      // per thread and column, in both passes; also taps at once along y
constexpr int most_warps = 8;                   // of a block of the pass over slices
constexpr int chunk_bytes = 256, chunk_y = 48;  // taps that a tile reaches beyond itself, along x in bytes
constexpr int columns = 128;                    // threads of a block of the z pass
constexpr int window = 16;                      // taps along z whose values stay in registers
constexpr int64_t processors = 132;             // of a large GPU: images of few tiles are cut smaller, to employ them

template <class T>
constexpr int per_lane = 16 / sizeof(T);        // columns of a lane
template <class T>
constexpr int together = 2 * per_lane<T>;       // results of a lane along x, and taps at once
template <class T>
constexpr int across = 32 * per_lane<T>;
template <class T>
constexpr int chunk_x = chunk_bytes / sizeof(T);

constexpr int whole_groups(int64_t taps, int group) { return int((taps + group - 1) / group) * group; }

// How the pass over slices is cut.
struct SliceCut {
    unsigned tiles_across, tiles_down;
    int64_t blocks;
    int warps;          // of a block; eight rows each
    int pitch, rows;    // of the tile with all that its filters reach. The pitch is odd in units of 16 bytes, see filter_row
    bool in_place;      // the filtered rows replace the source's
    int taps_x, taps_y; // of a chunk at most, in whole groups
    size_t shared_bytes;
};
template <class T>
SliceCut slice_cut(int64_t depth, AxisTaps y, AxisTaps x) {
    SliceCut cut;
    const int64_t tiles_across = ceil_div(x.destination, across<T>);
    const auto blocks = [&](int warps) { return depth * tiles_across * ceil_div(y.destination, warps * results); };
    cut.warps = most_warps;
    while (cut.warps > 2 && (cut.warps * results >= 2 * y.destination || blocks(cut.warps) < processors * 3 / 4)) cut.warps /= 2;
    cut.blocks = blocks(cut.warps);
    cut.tiles_across = unsigned(tiles_across), cut.tiles_down = unsigned(ceil_div(y.destination, cut.warps * results));
    cut.in_place = x.taps <= chunk_x<T>;
    cut.taps_x = std::min(chunk_x<T>, whole_groups(x.taps, together<T>));
    cut.taps_y = std::min(chunk_y, whole_groups(y.taps, results));
    cut.pitch = whole_groups(across<T> + cut.taps_x, 32) + per_lane<T>;
    cut.rows = cut.warps * results + cut.taps_y;
    const int sums = y.taps > chunk_y ? cut.warps * results * across<T> : 0;  // wait in shared memory for the next chunk
    cut.shared_bytes = (size_t(cut.pitch) * cut.rows * (cut.in_place ? 1 : 2) + cut.warps * cut.taps_x + cut.taps_y + sums) * sizeof(T);
    return cut;
}

// Positions of an axis one after the other: the first, brought into the axis once, and what is `k` behind it; -1: zero.
constexpr int far_outside = 1 << 20;
__device__ __forceinline__ int first_place(int64_t i, int64_t n, bool periodic) {
    if (periodic) {
        i += i < 0 ? n : i >= n ? -n : 0;
        return int(scalar::source_index(i, n, Boundary::wrap));
    }
    return int(max(int64_t(-far_outside), min(i, n)));
}
__device__ __forceinline__ int place_of(int first, int k, int n, bool periodic) {
    int i = first + k;
    if (periodic && i >= n) {
        i -= n;
        if (i >= n) i %= n;
    }
    return unsigned(i) < unsigned(n) ? i : -1;
}

// To shared memory without waiting, or zero.
template <class T>
__device__ __forceinline__ void copy_or_zero(T* to, const T* from, bool there) {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from), "n"(sizeof(T)),
                 "r"(there ? int(sizeof(T)) : 0) : "memory");
#else
    *to = there ? *from : T(0);
#endif
}

template <class T>
__device__ __forceinline__ T weight_of(const T* weight, int i, int taps) { return i < taps ? __ldg(weight + i) : T(0); }

// A lane's results of one row: `from` is its first value. Eight lanes load at once, four of a row and four of the next, whose
// 16 bytes lie in other banks.
template <class T>
__device__ __forceinline__ Lanes<T, together<T>> filter_row(const T* from, const T* weights, int taps) {
    constexpr int n = together<T>;
    Lanes<T, n> sums{}, values = load<n>(from);
#pragma unroll 2
    for (int t = 0; t < taps; t += n) {
        const Lanes<T, n> weight = load<n>(weights + t), next = load<n>(from + t + n);
        MEDECONV_UNROLL
        for (int k = 0; k < n; ++k)
            MEDECONV_UNROLL
            for (int r = 0; r < n; ++r) sums.v[r] += weight.v[k] * (k + r < n ? values.v[k + r] : next.v[(k + r) % n]);
        values = next;
    }
    return sums;
}

// One result by the filters' own taps, of a slice and of a column.
template <class T>
__device__ __forceinline__ T value_of_slice(const SeparablePass<T>& p, const T* slice, int64_t y, int64_t x) {
    T sum = 0;
    MEDECONV_ROLLED
    for (int64_t j = 0; j < p.y.taps; ++j) {
        int64_t b = y + p.y.base + j;
        if (p.periodic) b = scalar::source_index(b, p.y.source, Boundary::wrap);
        if (b < 0 || b >= p.y.source) continue;
        T of_row = 0;
        MEDECONV_ROLLED
        for (int64_t i = 0; i < p.x.taps; ++i) {
            int64_t c = x + p.x.base + i;
            if (p.periodic) c = scalar::source_index(c, p.x.source, Boundary::wrap);
            if (c >= 0 && c < p.x.source) of_row += p.weight_x[i] * slice[b * p.x.source + c];
        }
        sum += p.weight_y[j] * of_row;
    }
    return sum;
}
template <class T>
__device__ __forceinline__ T value_of_column(const SeparablePass<T>& p, const T* column, int64_t plane, int64_t z) {
    T sum = 0;
    MEDECONV_ROLLED
    for (int64_t m = 0; m < p.z.taps; ++m) {
        int64_t a = z + p.z.base + m;
        if (p.periodic) a = scalar::source_index(a, p.z.source, Boundary::wrap);
        if (a >= 0 && a < p.z.source) sum += p.weight_z[m] * column[a * plane];
    }
    return sum;
}

// Destination slice k is the source's k + z_base, times weight_z[0] if that is given.
template <Formula formula, bool plain, class T>
__global__ void __launch_bounds__(32 * most_warps, sizeof(T) == 4 ? 3 : 2) filter_slices(SeparablePass<T> p, int64_t z_base, SliceCut cut) {
    constexpr int n = together<T>, mine = per_lane<T>;
    constexpr int usual = across<T> / 32 + 1, most_copies = (across<T> + chunk_x<T>) / 32;  // of a lane, per row
    DYN_SHARED(T, source);
    const int lane = threadIdx.x, warp = threadIdx.y, warps = cut.warps, pitch = cut.pitch;
    T* const filtered = cut.in_place ? source : source + pitch * cut.rows;
    T* const weights_y = filtered + pitch * cut.rows;
    T* const weights_x = weights_y + cut.taps_y + warp * cut.taps_x;  // a warp's own: it waits for no other
    const unsigned block = blockIdx.x, line = block / cut.tiles_across, z = line / cut.tiles_down;
    const int x0 = int(block - line * cut.tiles_across) * across<T>, y0 = int(line - z * cut.tiles_down) * (warps * results);
    const int high = min(warps * results, int(p.y.destination) - y0), wide = min(across<T>, int(p.x.destination) - x0);
    const int slice = place_of(first_place(z + z_base, p.z.source, p.periodic), 0, int(p.z.source), p.periodic);
    const int source_x = int(p.x.source), source_y = int(p.y.source), all_x = int(p.x.taps), all_y = int(p.y.taps);
    const T* const input = p.input + int64_t(slice) * p.y.source * p.x.source;
    const int first_row = warp * results;
    T sums[results][mine]{};
    for (int j0 = 0; slice >= 0 && j0 < all_y; j0 += chunk_y) {
        const int taps_y = min(cut.taps_y, whole_groups(all_y - j0, results)), rows = high + taps_y - 1;
        if (j0 > 0) __syncthreads();  // nobody reads the rows before any more
        const int first_y = first_place(y0 + p.y.base + j0, p.y.source, p.periodic);
        MEDECONV_ROLLED
        for (int j = warp * 32 + lane; j < taps_y; j += warps * 32) weights_y[j] = weight_of(p.weight_y, j0 + j, all_y);
        for (int i0 = 0; i0 < all_x; i0 += chunk_x<T>) {
            const int taps_x = min(cut.taps_x, whole_groups(all_x - i0, n)), width = wide + taps_x - 1;
            MEDECONV_ROLLED
            for (int i = lane; i < taps_x; i += 32) weights_x[i] = weight_of(p.weight_x, i0 + i, all_x);
            const int first_x = first_place(x0 + p.x.base + i0, p.x.source, p.periodic);
            const bool inside = first_x >= 0 && first_x + 32 * usual <= source_x;
            int place[most_copies]{};
            if (!inside || width > 32 * usual)
                MEDECONV_UNROLL
                for (int c = 0; c < most_copies; ++c)
                    place[c] = lane + 32 * c < width ? place_of(first_x, lane + 32 * c, source_x, p.periodic) : -1;
            MEDECONV_ROLLED
            for (int r = 2 * warp; r < rows; r += r % 2 ? 2 * warps - 1 : 1) {
                const int y = place_of(first_y, r, source_y, p.periodic);
                const T* const from = input + int64_t(y) * source_x;
                T* const to = source + r * pitch + lane;
                if (y < 0) {
                    MEDECONV_UNROLL
                    for (int c = 0; c < usual; ++c) to[32 * c] = T(0);
                } else if (inside) {
                    MEDECONV_UNROLL
                    for (int c = 0; c < usual; ++c) copy_async(to + 32 * c, from + first_x + lane + 32 * c);
                } else {
                    MEDECONV_UNROLL
                    for (int c = 0; c < usual; ++c) copy_or_zero(to + 32 * c, from + place[c], place[c] >= 0);
                }
                MEDECONV_UNROLL
                for (int c = usual; c < most_copies; ++c)
                    if (32 * c < width) copy_or_zero(to + 32 * c, from + place[c], y >= 0 && place[c] >= 0);
            }
            copies_done();
            __syncwarp();
            const int group = lane % 4 + lane / 8 * 4, second = lane / 4 % 2;
            MEDECONV_ROLLED
            for (int r = 2 * warp + second; r - second < rows; r += 2 * warps) {
                Lanes<T, n> row = filter_row(source + r * pitch + group * n, weights_x, taps_x);
                T* const to = filtered + r * pitch + group * n;
                if (i0 > 0) {
                    const Lanes<T, n> before = load<n>(to);
                    MEDECONV_UNROLL
                    for (int k = 0; k < n; ++k) row.v[k] += before.v[k];
                }
                __syncwarp();  // the source's row has been read
                *reinterpret_cast<Lanes<T, n>*>(to) = row;
            }
            __syncwarp();
        }
        __syncthreads();
        T* const waiting = weights_y + cut.taps_y + warps * cut.taps_x + warp * results * across<T> + lane;
        MEDECONV_UNROLL
        for (int i = 0; i < results * mine; ++i) sums[i / mine][i % mine] = j0 > 0 ? waiting[32 * i] : T(0);
        if (first_row < high) {
            MEDECONV_ROLLED
            for (int j = 0; j < taps_y; j += results) {
                const Lanes<T, results> weight = load<results>(weights_y + j);
                const T* from = filtered + (first_row + j) * pitch + lane;
                MEDECONV_UNROLL
                for (int k = 0; k < 2 * results - 1; ++k, from += pitch) {
                    T values[mine];
                    MEDECONV_UNROLL
                    for (int c = 0; c < mine; ++c) values[c] = from[32 * c];
                    MEDECONV_UNROLL
                    for (int r = 0; r < results; ++r)
                        if (k >= r && k - r < results)
                            MEDECONV_UNROLL
                            for (int c = 0; c < mine; ++c) sums[r][c] += weight.v[k - r] * values[c];
                }
            }
        }
        if (j0 + chunk_y < all_y)
            MEDECONV_UNROLL
            for (int i = 0; i < results * mine; ++i) waiting[32 * i] = sums[i / mine][i % mine];
    }
    bool numbers = true;
    MEDECONV_UNROLL
    for (int i = 0; i < results * mine; ++i) numbers = numbers && is_number(sums[i / mine][i % mine]);
    if (!numbers && slice >= 0)
        MEDECONV_ROLLED
        for (int r = 0; r < results; ++r) {  // the first row's sums are next, as below
            T row[mine];
            MEDECONV_UNROLL
            for (int c = 0; c < mine; ++c) {
                const int y = first_row + r, x = lane + 32 * c;
                row[c] = is_number(sums[0][c]) || y >= high || x >= wide ? sums[0][c] : value_of_slice(p, input, y0 + y, x0 + x);
            }
            MEDECONV_UNROLL
            for (int k = 0; k < results; ++k)
                MEDECONV_UNROLL
                for (int c = 0; c < mine; ++c) sums[k][c] = k + 1 < results ? sums[(k + 1) % results][c] : row[c];
        }
    const T scale = p.weight_z ? __ldg(p.weight_z) : T(1);
    const scalar::Numbers<T> number = numbers_of(p.operands);
    T totals[sums_of_a_sweep]{};
#pragma unroll(formula == Formula::copy && plain ? results : 1)
    for (int r = 0; r < results; ++r) {  // the first row's sums are next
        bool there[mine];
        MEDECONV_UNROLL
        for (int c = 0; c < mine; ++c) there[c] = first_row + r < high && lane + 32 * c < wide, sums[0][c] *= scale;
        const int64_t first = (int64_t(z) * p.y.destination + y0 + first_row + r) * p.x.destination + x0 + lane;
        constexpr int at_once = plain ? mine : formula == Formula::ratio ? 1 : mine / 2;  // as registers allow
        const auto at = [=](int c) { return first + 32 * c; };
        MEDECONV_UNROLL for (int c = 0; c < mine; c += at_once) {
            const auto is_there = [&](int k) { return there[c + k]; };
            const auto place = [=](int k) { return at(c + k); };
            Asked<formula, plain, at_once, T> asked{};
            asked.ask(p.operands, is_there, place);
            asked.finish(p.operands, number, sums[0] + c, is_there, place, totals);
        }
        if (p.kept)
            MEDECONV_UNROLL for (int c = 0; c < mine; ++c)
                if (there[c]) p.kept[at(c)] = sums[0][c];
        MEDECONV_UNROLL
        for (int k = 0; k + 1 < results; ++k)
            MEDECONV_UNROLL
            for (int c = 0; c < mine; ++c) sums[k][c] = sums[k + 1][c];
    }
    if constexpr (!plain) {
        if (p.operands.sums) __syncthreads();  // the rows' memory is used again
        finish_block(p.operands, totals, reinterpret_cast<double*>(source), block);
    }
}

// Segments of a column lie one behind the other in the order of blocks: what two of them reach comes from cache.
template <Formula formula, bool plain, class T>
__global__ void __launch_bounds__(columns, sizeof(T) == 4 ? 5 : 2) filter_columns(SeparablePass<T> p, int64_t plane, unsigned segments,
                                                                                   int length) {
    constexpr int reach = window + results, at_once = plain ? results : results / 2;
    DYN_SHARED(double, shared);
    const unsigned piece = blockIdx.x / segments;
    const int64_t column = int64_t(piece) * columns + threadIdx.x;
    const int64_t z0 = int64_t(blockIdx.x - piece * segments) * length, z1 = min(z0 + length, p.z.destination);
    const T* const input = p.input + min(column, plane - 1);
    const bool slides = p.z.taps <= window;
    const int source = int(p.z.source), taps = int(p.z.taps);
    const int64_t end = z1 - 1 + p.z.base + p.z.taps;  // behind the last value that is needed
    T weight[window], values[reach]{}, next[results]{}, totals[sums_of_a_sweep]{};
    const scalar::Numbers<T> number = numbers_of(p.operands);
    int64_t at = 0;
    MEDECONV_ROLLED
    for (int64_t z = z0; z < z1; z += results) {
        T sums[results]{};
        bool there[results];
        MEDECONV_UNROLL
        for (int r = 0; r < results; ++r) there[r] = z + r < z1 && column < plane;
        Asked<formula, plain, at_once, T> asked{};
        if constexpr (plain)  // comes while they are summed
            asked.ask(p.operands, [&](int k) { return there[k]; }, [=](int k) { return (z + k) * plane + column; });
        MEDECONV_ROLLED
        for (int m0 = 0; m0 < taps; m0 += window) {
            const bool anew = z == z0 || !slides;
            if (anew) {
                at = z + p.z.base + m0;
                MEDECONV_UNROLL
                for (int m = 0; m < window; ++m) weight[m] = weight_of(p.weight_z, m0 + m, taps);
            }
            MEDECONV_ROLLED
            for (int turn = anew ? 0 : reach / results; turn <= reach / results; ++turn, at += results) {
                MEDECONV_UNROLL
                for (int k = 0; k < reach - results; ++k) values[k] = values[k + results];
                MEDECONV_UNROLL
                for (int k = 0; k < results; ++k) values[reach - results + k] = next[k];
                if (at >= end) continue;
                if (at >= 0 && at + results <= source) {
                    const T* from = input + at * plane;
                    MEDECONV_UNROLL
                    for (int k = 0; k < results; ++k, from += plane) next[k] = *from;
                } else {
                    const int first = first_place(at, source, p.periodic);
                    MEDECONV_UNROLL
                    for (int k = 0; k < results; ++k) {
                        const int place = at + k < end ? place_of(first, k, source, p.periodic) : -1;
                        next[k] = place >= 0 ? input[place * plane] : T(0);
                    }
                }
            }
            MEDECONV_UNROLL
            for (int m = 0; m < window; ++m)
                MEDECONV_UNROLL
                for (int r = 0; r < results; ++r) sums[r] += weight[m] * values[m + r];
        }
        MEDECONV_UNROLL
        for (int r = 0; r < results; ++r)
            if (!is_number(sums[r]) && there[r]) sums[r] = value_of_column(p, input, plane, z + r);
        MEDECONV_UNROLL
        for (int r = 0; r < results; r += at_once) {
            const auto is_there = [&](int k) { return there[r + k]; };
            const auto at = [=](int k) { return (z + r + k) * plane + column; };
            if constexpr (!plain) asked.ask(p.operands, is_there, at);
            asked.finish(p.operands, number, sums + r, is_there, at, totals);
            if (p.kept)
                MEDECONV_UNROLL for (int k = 0; k < at_once; ++k)
                    if (there[r + k]) p.kept[at(k)] = sums[r + k];
        }
    }
    if constexpr (!plain) finish_block(p.operands, totals, shared, blockIdx.x);
}

// Slices that a thread of the z pass makes: many, because a segment reads what its filter reaches; enough blocks come first.
int segment_length(int64_t depth, int64_t pieces) {
    int length = 64;
    while (length > 2 * results && pieces * ceil_div(depth, length) < 16 * processors) length /= 2;
    return length;
}

template <class T>
int64_t run_slices(const SeparablePass<T>& p, int64_t depth, int64_t z_base, Stream stream) {  // returns its blocks
    const SliceCut cut = slice_cut<T>(depth, p.y, p.x);
    with_formula(p.formula, p.operands, [&](auto f, auto plain) {
        launch(filter_slices<f, plain, T>, blocks(cut.blocks), dim3(32, unsigned(cut.warps)), cut.shared_bytes, stream, p, z_base, cut);
    });
    return cut.blocks;
}

}  // namespace

// The bindings ask before they know the type: of both types' counts the larger one, enough memory for the sums of either.
int64_t separable_blocks(AxisTaps z, AxisTaps y, AxisTaps x) {
    if (is_line(z, y)) return direct_blocks(z, y, x);
    if (z.taps == 1) return std::max(slice_cut<float>(z.destination, y, x).blocks, slice_cut<double>(z.destination, y, x).blocks);
    const int64_t pieces = ceil_div(y.destination * x.destination, columns);
    return pieces * ceil_div(z.destination, segment_length(z.destination, pieces));
}
int64_t separable_workspace(AxisTaps z, AxisTaps y, AxisTaps x) { return z.taps == 1 ? 0 : z.source * y.destination * x.destination; }

template <class T>
void separable(const SeparablePass<T>& pass, T* workspace, Stream stream) {
    if (is_line(pass.z, pass.y)) {
        direct<T>({pass.z, pass.y, pass.x, pass.periodic, pass.weight_x, pass.input, pass.kept, pass.formula, pass.operands,
                   {pass.weight_z, pass.weight_y}}, stream);
        return;
    }
    if (std::max({pass.z.source, pass.z.taps, pass.y.source, pass.y.destination, pass.y.taps, pass.x.source, pass.x.destination,
                  pass.x.taps}) > 0x7fffffff - far_outside)
        throw Failure("an axis that the separable engine does not count", 0);
    int64_t used;
    if (pass.z.taps == 1) {
        used = run_slices(pass, pass.z.destination, pass.z.base, stream);
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
        const int length = segment_length(pass.z.destination, pieces);
        const int64_t segments = ceil_div(pass.z.destination, length);
        used = pieces * segments;
        with_formula(pass.formula, pass.operands, [&](auto f, auto plain) {
            launch(filter_columns<f, plain, T>, blocks(used), dim3(columns), plain ? 0 : sums_shared_bytes, stream, last, plane,
                   unsigned(segments), length);
        });
    }
    finish_sums(pass.operands.sums, used, stream);
}

template void separable<float>(const SeparablePass<float>&, float*, Stream);
template void separable<double>(const SeparablePass<double>&, double*, Stream);

}  // namespace medeconv::cuda
