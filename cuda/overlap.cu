#include "overlap.hpp"

#include <algorithm>

#include "formula.cuh"
#include "lines.cuh"

namespace medeconv::cuda {
namespace {

constexpr int most_team = 256;
template <class T>
constexpr int64_t longest_segment = sizeof(T) == 4 ? 16384 : 8192;

struct Blocks {
    int team, pairs;
    int64_t count;
};
template <class T>
Blocks blocks_of(int64_t segment, int64_t taps, int64_t destination) {
    const int64_t step = segment - taps + 1, all = ceil_div(ceil_div(destination, step), 2);
    const int team = int(std::min<int64_t>(segment / 8, most_team));
    int pairs = 1;
    while (pairs * team < 128 && pairs < all) pairs *= 2;
    return {team, pairs, ceil_div(all, pairs)};
}

// plain: see row_kernel in spectral.cuh.
template <class T, bool plain, Formula formula = Formula::copy>
__global__ void __launch_bounds__(most_team, 1) overlap_kernel(const OverlapPass<T> pass) {
    DYN_SHARED(Pair<T>, shared);
    const PowerOfTwo<T>& axis = pass.segment;
    const int n = axis.n, step = n - int(pass.line.taps) + 1;
    const Member me{int(threadIdx.x), int(blockDim.x)};
    const int64_t first = 2 * (int64_t(blockIdx.x) * blockDim.y + threadIdx.y) * step;  // of the results of two segments
    Pair<T>* const line = shared + int(threadIdx.y) * spread<T>(n);
    auto place = [=](int base, int jump) MEDECONV_BODY -> Pair<T>& { return line[spread<T>(base + jump)]; };
    auto held = [=](int base, int jump = 0) MEDECONV_BODY { return loaded(place(base, jump)); };
    auto hold = [=](int base, int jump, Complex<T> v) MEDECONV_BODY { place(base, jump) = stored(v); };
    auto none = [=](int i) MEDECONV_BODY -> Pair<T>& { return place(i, 0); };  // segments are powers of two: no stage takes spare memory

    auto source = [&](int64_t at) MEDECONV_BODY {
        const int64_t length = pass.line.source;
        if (pass.periodic) return pass.input[source_index(at, length, Boundary::wrap)];
        return at >= 0 && at < length ? pass.input[at] : T(0);
    };
    forward_first<T>(axis, me,
                     [&](int base, int jump) MEDECONV_BODY {
                         const int64_t at = first + pass.line.base + base + jump;
                         return Complex<T>{source(at), source(at + step)};
                     },
                     hold);
    __syncthreads();
    forward_middle<T>(axis, me, place, none);
    turn_last<T>(axis, me, place,
                 [&](int slot, auto count, Complex<T>* h) MEDECONV_BODY {
                     unroll<decltype(count)::value>([&](auto j) MEDECONV_BODY { h[j] = loaded(pass.transfer[slot + int(j)]); });
                 },
                 [&](auto count, Complex<T>* v, const Complex<T>* h) MEDECONV_BODY {
                     unroll<decltype(count)::value>([&](auto j) MEDECONV_BODY { v[j] = product<false>(v[j], h[j]); });
                 });
    __syncthreads();
    inverse_middle<T>(axis, me, place, none);

    const auto number = numbers_of(pass.operands);
    T sums[sums_of_a_sweep] = {};
    auto finish = [&](int64_t at, T value) MEDECONV_BODY {
        if (at >= pass.line.destination) return;
        if constexpr (plain) value = finish_value<formula, true>(pass.operands, number, value, at, sums);
        else value = finish_value(pass.formula, pass.operands, number, value, at, sums);
        if (pass.kept) pass.kept[at] = value;
    };
    auto finish_both = [&](int base, int jump, Complex<T> v) MEDECONV_BODY {
        const int i = base + jump;
        if (i >= step) return;
        finish(first + i, v.re);
        finish(first + step + i, v.im);
    };
    if constexpr (plain) {
        inverse_first<T>(axis, me, held, finish_both);
    } else {
        // No barrier: of powers of two the team divides the distance of a butterfly's elements, so that each thread finishes
        // what it wrote itself.
        inverse_first<T>(axis, me, held, hold);
        for (int i = me.thread; i < step; i += me.team) finish_both(i, 0, held(i));
        if (!pass.operands.sums) return;
        double mine[sums_of_a_sweep];
        for (int k = 0; k < sums_of_a_sweep; ++k) mine[k] = double(sums[k]);
        sum_of_block<sums_of_a_sweep>(mine, reinterpret_cast<double*>(shared), pass.operands.sums + (1 + int64_t(blockIdx.x)) * sums_of_a_sweep);
    }
}

// One block: the transform of the weights, conjugated (they are applied as a correlation), over n.
template <class T>
__global__ void __launch_bounds__(most_team, 1) overlap_transfer_kernel(const PowerOfTwo<T> axis, const T* weights, int taps, Pair<T>* transfer) {
    DYN_SHARED(Pair<T>, line);
    const Member me{int(threadIdx.x), int(blockDim.x)};
    auto place = [=](int base, int jump) MEDECONV_BODY -> Pair<T>& { return line[spread<T>(base + jump)]; };
    forward_first<T>(axis, me,
                     [&](int base, int jump) MEDECONV_BODY { return Complex<T>{base + jump < taps ? weights[base + jump] : T(0), T(0)}; },
                     [=](int base, int jump, Complex<T> v) MEDECONV_BODY { place(base, jump) = stored(v); });
    __syncthreads();
    forward_middle<T>(axis, me, place, [=](int i) MEDECONV_BODY -> Pair<T>& { return place(i, 0); });
    const T scale = T(1) / T(axis.n);
    forward_last<T>(axis, me, [=](int base, int jump) MEDECONV_BODY { return loaded(place(base, jump)); },
                    [&](int base, int jump, Complex<T> v) MEDECONV_BODY { transfer[base + jump] = {v.re * scale, -v.im * scale}; });
}

}  // namespace

template <class T>
int64_t overlap_taps() {
    return longest_segment<T> / 2;
}

// Four times the taps: three quarters of a segment are results. Powers of two: radices 8 and 4, and overlap_kernel relies on it.
template <class T>
int64_t overlap_segment(int64_t taps) {
    int64_t n = 512;
    while (n < 4 * taps && n < longest_segment<T>) n *= 2;
    return n;
}

template <class T>
int64_t overlap_blocks(int64_t segment, int64_t taps, int64_t destination) {
    return blocks_of<T>(segment, taps, destination).count;
}

template <class T>
void overlap(const OverlapPass<T>& pass, Stream stream) {
    const Blocks made = blocks_of<T>(pass.segment.n, pass.line.taps, pass.line.destination);
    const dim3 block(unsigned(made.team), unsigned(made.pairs));
    const size_t sums = size_t(made.team * made.pairs) * sums_of_a_sweep * sizeof(double);
    const size_t lines = size_t(made.pairs) * size_t(spread<T>(pass.segment.n)) * sizeof(Pair<T>);
    if (pass.operands.plain())
        with_formula(pass.formula, pass.operands, [&](auto f, auto) {
            launch(overlap_kernel<T, true, decltype(f)::value>, blocks(made.count), block, lines, stream, pass);
        });
    else
        launch(overlap_kernel<T, false>, blocks(made.count), block, std::max(lines, sums), stream, pass);
    finish_sums(pass.operands.sums, made.count, stream);
}

template <class T>
void overlap_transfer(const PowerOfTwo<T>& segment, const T* weights, int64_t taps, Pair<T>* transfer, Stream stream) {
    launch(overlap_transfer_kernel<T>, dim3(1), dim3(unsigned(std::min(segment.n / 8, most_team))),
           size_t(spread<T>(segment.n)) * sizeof(Pair<T>), stream, segment, weights, int(taps), transfer);
}

#define INSTANTIATE(T)                                                                              \
    template void overlap<T>(const OverlapPass<T>&, Stream);                                        \
    template void overlap_transfer<T>(const PowerOfTwo<T>&, const T*, int64_t, Pair<T>*, Stream);     \
    template int64_t overlap_taps<T>();                                                             \
    template int64_t overlap_segment<T>(int64_t);                                                   \
    template int64_t overlap_blocks<T>(int64_t, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace medeconv::cuda
