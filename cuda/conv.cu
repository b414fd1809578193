#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "conv_plan.hpp"
#include "conv_points.cuh"
#include "conv_rows.cuh"
#include "conv_sums.cuh"
#include "conv_table.cuh"
#include "conv_weight.cuh"

namespace medeconv::cuda {
namespace {

// From counts for an H200; only the shape decides, never the GPU at hand, because a cut changes the order of sums.
constexpr double processors = 132;
constexpr double issued = 4;                       // instructions of warps in a processor's cycle, at most
constexpr double processor_registers = 65536, processor_shared_bytes = 227 << 10, processor_warps = 64;
constexpr double memory_wait = 900;                // cycles from a copy's start until all threads know that it is there
constexpr double start_wait = 2500;                // of a block, until its first copies start
constexpr double second_launch = 4700;             // cycles that add_parts takes without its bytes,
constexpr double bytes_per_cycle = 2200;           // and what it reads of them, most from the last cache
constexpr int64_t wanted_buffer_bytes = 20 << 10;  // several blocks of two buffers each per processor
constexpr int64_t most_buffer_bytes = 48 << 10;
constexpr int most_merged = 16;
// Instructions per element of a band or per weight: where it is, and each channel's copy (nvcc puts three idle ones before each
// cp.async); per result; per warp, and its every stage.
constexpr double placed = 70, weight_placed = 100, copied = 12, stored = 18, prepared = 900, staged = 150;

int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }
int even(int length, int most) { return int(ceil_div(length, ceil_div(length, most))); }   // blocks of about one size
int64_t product(const std::array<int64_t, 3>& v) { return v[0] * v[1] * v[2]; }

ConvAxis forward_axis(const ConvShape& s, const std::array<int64_t, 3>& output, size_t a) {
    ConvAxis axis{};
    axis.source = int(s.input[a]), axis.count = axis.destination = int(output[a]), axis.block = 1;
    axis.step = int(s.stride[a]), axis.first = -int(s.low[a]), axis.kernel = int(s.kernel[a]);
    axis.dilation = s.kernel[a] == 1 ? 1 : int(s.dilation[a]), axis.phases = axis.merged = 1;
    return axis;
}

ConvAxis backward_axis(const ConvShape& s, const std::array<int64_t, 3>& output, size_t a, bool folded) {
    ConvAxis axis{};
    const int64_t low = folded ? 0 : s.low[a], stride = s.stride[a];
    axis.source = int(output[a]), axis.destination = int(folded ? padded_input(s)[a] : s.input[a]), axis.block = 1;
    axis.first = int(low / stride), axis.crop = int(low % stride);
    axis.count = int((low + axis.destination - 1) / stride) - axis.first + 1;
    axis.step = 1, axis.kernel = int(s.kernel[a]), axis.dilation = s.kernel[a] == 1 ? 1 : int(s.dilation[a]);
    axis.transposed = true, axis.phases = int(stride), axis.merged = 1;
    return axis;
}

// Whether padding repeats values, so that its transpose must add them up.
bool is_folded(const ConvShape& s) {
    return s.padding != ConvPadding::zeros && s.low[0] + s.low[1] + s.low[2] + s.high[0] + s.high[1] + s.high[2] > 0;
}

// Of the blocks those that have anything to sum: a kernel shorter than the stride leaves phases without taps.
template <class T>
double busy_share(const ConvPass<T>& p) {
    double share = 1;
    for (const ConvAxis& a : p.axis)
        if (a.transposed && a.merged < a.phases) share *= std::min(1.0, double(a.kernel) / a.phases);
    return share;
}

// What the blocks of a kernel do: `stage` instructions in each of `stages`, `end` beside them.
struct Work {
    double blocks, warps, shared_bytes, registers, stages, stage, end;
    double half;                     // warps with which a processor issues half of what it could
};

// Cycles of the busiest processor. Blocks that are there at the same time hide one another's waits.
double time_of(const Work& w) {
    const double blocks = std::ceil(w.blocks / processors);
    const double room = std::min({processor_warps / w.warps, processor_registers / (w.registers * 32 * w.warps),
                                  processor_shared_bytes / (w.shared_bytes + 1024)});
    const double together = std::max(1.0, std::min(std::floor(room), blocks));
    auto round = [&](double n) {
        const double rate = issued * n * w.warps / (n * w.warps + w.half);
        return w.stages * std::max(n * w.stage / rate, memory_wait) + n * w.end / rate + start_wait / together;
    };
    const double rounds = std::floor(blocks / together), left = blocks - rounds * together;
    return rounds * round(together) + (left > 0 ? round(left) : 0) + start_wait;
}
double time_of_parts(int parts, int64_t size, size_t element) {
    return parts == 1 ? 0 : second_launch + 2.0 * parts * double(size) * double(element) / bytes_per_cycle;
}

template <class T>
double time_of(const ConvPass<T>& p, double stage, double end, double registers, double half) {
    const double stages = std::ceil(double(taps_of(p.axis[0], 0).count) * p.chunks() / p.parts);
    const double warps = std::ceil(double(p.threads) * p.teams * p.splits / 32), blocks = double(p.blocks()) * busy_share(p);
    return time_of({blocks, warps, double(p.shared_bytes), registers, stages, stage, end, half}) +
           time_of_parts(p.parts, p.results(), sizeof(T));
}

// Into how many parts it is worth trying to cut a pass of so many blocks.
template <class F>
void for_parts(double blocks, F f) {
    for (int parts = 1; parts <= 64 && (parts == 1 || blocks * parts <= 4 * processors); parts += std::max(1, parts / 2)) f(parts);
}

int rows_for(int channels, int merged, int most) {
    int rows = 1;
    while (rows < std::min(channels * merged, most)) rows *= 2;
    return rows;
}
template <class T>
int positions_for(int rows) {
    return rows == 32 ? positions_of_tile<T, 32> : rows == 16 ? positions_of_tile<T, 16> : positions_of_tile<T, 1>;
}

// Which output phases become rows of a tile: they share what is loaded of the source; but a tap that not all of them have is
// multiplied with zero for the others, which exact sums must not.
template <class T>
void choose_merged(ConvPass<T>& p, bool exact) {
    double least = INFINITY;
    int best = 0;
    auto merge = [&](int level, int a) { return level >= 3 - a && p.axis[a].phases > 1; };
    for (int level = 0; level < 4; ++level) {   // none, x, x and y, all
        double taps = 1, variants = 1;
        int64_t merged = 1;
        bool possible = true;
        for (int a = 0; a < 3; ++a) {
            const ConvAxis& axis = p.axis[a];
            if (merge(level, a)) {
                merged *= axis.phases, taps *= double(ceil_div(axis.kernel, axis.phases));
                possible = possible && axis.dilation == 1 && merged <= std::min(most_merged, most_rows<T>) &&
                           !(exact && axis.kernel % axis.phases != 0);
            } else {
                taps *= axis.kernel, variants *= axis.phases;   // of all variants together
            }
        }
        if (!possible) break;
        const int rows = rows_for(p.destinations, int(merged), most_rows<T>), positions = positions_for<T>(rows);
        const double tiles = double(ceil_div(p.destinations, rows / int(merged)));
        const double each = std::max<double>(rows, 4.0 * (positions + (rows + 3) / 4 + 1) / positions);
        double cost = taps * tiles * each + variants * 14 * std::ceil(tiles / 4);   // and copies
        if (level == 0 && p.axis[2].phases > 1) cost *= 1.1;   // stores with gaps
        if (cost < least) least = cost, best = level;
    }
    for (int a = 0; a < 3; ++a) p.axis[a].merged = merge(best, a) ? p.axis[a].phases : 1;
    const int merged = p.merged();
    p.rows = rows_for(p.destinations, merged, most_rows<T>), p.channels = p.rows / merged;
}

// Buffers for as many source channels as fit; false if not even the fewest do. `slack`: elements read beyond the last band.
template <class T>
bool fit_buffers(ConvPass<T>& p, int64_t band, int64_t weights, int64_t slack, int64_t sums) {
    const int64_t most = most_buffer_bytes / int64_t(sizeof(T)), wanted = wanted_buffer_bytes / int64_t(sizeof(T));
    const int64_t fewest = std::min(p.splits, p.sources);
    if (fewest * (band + weights) + slack + 8 > most) return false;
    int64_t at_once = std::max<int64_t>(fewest, (wanted - slack) / (band + weights) / p.splits * p.splits);
    if (p.parts > 1)   // stages for every part
        at_once = std::min(at_once, round_up(ceil_div(int64_t(p.sources) * taps_of(p.axis[0], 0).count, p.parts), p.splits));
    at_once = std::min<int64_t>(at_once, p.sources);
    p.sources_at_once = int(at_once), p.band = int(band);
    p.weights = int(round_up(at_once * weights, 4));
    p.buffer = int(round_up(at_once * band + slack, 4)) + p.weights;
    if (p.splits > 1) p.buffer = int(std::max<int64_t>(p.buffer, round_up(ceil_div(sums, 2), 4)));
    return true;
}

// One way to cut a pass: what it takes, or infinity.
template <class T>
double try_table(ConvPass<T>& p, int segment) {
    ConvAxis &y = p.axis[1], &x = p.axis[2];
    const ConvTaps of_y = taps_of(y, 0), of_x = taps_of(x, 0);   // phase 0 has most taps
    const int positions = positions_for<T>(p.rows), warps = p.threads / 32;
    y.taps_at_once = of_y.count, x.taps_at_once = of_x.count;
    for (;;) {
        const ConvBand band_y = band_of(y, y.taps_at_once, of_y.at_step), band_x = band_of(x, x.taps_at_once, of_x.at_step);
        if (segment == 40 && band_x.length > 40) return INFINITY;
        p.segment = segment, p.pitch = segment == 40 ? 40 : band_x.length;
        const int64_t band = int64_t(band_y.parts) * band_x.parts * band_y.length * p.pitch;
        const int units = std::max(1, p.rows / 2);
        const int64_t weights = int64_t(p.taps_at_once()) * p.teams * p.rows, last = int64_t(warps * positions - 1) * segment + 31;
        const int64_t slack = std::max<int64_t>(0, last + 1 - (int64_t(y.block - 1) * p.pitch + x.block));
        const int64_t sums = int64_t(sums_pitch(units, p.rows * positions / units, p.splits)) * p.threads * p.teams * p.splits;
        if (fit_buffers(p, band, weights, slack, sums)) {
            for (p.row_bits = 0; 1 << p.row_bits < p.teams * p.rows;) ++p.row_bits;
            p.shared_bytes = size_t(2 * p.buffer) * sizeof(T) + ConvTables::bytes(p.teams * p.rows, p.taps_at_once());
            const double loads = 4.0 * (positions + (p.rows + 3) / 4 + 1);
            const double products = p.rows * positions + positions + (p.rows + 3) / 4 + 9.0;
            const double taps = double(of_y.count) * of_x.count, per_tap = std::max(loads, products);
            const double block_warps = double(warps) * p.teams * p.splits, at_once = p.sources_at_once;
            const double rounds = std::ceil(taps / p.taps_at_once());
            const double copies = std::ceil(double(band) / 32) * (placed + at_once * copied) +
                                  std::ceil(double(weights) / 32) * (weight_placed + at_once * copied);
            const double stage = rounds * (copies + staged * block_warps) + at_once * (taps * per_tap + 20 * rounds) * warps * p.teams;
            const double results = double(warps) * p.teams * p.rows * positions, added = (p.splits - 1) * results * 2;
            const double registers = sizeof(T) == 8 && p.rows == 8 ? 168 : 128;
            return time_of(p, stage, results * stored + added + prepared * block_warps, registers, 8);
        }
        int& larger = x.taps_at_once >= y.taps_at_once ? x.taps_at_once : y.taps_at_once;
        if (larger == 1) return INFINITY;
        larger = (larger + 1) / 2;
    }
}

template <class T>
double cut_table(ConvPass<T>& p) {
    ConvAxis &y = p.axis[1], &x = p.axis[2];
    ConvPass<T> best = p;
    double least = INFINITY;
    const int positions = positions_for<T>(p.rows), most = p.rows >= 8 ? 256 : 512;
    const int tiles = int(ceil_div(p.destinations, p.channels));
    auto consider = [&](int segment) {
        p.parts = 1;
        for_parts(double(p.blocks()) * busy_share(p), [&](int parts) {
            p.parts = parts;
            const double time = try_table(p, segment);
            if (time < least) least = time, best = p;
        });
    };
    for (p.threads = 32; p.threads <= 256; p.threads *= 2)
        for (p.teams = 1; p.teams <= 4 && (p.teams == 1 || p.teams < 2 * tiles); p.teams *= 2)
            for (p.splits = 1; p.splits <= std::min(p.sources, 4); p.splits *= 2) {
                if (p.threads * p.teams * p.splits > most) continue;
                const int room = p.threads * positions;
                x.block = std::min(32, x.count), y.block = std::min(y.count, p.threads / 32 * positions);
                if (p.rows < 32) consider(40);   // 32 are for small images
                const int fewest = int(ceil_div(x.count, room));
                for (int n = fewest; n < fewest + 8; ++n) {
                    x.block = int(ceil_div(x.count, n));
                    const ConvTaps of_x = taps_of(x, 0);
                    const int64_t pitch = band_of(x, of_x.count, of_x.at_step).length;
                    y.block = even(y.count, int(std::min<int64_t>(y.count, 1 + (room - x.block) / pitch)));
                    consider(32);
                    if (x.block == 1) break;
                }
            }
    p = best;
    return least;
}

template <class T>
double time_of_rows(const ConvPass<T>& p) {
    const ConvAxis &y = p.axis[1], &x = p.axis[2];
    const double vectors = double(ceil_div(x.kernel, 4)), weights = double(y.taps_at_once) * 4 * vectors, at_once = p.sources_at_once;
    const double reads = double(y.kernel + p.rows - 1) * vectors, loads = 4 * (reads * 4 + double(p.rows) * y.kernel);
    const double sums = p.rows * 4.0 * y.kernel * x.kernel + reads * (1 + 2 * p.rows) + 20;
    const double own = double(p.threads) * p.teams / 32, warps = own * p.splits, rounds = double(ceil_div(y.kernel, y.taps_at_once));
    const double copies = std::ceil(double(p.band) / 32) * (placed + at_once * copied) + std::ceil(at_once * weights / 32) * placed;
    const double stage = rounds * (copies + staged * warps) + at_once * std::max(loads, sums) * own;
    const double results = own * p.rows * 4;
    return time_of(p, stage, results * stored + (p.splits - 1) * results * 2 + prepared * warps, sizeof(T) == 8 ? 128 : 88, 12);
}

// For one channel per group.
template <class T>
double cut_rows(ConvPass<T>& p) {
    ConvAxis &y = p.axis[1], &x = p.axis[2];
    ConvPass<T> best = p;
    double least = INFINITY;
    p.rows = y.count > 2 ? 4 : 1, p.channels = p.teams = 1;
    const int width = int(round_up(x.kernel, 4));
    x.taps_at_once = x.kernel;
    for (int across = 8; across <= 128; across *= 2)
        for (p.teams = 1; across * p.teams <= 256; p.teams *= 2)
            for (p.splits = 1; p.splits <= std::min(p.sources, 8); p.splits *= 2) {
                const int threads = across * p.teams * p.splits;
                if (threads < 32 || threads % 32 != 0 || threads > most_rows_threads) continue;
                p.threads = across, x.block = 4 * across, y.block = p.rows * p.teams;
                p.pitch = x.block + width, p.parts = 1;
                for_parts(double(p.blocks()), [&](int parts) {
                    p.parts = parts;
                    for (y.taps_at_once = y.kernel;; y.taps_at_once = (y.taps_at_once + 1) / 2) {
                        const int64_t band = int64_t(y.block + y.taps_at_once - 1) * p.pitch, weights = int64_t(y.taps_at_once) * width;
                        if (fit_buffers(p, band, weights, 0, int64_t(sums_pitch(p.rows, 4, p.splits)) * across * p.teams * p.splits)) {
                            p.shared_bytes = size_t(2 * p.buffer) * sizeof(T);
                            const double time = time_of_rows(p);
                            if (time < least) least = time, best = p;
                            break;
                        }
                        if (y.taps_at_once == 1) break;
                    }
                });
            }
    p = best;
    return least;
}

// Cycles of conv_points, or infinity where it is not meant.
template <class T>
double time_of_points(const ConvPass<T>& p) {
    const double products = double(p.axis[0].kernel) * p.axis[1].kernel * p.axis[2].kernel;
    if (p.sources != 1 || !p.outside.zeros || products > 32 || p.results() > (1 << 30)) return INFINITY;
    const double rows = double(p.axis[0].kernel) * p.axis[1].kernel, warps = double(p.results()) / (32 * processors);
    const double each = 150 + rows * (40 + 15 * double(round_up(p.axis[2].kernel, 4)));
    const double resident = std::clamp(warps, 1.0, 48.0);
    return 3000 + rows * 300 + warps * each / (issued * resident / (resident + 12));
}

template <class T>
void finish_pass(ConvPass<T>& p, const ConvShape& s) {
    p.batch = int(s.batch), p.groups = int(s.groups);
    p.source_size = int64_t(p.axis[0].source) * p.axis[1].source * p.axis[2].source;
    p.destination_size = int64_t(p.axis[0].destination) * p.axis[1].destination * p.axis[2].destination;
    const ConvAxis &y = p.axis[1], &x = p.axis[2];
    p.toeplitz = p.destinations == 1 && p.axis[0].phases == 1 && y.phases == 1 && x.phases == 1 && y.step == 1 && x.step == 1 &&
                 y.dilation == 1 && x.dilation == 1 && x.kernel <= 64 && x.count >= 8;
    p.parts = 1;
    ConvPass<T> points = p;
    double least;
    if (p.toeplitz) {
        least = cut_rows(p);
    } else {
        choose_merged(p, s.exact);
        ConvPass<T> tall = p;
        least = cut_table(p);
        if (sizeof(T) == 4 && tall.rows == 16 && p.destinations * p.merged() > 16) {
            tall.rows = 32, tall.channels *= 2;
            const double time = cut_table(tall);
            if (time < least) least = time, p = tall;
        }
    }
    if (time_of_points(points) < least) {
        p = points, p.points = true, p.toeplitz = false, p.threads = points_threads;
        p.teams = p.splits = p.rows = p.channels = p.sources_at_once = 1;
        for (ConvAxis& a : p.axis) a.block = 1, a.taps_at_once = a.kernel;
    }
    if (p.parts > 1) {   // none without a stage
        const int64_t stages = int64_t(taps_of(p.axis[0], 0).count) * p.chunks();
        p.parts = int(ceil_div(stages, ceil_div(stages, p.parts)));
    }
}

template <class T>
ConvPass<T> forward_pass(const ConvShape& s, const std::array<int64_t, 3>& output) {
    ConvPass<T> p{};
    for (size_t a = 0; a < 3; ++a) p.axis[a] = forward_axis(s, output, a);
    p.outside = {s.padding == ConvPadding::zeros, boundary_of(s.padding)};
    p.sources = int(s.sources / s.groups), p.destinations = int(s.destinations / s.groups);
    const int64_t kernel = product(s.kernel);
    p.destination_stride = p.sources * kernel, p.source_stride = kernel, p.group_stride = p.destinations * p.sources * kernel;
    finish_pass(p, s);
    return p;
}

template <class T>
ConvPass<T> backward_pass(const ConvShape& s, const std::array<int64_t, 3>& output) {
    ConvPass<T> p{};
    for (size_t a = 0; a < 3; ++a) p.axis[a] = backward_axis(s, output, a, is_folded(s));
    p.outside = {true, Boundary::wrap};
    p.sources = int(s.destinations / s.groups), p.destinations = int(s.sources / s.groups);
    const int64_t kernel = product(s.kernel);
    p.destination_stride = kernel, p.source_stride = p.destinations * kernel, p.group_stride = p.destinations * p.sources * kernel;
    finish_pass(p, s);
    return p;
}

// Elements of a row, a slice or a channel, so that neighbouring ones begin in other banks.
int64_t odd_vectors(int64_t elements) { return (ceil_div(elements, 4) | 1) * 4; }

// Lays a block's buffers out; false: too large.
template <class T>
bool lay_out(ConvWeightPass<T>& p) {
    const ConvAxis &y = p.axis[1], &x = p.axis[2];
    const ConvBand band_y = band_of(y, p.y_taps, y.dilation);
    const int64_t columns = round_up(x.block, 4), x_parts = p.own_taps == 1 ? p.x_chunks : 1;
    const int64_t pitch = odd_vectors(columns + (p.own_taps == 1 ? 0 : 4 * p.x_chunks));
    const int64_t plane = band_y.parts * x_parts * band_y.length * pitch, channel = odd_vectors(p.z_taps * plane);
    const int64_t gradient_channel = odd_vectors(y.block * columns);
    const int64_t gradients = p.own_destinations * p.destination_threads * gradient_channel;
    const int64_t buffer = gradients + p.own_sources * p.source_threads * channel;
    if (buffer * int64_t(sizeof(T)) > most_buffer_bytes) return false;
    p.pitch = int(pitch), p.plane = int(plane), p.channel = int(channel), p.gradient_pitch = int(columns);
    p.gradient_channel = int(gradient_channel), p.gradients = int(gradients), p.buffer = int(buffer);
    return true;
}

template <class T>
double time_of(const ConvWeightPass<T>& p) {
    const ConvAxis &y = p.axis[1], &x = p.axis[2];
    const double own = p.own_destinations * p.own_sources * p.own_taps, warps = p.threads / 32;
    const double reads = p.own_destinations + p.own_sources * (p.own_taps > 1 ? 2.0 : 1.0);
    const double steps = std::ceil(double(y.block) * double(ceil_div(x.block, 4)) / p.splits);
    const double step = std::max(4 * own + reads + 35, 8 * reads);
    const double gradients = std::ceil(double(y.block) * x.block / 32), bands = std::ceil(double(p.plane) * p.z_taps / 32);
    const double copies = gradients * (placed + copied * p.own_destinations * p.destination_threads) +
                          bands * (placed + copied * p.own_sources * p.source_threads);
    const double stages = double(ceil_div(p.tiles(), p.parts)), end = warps * (prepared + own * (10 + 2 * std::min(p.splits, 8)));
    return time_of({double(p.blocks()), warps, double(p.shared_bytes), sizeof(T) == 4 ? 96.0 : 160.0, stages,
                    warps * (steps * step + staged) + copies, end, 8}) +
           time_of_parts(p.parts, p.size(), sizeof(T));
}

// Deals the tiles out to as many blocks as the sum of their parts is worth.
template <class T>
void choose_parts(ConvWeightPass<T>& p) {
    const int64_t values = p.batch * p.groups * (p.sources * p.source_size + p.destinations * p.gradient_size);
    const int64_t affordable = std::max<int64_t>(4 << 20, values) / std::max<int64_t>(1, p.size());
    const int most = int(std::clamp<int64_t>(std::min(p.tiles(), affordable), 1, 1024));
    double least = INFINITY;
    int best = 1;
    for (p.parts = 1; p.parts <= most; ++p.parts) {
        const double time = time_of(p);
        if (time < least) least = time, best = p.parts;
    }
    p.parts = best;
}

template <class T>
ConvWeightPass<T> weight_pass(const ConvShape& s, const std::array<int64_t, 3>& output) {
    ConvWeightPass<T> p{};
    for (size_t a = 0; a < 3; ++a) p.axis[a] = forward_axis(s, output, a);
    ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    p.outside = {s.padding == ConvPadding::zeros, boundary_of(s.padding)};
    p.batch = int(s.batch), p.groups = int(s.groups);
    p.sources = int(s.sources / s.groups), p.destinations = int(s.destinations / s.groups);
    p.source_size = product(s.input), p.gradient_size = product(output);
    p.own_destinations = p.destinations >= 4 ? 4 : 1;
    const bool slides = x.step == 1 && x.dilation == 1 && x.kernel > 2;
    p.own_taps = !slides ? 1 : x.kernel == 3 ? 3 : 4;
    // 4 x 2 x 4 sums and what they are made of would not fit the registers of two blocks.
    p.own_sources = p.destinations < 4 ? (p.sources >= 4 ? 4 : 1) : p.sources >= 2 && p.own_taps < 4 ? 2 : 1;
    int room = most_weight_threads;
    auto threads_for = [&room](int64_t wanted, int most) {
        const int n = even(int(wanted), std::max(1, std::min(room, most)));
        room /= n;
        return n;
    };
    p.destination_threads = threads_for(ceil_div(p.destinations, p.own_destinations), 16);
    p.x_chunks = threads_for(ceil_div(x.kernel, p.own_taps), 8);
    p.y_taps = threads_for(y.kernel, room);
    p.source_threads = threads_for(ceil_div(p.sources, p.own_sources), room);
    p.z_taps = threads_for(z.kernel, room);
    x.block = even(x.count, y.count == 1 ? 256 : 64), y.block = even(y.count, 8);
    x.block = int(std::min<int64_t>(round_up(x.block, 4), round_up(x.count, 4)));
    // Narrow tiles before fewer channels: what is staged of one side is shared by the other.
    const std::pair<int*, int> order[] = {{&y.block, 1}, {&x.block, 32}, {&p.z_taps, 1}, {&p.source_threads, 1},
                                          {&x.block, 1}, {&p.y_taps, 1}, {&p.x_chunks, 1}, {&p.destination_threads, 1}};
    for (auto [n, least] : order)
        while (*n > least && !lay_out(p)) *n = std::max(least, (*n + 1) / 2);
    if (!lay_out(p)) throw std::invalid_argument("conv: the weight gradient of this shape does not fit a block");   // never: 9 lines
    const int owners = p.destination_threads * p.source_threads * p.x_chunks * p.y_taps * p.z_taps;
    p.splits = std::clamp(most_weight_threads / owners, 1, int(y.block * ceil_div(x.block, 4)));
    p.threads = int(round_up(owners * p.splits, 32));
    const int own = p.own_destinations * p.own_sources * p.own_taps;
    if (p.splits > 1) p.buffer = int(std::max<int64_t>(p.buffer, round_up(ceil_div(int64_t(own | 1) * p.threads, 2), 4)));
    p.shared_bytes = size_t(2 * p.buffer) * sizeof(T);
    choose_parts(p);
    return p;
}

template <class T>
dim3 block_of(const ConvPass<T>& p) {
    return {unsigned(p.threads), unsigned(p.teams), unsigned(p.splits)};
}
template <class T, int rows>
void launch_table(const ConvPass<T>& p, dim3 grid, Stream stream) {
    const dim3 block = block_of(p);
    if (p.segment == 40) launch(conv_table<T, rows, 40>, grid, block, p.shared_bytes, stream, p);
    else launch(conv_table<T, rows, 32>, grid, block, p.shared_bytes, stream, p);
}
template <class T, int rows>
void launch_rows(const ConvPass<T>& p, dim3 grid, Stream stream) {
    const dim3 block = block_of(p);
    switch (p.axis[2].kernel % 4) {
        case 1: return launch(conv_rows<T, rows, 1>, grid, block, p.shared_bytes, stream, p);
        case 2: return launch(conv_rows<T, rows, 2>, grid, block, p.shared_bytes, stream, p);
        case 3: return launch(conv_rows<T, rows, 3>, grid, block, p.shared_bytes, stream, p);
        default: return launch(conv_rows<T, rows, 4>, grid, block, p.shared_bytes, stream, p);
    }
}

// Adds what parts left, [parts][size]. As many threads per result as leave each several parts, whose loads do not wait for one another.
template <class T>
void launch_add_parts(const T* partial, T* out, int64_t size, int parts, const ConvEnd<T>& end, Stream stream) {
    unsigned stripes = 1;
    while (stripes < 32 && parts > int(stripes) * parts_at_once) stripes *= 2;
    const dim3 block(256 / stripes, stripes);
    launch(add_parts<T>, blocks(ceil_div(size, block.x)), block, 256 * sizeof(T), stream, partial, out, size, parts, end);
}

template <class T>
void launch_pass(ConvPass<T> p, Stream stream) {
    const auto address = reinterpret_cast<uintptr_t>(p.destination);
    const int64_t width = p.axis[2].destination;
    if (p.blocks() == 0) return;
    const dim3 grid = blocks(p.blocks());
    if (p.points) return launch(conv_points<T>, grid, dim3(unsigned(p.threads)), 0, stream, p);
    if (p.toeplitz) {
        p.vectors = width % 4 == 0 && address % 16 == 0;
        if (p.rows == 4) launch_rows<T, 4>(p, grid, stream);
        else launch_rows<T, 1>(p, grid, stream);
        return;
    }
    p.vectors = p.axis[2].merged == 2 && p.axis[2].crop == 0 && width % 2 == 0 && address % (2 * sizeof(T)) == 0;
    switch (p.rows) {
        case 1: return launch_table<T, 1>(p, grid, stream);
        case 2: return launch_table<T, 2>(p, grid, stream);
        case 4: return launch_table<T, 4>(p, grid, stream);
        case 8: return launch_table<T, 8>(p, grid, stream);
        case 16:
            if constexpr (most_rows<T> == 16) launch_table<T, 16>(p, grid, stream);
            return;
        default:
            if constexpr (most_rows<T> == 16) launch(conv_table<T, 32, 32>, grid, block_of(p), p.shared_bytes, stream, p);
    }
}

// `workspace`: part_bytes.
template <class T>
void run(ConvPass<T> p, const T* source, const T* weight, const T* bias, T* destination, bool relu, T* workspace, Stream stream) {
    p.source = source, p.weight = weight, p.bias = bias, p.destination = destination, p.relu = relu;
    if (p.blocks() == 0) return;
    if (p.parts == 1) return launch_pass(p, stream);
    p.destination = workspace, p.bias = nullptr, p.relu = false;
    launch_pass(p, stream);
    launch_add_parts<T>(workspace, destination, p.results(), p.parts, {bias, p.destination_size, p.groups * p.destinations, relu}, stream);
}
template <class T>
int64_t part_bytes(const ConvPass<T>& p) {
    return p.parts > 1 ? p.parts * p.results() * int64_t(sizeof(T)) : 0;
}

template <class T, int destinations, int sources>
void launch_weight(const ConvWeightPass<T>& p, dim3 grid, Stream stream) {
    const dim3 block{unsigned(p.threads)};
    switch (p.own_taps) {
        case 1: return launch(conv_weight<T, destinations, sources, 1>, grid, block, p.shared_bytes, stream, p);
        case 3: return launch(conv_weight<T, destinations, sources, 3>, grid, block, p.shared_bytes, stream, p);
        default:
            if constexpr (sources != 2) launch(conv_weight<T, destinations, sources, 4>, grid, block, p.shared_bytes, stream, p);
    }
}

int64_t sum_parts_of(int64_t batch, int64_t channels, int64_t size) {
    return std::clamp<int64_t>(ceil_div(8 * int64_t(processors), std::max<int64_t>(1, channels)), 1,
                               std::max<int64_t>(1, batch * ceil_div(size, sum_chunk)));
}

}  // namespace

template <class T>
ConvPlan<T>::ConvPlan(const ConvShape& given) : shape(given) {
    merge_axes(shape);
    output = conv_output(shape);
    if (std::max({shape.batch, shape.sources, shape.destinations}) > INT32_MAX)
        throw std::invalid_argument("conv: more than 2^31 - 1 images or channels");
    forward_ = cuda::forward_pass<T>(shape, output);
    backward_ = cuda::backward_pass<T>(shape, output);
    weight_ = cuda::weight_pass<T>(shape, output);
}

template <class T>
const char* ConvPlan<T>::family() const {
    return forward_.toeplitz ? "toeplitz" : forward_.segment == 32 ? "flat" : "direct";
}

template <class T>
int64_t ConvPlan<T>::forward_bytes() const {
    return part_bytes(forward_);
}

// Of the padded gradient, made up so that the parts after it begin at whole vectors.
template <class T>
int64_t ConvPlan<T>::padded_elements() const {
    return is_folded(shape) ? round_up(shape.batch * shape.sources * product(padded_input(shape)), 4) : 0;
}

template <class T>
int64_t ConvPlan<T>::input_grad_bytes() const {
    return padded_elements() * int64_t(sizeof(T)) + part_bytes(backward_);
}

template <class T>
int64_t ConvPlan<T>::weight_grad_bytes() const {
    return weight_.parts > 1 ? weight_.parts * weight_.size() * int64_t(sizeof(T)) : 0;
}

template <class T>
void ConvPlan<T>::forward(const T* x, const T* weight, const T* bias, T* out, bool relu, void* workspace, Stream stream) const {
    run(forward_, x, weight, bias, out, relu, static_cast<T*>(workspace), stream);
}

template <class T>
void ConvPlan<T>::input_grad(const T* gradient, const T* weight, const T* bias, T* out, bool relu, void* workspace, Stream stream) const {
    if (!is_folded(shape)) {
        run(backward_, gradient, weight, bias, out, relu, static_cast<T*>(workspace), stream);
        return;
    }
    T* const padded = static_cast<T*>(workspace);
    run(backward_, gradient, weight, static_cast<const T*>(nullptr), padded, false, padded + padded_elements(), stream);
    ConvFold fold{};
    for (size_t a = 0; a < 3; ++a) fold.length[a] = int(shape.input[a]), fold.low[a] = int(shape.low[a]), fold.high[a] = int(shape.high[a]);
    fold.boundary = boundary_of(shape.padding), fold.channels = int(shape.sources);
    fold.count = shape.batch * shape.sources * product(shape.input);
    if (fold.count > 0) launch(conv_fold<T>, blocks(ceil_div(fold.count, 256)), dim3(256), 0, stream, padded, bias, out, fold, relu);
}

template <class T>
void ConvPlan<T>::weight_grad(const T* gradient, const T* x, T* out, void* workspace, Stream stream) const {
    ConvWeightPass<T> p = weight_;
    p.gradient = gradient, p.source = x, p.partial = p.parts > 1 ? static_cast<T*>(workspace) : out;
    if (p.blocks() == 0) return;
    const dim3 grid = blocks(p.blocks());
    if (p.own_destinations == 4 && p.own_sources == 2) launch_weight<T, 4, 2>(p, grid, stream);
    else if (p.own_destinations == 4) launch_weight<T, 4, 1>(p, grid, stream);
    else if (p.own_sources == 4) launch_weight<T, 1, 4>(p, grid, stream);
    else launch_weight<T, 1, 1>(p, grid, stream);
    if (p.parts > 1)
        launch_add_parts<T>(p.partial, out, p.size(), p.parts, {nullptr, 1, 1, false}, stream);
}

template <class T>
void sum_channels(const T* x, int64_t batch, int64_t channels, int64_t size, T* out, void* workspace, Stream stream) {
    if (channels == 0) return;
    const int64_t parts = sum_parts_of(batch, channels, size);
    double* const partial = static_cast<double*>(workspace);
    launch(sum_chunks<T>, blocks(channels * parts), dim3(256), 8 * sizeof(double), stream, x, batch, channels, size, int(parts), partial);
    launch(sum_parts<T>, blocks(channels), dim3(32), 0, stream, static_cast<const double*>(partial), int(parts), out);
}
int64_t sum_channels_bytes(int64_t batch, int64_t channels, int64_t size) {
    return channels * sum_parts_of(batch, channels, size) * int64_t(sizeof(double));
}

#define INSTANTIATE(T)         \
    template class ConvPlan<T>; \
    template void sum_channels<T>(const T*, int64_t, int64_t, int64_t, T*, void*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace medeconv::cuda
