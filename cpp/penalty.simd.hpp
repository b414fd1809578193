// The rows of penalty.hpp. Total variation: the normalised gradient of a row and of the ones before it along y and z, of which
// the one along y is kept from the row before; its divergence is taken at once.
#pragma once
#include "penalty.hpp"
#include "rows.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

constexpr double smallest_gradient = 1e-5;   // of the level: below it a gradient has no direction
constexpr double smallest_divisor_of_a_correction = 0.1;

template <class T>
MEDECONV_INLINE int64_t penalty_pitch(const PenaltyPass<T>& p) {
    return ceil_div(p.width, lanes<T>) * lanes<T> + 2 * lanes<T>;
}
template <class T>
int64_t penalty_scratch(const PenaltyPass<T>& p) {
    return 5 * penalty_pitch(p);
}

template <class V, class T>
MEDECONV_INLINE V factor_of(V slope, T weight) {
    const V one = (slope - slope) + T(1), divisor = one + slope * weight;
    return one / larger_of<V>(divisor, one * T(smallest_divisor_of_a_correction));
}

// Row (z, y) of the estimate; indices beyond the array are its edge's.
template <class T>
MEDECONV_INLINE const T* row_of(const PenaltyPass<T>& p, int64_t z, int64_t y) {
    z = z < 0 ? 0 : z >= p.depth ? p.depth - 1 : z;
    y = y < 0 ? 0 : y >= p.height ? p.height - 1 : y;
    return p.x + (z * p.height + y) * p.width;
}

// Direction of the gradient at row (z, y), by differences to the next voxel; those not wanted are null. In scratch, rows may
// be written past their end.
template <class T>
MEDECONV_NOINLINE void direction(const PenaltyPass<T>& p, int64_t z, int64_t y, T* gz, T* gy, T* gx) {
    const T *here = row_of(p, z, y), *below = row_of(p, z, y + 1), *behind = row_of(p, z + 1, y);
    const T tiny = T(smallest_gradient) * p.level;
    const Vec<T> least = splat<T>(tiny * tiny);
    each_vector<T>(p.width, [&](int64_t i, auto get, auto) MEDECONV_BODY {
        const Vec<T> x = get(here, i);
        const Vec<T> dz = (get(behind, i) - x) * p.inverse[0], dy = (get(below, i) - x) * p.inverse[1];
        const Vec<T> dx = (get(here, i + 1) - x) * p.inverse[2];
        const Vec<T> scale = splat<T>(T(1)) / square_root<T>(dz * dz + dy * dy + dx * dx + least);
        if (gz) store_unaligned(gz + i, dz * scale);
        if (gy) store_unaligned(gy + i, dy * scale);
        if (gx) store_unaligned(gx + i, dx * scale);
    });
}

template <class T>
void tv_rows(const PenaltyPass<T>& p, Range slices, Range rows, T* scratch) {
    const int64_t pitch = penalty_pitch(p);
    T *gx = scratch + lanes<T>, *gz = scratch + pitch, *gz_before = gz + pitch, *gy = gz_before + pitch, *gy_before = gy + pitch;
    gx[-1] = 0;
    for (int64_t z = slices.start; z < slices.stop; ++z) {
        if (rows.start > 0) direction<T>(p, z, rows.start - 1, nullptr, gy_before, nullptr);
        else std::memset(gy_before, 0, size_t(p.width) * sizeof(T));
        for (int64_t y = rows.start; y < rows.stop; ++y) {
            direction(p, z, y, gz, gy, gx);
            if (z > 0) direction<T>(p, z - 1, y, gz_before, nullptr, nullptr);
            else std::memset(gz_before, 0, size_t(p.width) * sizeof(T));
            T* out = p.out + (z * p.height + y) * p.width;
            each_vector<T>(p.width, [&](int64_t i, auto, auto put) MEDECONV_BODY {
                const Vec<T> dz = load_unaligned(gz + i) - load_unaligned(gz_before + i);
                const Vec<T> dy = load_unaligned(gy + i) - load_unaligned(gy_before + i);
                const Vec<T> dx = load_unaligned(gx + i) - load_unaligned(gx + i - 1);
                const Vec<T> divergence = dz * p.inverse[0] + dy * p.inverse[1] + dx * p.inverse[2];
                put(out, i, factor_of(-divergence, p.weight));
            });
            T* swapped = gy;
            gy = gy_before, gy_before = swapped;
        }
    }
}

// Of x, or of its square root.
template <bool of_root, class T>
void laplacian_rows(const PenaltyPass<T>& p, Range slices, Range rows) {
    const T zz = p.inverse[0] * p.inverse[0], yy = p.inverse[1] * p.inverse[1], xx = p.inverse[2] * p.inverse[2];
    const Vec<T> least = splat<T>(of_root ? p.level * T(1e-6) : T(0));
    for (int64_t z = slices.start; z < slices.stop; ++z)
        for (int64_t y = rows.start; y < rows.stop; ++y) {
            const T *here = row_of(p, z, y), *above = row_of(p, z, y - 1), *below = row_of(p, z, y + 1);
            const T *before = row_of(p, z - 1, y), *behind = row_of(p, z + 1, y);
            T* out = p.out + (z * p.height + y) * p.width;
            each_vector<T>(p.width, [&](int64_t i, auto get, auto put) MEDECONV_BODY {
                auto value = [&](const T* row, int64_t at) MEDECONV_BODY {
                    Vec<T> v = get(row, at);
                    if constexpr (of_root) v = square_root<T>(larger_of<Vec<T>>(v, least));
                    return v;
                };
                const Vec<T> x = value(here, i);
                Vec<T> left;
                if (i > 0) left = value(here, i - 1);
                else {  // nothing lies before the row
                    left = x;
                    for (int k = 1; k < lanes<T>; ++k) left[k] = x[k - 1];
                }
                const Vec<T> sum = (value(before, i) + value(behind, i) - x * T(2)) * zz + (value(above, i) + value(below, i) - x * T(2)) * yy +
                                   (left + value(here, i + 1) - x * T(2)) * xx;
                const Vec<T> slope = of_root ? sum * T(-4) / x : sum * (T(-2) / p.level);
                put(out, i, factor_of(slope, p.weight));
            });
        }
}

template <class T>
void entropy_rows(const PenaltyPass<T>& p, Range slices, Range rows) {
    const Vec<T> least = splat<T>(T(1e-6));
    const T scale = T(1) / p.level;
    // Of one slice, or of whole ones.
    for (int64_t row = slices.start * p.height + rows.start; row < (slices.stop - 1) * p.height + rows.stop; ++row) {
        const T* x = p.x + row * p.width;
        T* out = p.out + row * p.width;
        each_vector<T>(p.width, [&](int64_t i, auto get, auto put) MEDECONV_BODY {
            put(out, i, factor_of(logarithm<Vec<T>>(larger_of<Vec<T>>(get(x, i) * scale, least)), p.weight));
        });
    }
}

template <class T>
void penalty_rows(const PenaltyPass<T>& p, Range z, Range y, T* scratch) {
    switch (p.penalty) {
    case Penalty::tv: return tv_rows(p, z, y, scratch);
    case Penalty::tikhonov: return laplacian_rows<false>(p, z, y);
    case Penalty::good_roughness: return laplacian_rows<true>(p, z, y);
    case Penalty::entropy: return entropy_rows(p, z, y);
    }
}

template <class T>
constexpr PenaltyKernels<T> penalty_table = {penalty_scratch<T>, penalty_rows<T>};

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
