// The rows of denoise.hpp, by the axes that are longer than 1: bits 1, 2 and 4 for z, y and x.
#pragma once
#include "denoise.hpp"
#include "rows.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

template <int axes, class T>
void denoise_values(const DenoisePass<T>& p, int64_t slice, T* x) {
    const int64_t plane = p.height * p.width;
    const Vec<T> lowest = splat<T>(p.lowest);
    for (int64_t y = 0; y < p.height; ++y) {
        const int64_t at = slice * plane + y * p.width;
        each_vector<T>(p.width, [&](int64_t i, auto get, auto put) MEDECONV_BODY {
            Vec<T> v = get(p.z + at, i);
            if constexpr (axes & 1) {
                Vec<T> flow = get(p.ahead[0] + at, i);
                if (slice > 0) flow -= get(p.ahead[0] + at - plane, i);
                v += flow * p.weight[0];
            }
            if constexpr (axes & 2) {
                Vec<T> flow = get(p.ahead[1] + at, i);
                if (y > 0) flow -= get(p.ahead[1] + at - p.width, i);
                v += flow * p.weight[1];
            }
            if constexpr (axes & 4) {
                const Vec<T> here = get(p.ahead[2] + at, i);
                Vec<T> left{};
                if (i > 0) left = get(p.ahead[2] + at, i - 1);
                else  // nothing lies before the row
                    for (int k = 1; k < lanes<T>; ++k) left[k] = here[k - 1];
                v += (here - left) * p.weight[2];
            }
            put(x + y * p.width, i, larger_of<Vec<T>>(v, lowest));
        });
    }
}

template <int axes, class T>
void denoise_ascend(const DenoisePass<T>& p, int64_t slice, const T* x, const T* next) {
    const int64_t plane = p.height * p.width;
    const Vec<T> one = splat<T>(T(1));
    for (int64_t y = 0; y < p.height; ++y) {
        const int64_t at = slice * plane + y * p.width;
        const T* here = x + y * p.width;
        const T *behind = next ? next + y * p.width : here, *below = y + 1 < p.height ? here + p.width : here;
        each_vector<T>(p.width, [&](int64_t i, auto get, auto put) MEDECONV_BODY {
            const Vec<T> value = get(here, i);
            Vec<T> vz{}, vy{}, vx{};
            if constexpr (axes & 1) vz = get(p.ahead[0] + at, i) + (get(behind, i) - value) * p.step[0];
            if constexpr (axes & 2) vy = get(p.ahead[1] + at, i) + (get(below, i) - value) * p.step[1];
            if constexpr (axes & 4) vx = get(p.ahead[2] + at, i) + (get(here, i + 1) - value) * p.step[2];
            const Vec<T> shorter = one / larger_of<Vec<T>>(square_root<T>(vz * vz + vy * vy + vx * vx), one);
            auto move = [&](T* ahead, T* dual, Vec<T> v) MEDECONV_BODY {
                v *= shorter;
                const Vec<T> before = get(dual + at, i);
                put(dual + at, i, v);
                put(ahead + at, i, v + (v - before) * p.momentum);
            };
            if constexpr (axes & 1) move(p.ahead[0], p.dual[0], vz);
            if constexpr (axes & 2) move(p.ahead[1], p.dual[1], vy);
            if constexpr (axes & 4) move(p.ahead[2], p.dual[2], vx);
        });
    }
}

template <class T, int... axes>
constexpr DenoiseKernels<T> denoise_tables[] = {{denoise_values<axes, T>, denoise_ascend<axes, T>}...};
template <class T>
constexpr const DenoiseKernels<T>* denoise_table = denoise_tables<T, 0, 1, 2, 3, 4, 5, 6, 7>;

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
