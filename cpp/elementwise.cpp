#include "elementwise.hpp"

#include <algorithm>
#include <cstring>

namespace medeconv {
namespace {

std::vector<int64_t> sources(int64_t n, int64_t low, int64_t high, Boundary boundary) {
    std::vector<int64_t> table;
    for (int64_t i = -low; i < n + high; ++i) table.push_back(scalar::source_index(i, n, boundary));
    return table;
}

}  // namespace

template <class T>
void pad(const T* x, Shape shape, Shape low, Shape high, Boundary boundary, T* out, int threads) {
    std::array<std::vector<int64_t>, 3> from;
    for (size_t a = 0; a < 3; ++a) from[a] = sources(shape[a], low[a], high[a], boundary);
    const int64_t width = int64_t(from[2].size()), height = int64_t(from[1].size());
    parallel_for(int64_t(from[0].size()) * height, threads, [&](int64_t row, int) {
        const T* source = x + (from[0][size_t(row / height)] * shape[1] + from[1][size_t(row % height)]) * shape[2];
        T* to = out + row * width;
        for (int64_t i = 0; i < low[2]; ++i) to[i] = source[from[2][size_t(i)]];
        std::memcpy(to + low[2], source, size_t(shape[2]) * sizeof(T));
        for (int64_t i = low[2] + shape[2]; i < width; ++i) to[i] = source[from[2][size_t(i)]];
    });
}

template <class T>
void fold(const T* y, Shape shape, Shape low, Shape high, Boundary boundary, T* out, int threads) {
    std::array<std::vector<int64_t>, 3> to;
    for (size_t a = 0; a < 3; ++a) to[a] = sources(shape[a], low[a], high[a], boundary);
    const int64_t width = int64_t(to[2].size()), height = int64_t(to[1].size());
    // One output slice at a time: all padded slices that fall onto it, in order.
    parallel_for(shape[0], threads, [&](int64_t z, int) {
        T* slice = out + z * shape[1] * shape[2];
        std::memset(slice, 0, size_t(shape[1] * shape[2]) * sizeof(T));
        for (size_t pz = 0; pz < to[0].size(); ++pz) {
            if (to[0][pz] != z) continue;
            for (int64_t py = 0; py < height; ++py) {
                const T* from = y + (int64_t(pz) * height + py) * width;
                T* row = slice + to[1][size_t(py)] * shape[2];
                for (int64_t px = 0; px < width; ++px) row[to[2][size_t(px)]] += from[px];
            }
        }
    });
}

template <class T>
void apply_formula(Formula formula, const T* blurred, const Operands<T>& o, int64_t n, int threads) {
    constexpr int64_t chunk = 1 << 16;
    parallel_for((n + chunk - 1) / chunk, threads, [&](int64_t unit, int) {
        const int64_t stop = std::min(n, (unit + 1) * chunk);
        for (int64_t i = unit * chunk; i < stop; ++i) {
            T value = blurred[i];
            if (formula == Formula::ratio) {
                value = scalar::ratio<T>(value, o.image[i], o.background, o.eps);
                if (o.weights) value *= o.weights[i];
            } else if (formula == Formula::multiply) {
                value = scalar::multiply<T>(value, o.estimate[i], o.gain ? o.gain[i] : T(1));
            } else if (formula == Formula::residual) {
                value = scalar::residual<T>(value, o.image[i], o.background);
                if (o.weights) value *= o.weights[i];
            } else if (formula == Formula::add) {
                value = scalar::add<T>(value, o.estimate[i], o.gain ? o.gain[i] : T(1), o.step, o.positive);
            }
            const T next = o.previous ? scalar::extrapolate<T>(value, o.previous[i], o.alpha) : value;
            o.out[i] = value;
            if (o.extrapolated) o.extrapolated[i] = next;
        }
    });
}

#define INSTANTIATE(T)                                                                        \
    template void pad<T>(const T*, Shape, Shape, Shape, Boundary, T*, int);                   \
    template void fold<T>(const T*, Shape, Shape, Shape, Boundary, T*, int);                  \
    template void apply_formula<T>(Formula, const T*, const Operands<T>&, int64_t, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace medeconv
