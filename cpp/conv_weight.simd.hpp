// The weight gradient. Structure: conv.hpp.
//
// With many channels: band and gradient are transposed, channels fastest, and each of the kernel's taps is a product of two
// matrices over all positions of the band. With few: tiles of channels × taps, vectors along x, their lanes added at the end.
#pragma once
#include "conv.simd.hpp"

namespace medeconv::MEDECONV_ISA_NS {
namespace {

// Rows of the gradient (O: channels, or the same channel shifted by rows) against source rows (A: channels) and K taps
// that follow one another in x.
constexpr int weight_rows = conv_sums == 24 ? 4 : 2;
constexpr int most_zero_rows = 2;    // beside a Toeplitz gradient's rows
template <int O>
constexpr int weight_taps_at_once = O * 8 <= conv_sums ? 8 : (conv_sums - (conv_sums == 24 ? 0 : 2)) / O;
constexpr int weight_sources(int o, int k) {
    const int fit = conv_sums / (o * k);
    return fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

template <class T>
struct WeightTile {
    const T* gradient;
    int64_t gradient_channel, gradient_row, gradient_plane;
    const T* source;
    int64_t source_channel, source_row, source_plane;
    int64_t planes, rows, vectors;
    T* sums;                         // added to
    int64_t sums_row, sums_channel, sums_tap;
};

// to[i] = the sum over the lanes of v[i].
template <int N, int distance, class T>
MEDECONV_INLINE void sum_lanes(Vec<T>* v, T* to) {
    constexpr int L = lanes<T>;
    if constexpr (distance == L) {
        unroll<N>([&](auto i) MEDECONV_BODY { store_unaligned(to + i * L, v[i]); });
    } else {
        typename VectorOf<T>::index evens{}, odds{};
        for (int i = 0; i < L; ++i) evens[i] = 2 * i, odds[i] = 2 * i + 1;
        constexpr int half = (N + 1) / 2;
        unroll<half>([&](auto i) MEDECONV_BODY {
            constexpr int second = 2 * i.value + 1 < N ? 2 * i.value + 1 : 2 * i.value;   // alone: its double is never read
            const Vec<T> a = v[2 * i], b = v[second];
            v[i] = __builtin_shuffle(a, b, evens) + __builtin_shuffle(a, b, odds);
        });
        sum_lanes<half, 2 * distance>(v, to);
    }
}

template <int O, int A, int K, class T>
MEDECONV_NOINLINE void sum_products(const WeightTile<T>& t) {
    constexpr int L = lanes<T>, N = O * A * K;
    Vec<T> sum[N];
    unroll<N>([&](auto i) MEDECONV_BODY { sum[i] = Vec<T>{}; });
    for (int64_t plane = 0; plane < t.planes; ++plane)
        for (int64_t row = 0; row < t.rows; ++row) {
            const T* gradient = t.gradient + plane * t.gradient_plane + row * t.gradient_row;
            const T* source = t.source + plane * t.source_plane + row * t.source_row;
            for (int64_t i = 0; i < t.vectors; ++i, gradient += L, source += L) {
                Vec<T> g[O];
                unroll<O>([&](auto o) MEDECONV_BODY { g[o] = in_register(load_unaligned(gradient + o * t.gradient_channel)); });
                unroll<A>([&](auto a) MEDECONV_BODY {
                    unroll<K>([&](auto k) MEDECONV_BODY {
                        const Vec<T> x = in_register(load_unaligned(source + a * t.source_channel + k));
                        unroll<O>([&](auto o) MEDECONV_BODY { sum[(o * A + a) * K + k] += g[o] * x; });
                    });
                });
            }
        }
    T total[(N + L - 1) / L * L];
    sum_lanes<N, 1>(sum, total);
    for (int o = 0; o < O; ++o)
        for (int a = 0; a < A; ++a)
            for (int k = 0; k < K; ++k) t.sums[o * t.sums_row + a * t.sums_channel + k * t.sums_tap] += total[(o * A + a) * K + k];
}

template <int O, int K, class T>
MEDECONV_INLINE void sum_products_of(WeightTile<T> t, int64_t channels) {
    constexpr int A = weight_sources(O, K);
    for (; channels >= A; channels -= A) {
        sum_products<O, A, K>(t);
        t.source += A * t.source_channel, t.sums += A * t.sums_channel;
    }
    if constexpr (A > 1)
        for (; channels > 0; --channels) {
            sum_products<O, 1, K>(t);
            t.source += t.source_channel, t.sums += t.sums_channel;
        }
}
template <int O, int K, class T>
MEDECONV_INLINE void sum_products_of_taps(int64_t taps, const WeightTile<T>& t, int64_t channels) {
    if (taps == K) sum_products_of<O, K>(t, channels);
    else if constexpr (K > 1) sum_products_of_taps<O, K - 1>(taps, t, channels);
}
// All taps of a row that share a phase, `spread` elements apart in the band.
template <int O, class T>
void sum_tap_row(WeightTile<T> t, int64_t taps, int64_t spread, int64_t channels) {
    constexpr int most = weight_taps_at_once<O>;
    const int64_t pieces = spread == 1 ? ceil_div(taps, most) : taps;
    for (int64_t i = 0, done = 0; i < pieces; ++i) {
        const int64_t n = taps * (i + 1) / pieces - done;
        sum_products_of_taps<O, most>(n, t, channels);
        t.source += n * spread, t.sums += n * t.sums_tap;
        done += n;
    }
}
template <class T>
MEDECONV_INLINE void sum_tap_row(int64_t rows, const WeightTile<T>& t, int64_t taps, int64_t spread, int64_t channels) {
    if (rows == 1) sum_tap_row<1>(t, taps, spread, channels);
    else if (rows == 2) sum_tap_row<2>(t, taps, spread, channels);
    else if (rows == 3) sum_tap_row<3>(t, taps, spread, channels);
    else if constexpr (weight_rows == 4) sum_tap_row<4>(t, taps, spread, channels);
}

template <class T>
struct WeightScratch {
    T *band, *gradient;
    int64_t gradient_plane, gradient_channel, band_size, total;
};
template <class T>
WeightScratch<T> weight_buffers(const ConvWeightPass<T>& p, T* scratch) {
    constexpr int64_t L = lanes<T>, line = 64 / int64_t(sizeof(T));
    WeightScratch<T> s{};
    auto padded = [](int64_t n) MEDECONV_BODY { return ceil_div(n, line) * line; };
    const int64_t rows = p.axis[1].block + (p.toeplitz ? 2 * most_zero_rows : 0);
    s.gradient_plane = rows * p.gradient_row + (p.band.flat ? L : 0);   // a flat line's last vector ends before the next plane
    s.gradient_channel = (padded(p.axis[0].block * s.gradient_plane + L) / line | 1) * line;
    s.band_size = padded(p.sources_at_once * p.band.channel + p.axis[2].span + 2 * L);
    s.band = scratch;
    s.gradient = scratch + s.band_size;
    s.total = s.band_size + padded(p.destinations_at_once * s.gradient_channel + 2 * L);
    return s;
}

// Which channels and bands a unit is.
struct WeightUnit {
    int64_t group, part, o0, os, c0, cs, first_band, last_band;
};
template <class T>
MEDECONV_INLINE WeightUnit weight_unit_of(const ConvWeightPass<T>& p, int64_t unit) {
    auto next = [&](int64_t n) MEDECONV_BODY {
        const int64_t i = unit % n;
        unit /= n;
        return i;
    };
    WeightUnit u;
    u.o0 = next(p.destination_blocks) * p.destinations_at_once, u.c0 = next(p.source_blocks) * p.sources_at_once;
    u.group = next(p.groups), u.part = unit;
    u.os = p.destinations - u.o0 < p.destinations_at_once ? p.destinations - u.o0 : p.destinations_at_once;
    u.cs = p.sources - u.c0 < p.sources_at_once ? p.sources - u.c0 : p.sources_at_once;
    u.first_band = p.bands() * u.part / p.parts, u.last_band = p.bands() * (u.part + 1) / p.parts;
    return u;
}
struct WeightBand {
    Range zs, ys, xs;
    int64_t image;
};
template <class T>
MEDECONV_INLINE WeightBand weight_band_of(const ConvWeightPass<T>& p, int64_t at) {
    auto range = [&](const ConvAxis& axis) MEDECONV_BODY {
        const int64_t start = at % axis.blocks() * axis.block;
        at /= axis.blocks();
        return Range{start, axis.stop(start)};
    };
    WeightBand b;
    b.xs = range(p.axis[2]), b.ys = range(p.axis[1]), b.zs = range(p.axis[0]);
    b.image = at;
    return b;
}

// ---- many channels

template <class T>
struct ChannelScratch {
    int64_t source_channels, gradient_channels;      // of a position
    int64_t columns, rows;                           // of a band's slice
    int64_t line;
    T *source, *gradient, *lines;
    T* sums;                                         // of a single part: [tap][destination][source channels]
    int32_t* offsets;
    int64_t total;
};
template <class T>
ChannelScratch<T> channel_buffers(const ConvWeightPass<T>& p, T* scratch) {
    constexpr int64_t L = lanes<T>, line = 64 / int64_t(sizeof(T));
    ChannelScratch<T> s{};
    ScratchCutter<T> cut{scratch};
    s.source_channels = ceil_div(p.sources_at_once, L) * L, s.gradient_channels = ceil_div(p.destinations_at_once, L) * L;
    s.columns = p.axis[2].reach(p.axis[2].block), s.rows = p.axis[1].reach(p.axis[1].block);
    const int64_t positions = p.axis[0].block * p.axis[1].block * p.axis[2].block;
    s.line = (ceil_div(s.columns + L, line) | 1) * line;
    s.source = cut.take(p.axis[0].reach(p.axis[0].block) * s.rows * s.columns * s.source_channels + conv_sums * L);
    s.gradient = cut.take(positions * s.gradient_channels);
    s.lines = cut.take(L * s.line);
    s.sums = cut.take(p.parts == 1 ? p.kernel() * p.destinations_at_once * s.source_channels : 0);
    s.offsets = reinterpret_cast<int32_t*>(cut.take(positions));
    s.total = cut.total;
    return s;
}

// to[position · pitch + channel] for `count` channels, the others of the last vector zero.
template <class T, class Line>
MEDECONV_INLINE void transpose_rows(int64_t count, int64_t n, T* to, int64_t pitch, Line line) {
    constexpr int L = lanes<T>;
    for (int64_t c = 0; c < count; c += L) {
        const T* from[L];
        for (int k = 0; k < L; ++k) from[k] = c + k < count ? line(c + k, k) : nullptr;
        int64_t i = 0;
        for (; c + L <= count && i + L <= n; i += L) {
            Vec<T> v[L];
            unroll<L>([&](auto k) MEDECONV_BODY { v[k] = load_unaligned(from[k] + i); });
            transpose<T>(v);
            unroll<L>([&](auto k) MEDECONV_BODY { store_unaligned(to + (i + k) * pitch + c, v[k]); });
        }
        for (; i < n; i += L) {
            Vec<T> v[L];
            const int64_t valid = n - i < L ? n - i : L;
            for (int k = 0; k < L; ++k)
                v[k] = !from[k] ? Vec<T>{} : valid == L ? load_unaligned(from[k] + i) : load_first(from[k] + i, valid);
            transpose<T>(v);
            for (int64_t k = 0; k < valid; ++k) store_unaligned(to + (i + k) * pitch + c, v[k]);
        }
    }
}

template <class T>
MEDECONV_NOINLINE void transpose_band(const ConvWeightPass<T>& p, const ChannelScratch<T>& s, const WeightUnit& u, const WeightBand& b) {
    const ConvAxis &z = p.axis[0], &y = p.axis[1];
    ConvAxis x = p.axis[2];
    const int64_t start = b.xs.start * x.step, reach = x.reach(b.xs.stop - b.xs.start), rows = y.reach(b.ys.stop - b.ys.start);
    x.step = 1;   // positions in their order
    const T* const source = p.source + ((b.image * p.groups + u.group) * p.sources + u.c0) * p.source_size;
    for (int64_t a = 0; a < z.reach(b.zs.stop - b.zs.start); ++a)
        for (int64_t r = 0; r < rows; ++r) {
            if (!z.used[a % z.step] || !y.used[r % y.step]) continue;
            const int64_t slice = z.index(b.zs.start * z.step + a), line = y.index(b.ys.start * y.step + r);
            T* to = s.source + (a * s.rows + r) * s.columns * s.source_channels;
            if (slice < 0 || line < 0) {
                std::memset(to, 0, size_t(reach * s.source_channels) * sizeof(T));
                continue;
            }
            const T* from = source + (slice * y.length + line) * x.length;
            // Without a copy where nothing is outside and nothing skipped.
            if (x.skip == 1 && start >= x.inner && start + reach <= x.outer) {
                transpose_rows<T>(u.cs, reach, to, s.source_channels,
                                  [&](int64_t c, int64_t) MEDECONV_BODY { return from + c * p.source_size + x.index(start); });
                continue;
            }
            transpose_rows<T>(u.cs, reach, to, s.source_channels, [&](int64_t c, int64_t k) MEDECONV_BODY {
                T* copy = s.lines + k * s.line;
                copy_row(x, from + c * p.source_size, start, reach, copy, 0, reach);
                return (const T*)copy;
            });
        }
    const T* gradient = p.gradient + ((b.image * p.groups + u.group) * p.destinations + u.o0) * p.gradient_size;
    const int64_t width = b.xs.stop - b.xs.start;
    T* to = s.gradient;
    for (int64_t qz = b.zs.start; qz < b.zs.stop; ++qz)
        for (int64_t qy = b.ys.start; qy < b.ys.stop; ++qy, to += width * s.gradient_channels) {
            const T* from = gradient + (qz * y.count + qy) * x.count + b.xs.start;
            transpose_rows<T>(u.os, width, to, s.gradient_channels,
                              [&](int64_t c, int64_t) MEDECONV_BODY { return from + c * p.gradient_size; });
        }
}

template <class T>
MEDECONV_INLINE int64_t part_offset(const ConvWeightPass<T>& p, const WeightUnit& u) {
    return u.part * p.size() + u.group * p.kernel() * p.destinations * p.sources + u.o0 * p.sources + u.c0;
}

// sums[o · pitch + c] = or, without `start`, += sum over i of gradient[i · gradient_pitch + o] · source[offsets[i] + c].
template <class T>
MEDECONV_INLINE void sum_matrix(const T* source, const int32_t* offsets, int64_t n, const T* gradient, int64_t gradient_pitch, int64_t os,
                                int64_t cs, const T* start, T* sums, int64_t pitch) {
    for (int64_t o = 0, rows = conv_rows; o < os; o += rows) {
        while (rows > os - o) rows /= 2;
        sum_line(rows, ConvTile<T>{source, offsets, n, gradient + o, start, false, sums + o * pitch, pitch, gradient_pitch}, cs);
    }
}

// A unit's sums to their places in the result.
template <class T>
MEDECONV_INLINE void deliver_sums(const ConvWeightPass<T>& p, const ChannelScratch<T>& s, const WeightUnit& u) {
    constexpr int64_t L = lanes<T>;
    const int64_t kernel = p.kernel(), matrix = p.destinations_at_once * s.source_channels;
    for (int64_t o = 0; o < u.os; ++o) {
        const T* const sums = s.sums + o * s.source_channels;
        T* const to = p.partial + ((u.group * p.destinations + u.o0 + o) * p.sources + u.c0) * kernel;
        if (kernel == 1) {
            copy_values(sums, u.cs, to);
        } else if (kernel <= L) {   // every position's vector ends in the next one's place, before that is written
            for (int64_t c = 0; c < u.cs; c += L) {
                const int64_t n = u.cs - c < L ? u.cs - c : L;
                transpose_rows<T>(kernel, n, s.lines, kernel, [&](int64_t k, int64_t) MEDECONV_BODY { return sums + k * matrix + c; });
                copy_values(s.lines, n * kernel, to + c * kernel);
            }
        } else {
            for (int64_t c = 0; c < u.cs; ++c)
                for (int64_t k = 0; k < kernel; ++k) to[c * kernel + k] = sums[k * matrix + c];
        }
    }
}

template <class T>
void channel_weight_unit(const ConvWeightPass<T>& p, int64_t unit, T* scratch) {
    const ChannelScratch<T> s = channel_buffers(p, scratch);
    const WeightUnit u = weight_unit_of(p, unit);
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const bool one = p.parts == 1;
    const int64_t pitch = one ? s.source_channels : p.sources, matrix = (one ? p.destinations_at_once : p.destinations) * pitch;
    T* const sums = one ? s.sums : p.partial + part_offset(p, u);
    const T zero[conv_rows] = {};
    if (u.first_band == u.last_band)
        for (int64_t k = 0; k < p.kernel(); ++k)
            for (int64_t o = 0; o < u.os; ++o) std::memset(sums + k * matrix + o * pitch, 0, size_t(u.cs) * sizeof(T));
    for (int64_t at = u.first_band; at < u.last_band; ++at) {
        const WeightBand b = weight_band_of(p, at);
        transpose_band(p, s, u, b);
        int64_t positions = 0;
        for (int64_t qz = 0; qz < b.zs.stop - b.zs.start; ++qz)
            for (int64_t qy = 0; qy < b.ys.stop - b.ys.start; ++qy)
                for (int64_t qx = 0; qx < b.xs.stop - b.xs.start; ++qx)
                    s.offsets[positions++] = int32_t(((qz * z.step * s.rows + qy * y.step) * s.columns + qx * x.step) * s.source_channels);
        for (int64_t kz = 0, k = 0; kz < p.taps[0]; ++kz)
            for (int64_t ky = 0; ky < p.taps[1]; ++ky)
                for (int64_t kx = 0; kx < p.taps[2]; ++kx, ++k) {
                    const int64_t shift = (kz * p.dilation[0] * s.rows + ky * p.dilation[1]) * s.columns + kx * p.dilation[2];
                    sum_matrix(s.source + shift * s.source_channels, s.offsets, positions, s.gradient, s.gradient_channels, u.os, u.cs,
                               at == u.first_band ? zero : nullptr, sums + k * matrix, pitch);
                }
    }
    if (one) deliver_sums(p, s, u);
}

// ---- few channels

// One part of the positions for one block of destination and of source channels.
template <class T>
void row_weight_unit(const ConvWeightPass<T>& p, int64_t unit, T* scratch) {
    const WeightScratch<T> s = weight_buffers(p, scratch);
    const ConvAxis &y = p.axis[1], &x = p.axis[2], &z = p.axis[0];
    const auto [group, part, o0, os, c0, cs, first_band, last_band] = weight_unit_of(p, unit);
    const int64_t kernel = p.kernel();
    T* const sums = p.partial + part * p.size() + ((group * p.destinations + o0) * p.sources + c0) * kernel;
    for (int64_t o = 0; o < os; ++o) std::memset(sums + o * p.sources * kernel, 0, size_t(cs * kernel) * sizeof(T));
    // Vectors run over what no position fills; what lies there is multiplied by zero and must be finite.
    std::memset(scratch, 0, size_t(s.total) * sizeof(T));

    for (int64_t at = first_band; at < last_band; ++at) {
        const auto [zs, ys, xs, image] = weight_band_of(p, at);
        const int64_t width = xs.stop - xs.start, height = ys.stop - ys.start, depth = zs.stop - zs.start;
        copy_channels(p, p.source + ((image * p.groups + group) * p.sources + c0) * p.source_size, cs, zs, ys, xs, s.band);
        const int64_t before = p.toeplitz ? most_zero_rows : 0;
        const T* from = p.gradient + ((image * p.groups + group) * p.destinations + o0) * p.gradient_size;
        for (int64_t o = 0; o < os; ++o, from += p.gradient_size)
            for (int64_t a = 0; a < depth; ++a) {
                T* to = s.gradient + o * s.gradient_channel + a * s.gradient_plane;
                for (int64_t b = -before; b < height + before; ++b, to += p.gradient_row) {
                    if (b < 0 || b >= height) {
                        std::memset(to, 0, size_t(p.gradient_row) * sizeof(T));
                        continue;
                    }
                    const T* row = from + ((zs.start + a) * y.count + ys.start + b) * x.count + xs.start;
                    if (o + 1 < os) prefetch_row(row + p.gradient_size, width);
                    std::memcpy(to, row, size_t(width) * sizeof(T));
                    std::memset(to + width, 0, size_t(p.gradient_row - width) * sizeof(T));
                }
                if (p.band.flat) std::memset(to, 0, size_t(lanes<T>) * sizeof(T));
            }

        WeightTile<T> tile{};
        tile.gradient_plane = s.gradient_plane, tile.source_plane = z.step * p.band.plane;
        tile.gradient_row = p.gradient_row, tile.source_row = p.band.row;
        tile.source_channel = p.band.channel, tile.sums_channel = kernel;
        tile.planes = depth;
        // Taps of a row whose phases are the same: every `stride`-th.
        int64_t divisor = x.step, spread = p.dilation[2];
        for (int64_t other = divisor; spread;) other = divisor % spread, divisor = spread, spread = other;
        const int64_t stride = x.step / divisor;
        spread = p.dilation[2] / divisor;
        tile.sums_tap = stride;
        const int64_t row_step = p.toeplitz ? most_zero_rows + 1 : weight_rows;
        const int64_t row_count = p.toeplitz ? p.taps[1] : os;
        for (int64_t r = 0; r < row_count; r += row_step) {
            const int64_t rows = row_count - r < row_step ? row_count - r : row_step;
            if (p.toeplitz) {
                tile.gradient = s.gradient + before * p.gradient_row, tile.gradient_channel = -p.gradient_row;
                tile.rows = height + rows - 1, tile.vectors = ceil_div(width, lanes<T>);
                tile.sums_row = p.taps[2];
            } else {
                tile.gradient = s.gradient + r * s.gradient_channel, tile.gradient_channel = s.gradient_channel;
                tile.rows = p.band.flat ? 1 : height;
                tile.vectors = ceil_div(p.band.flat ? (height - 1) * p.band.row + width : width, lanes<T>);
                tile.sums_row = p.sources * kernel;
            }
            for (int64_t kz = 0; kz < p.taps[0]; ++kz)
                for (int64_t ky = p.toeplitz ? r : 0; ky < (p.toeplitz ? r + 1 : p.taps[1]); ++ky)
                    for (int64_t kx = 0; kx < stride && kx < p.taps[2]; ++kx) {
                        tile.source = s.band + band_offset(p.band, p.axis, kz * p.dilation[0], ky * p.dilation[1], kx * p.dilation[2]);
                        tile.sums = sums + (p.toeplitz ? 0 : r * p.sources * kernel) + (kz * p.taps[1] + ky) * p.taps[2] + kx;
                        sum_tap_row(rows, tile, ceil_div(p.taps[2] - kx, stride), spread, cs);
                    }
        }
    }
}

// In double, in a fixed order: eight sums of every eighth value.
template <class T>
double conv_sum(const T* values, int64_t n) {
    double sum[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) unroll<8>([&](auto k) MEDECONV_BODY { sum[k] += double(values[i + k]); });
    for (; i < n; ++i) sum[i % 8] += double(values[i]);
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

}  // namespace
}  // namespace medeconv::MEDECONV_ISA_NS
