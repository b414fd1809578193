#include "conv_plan.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "shared/boundary.hpp"

namespace medeconv {
namespace {

// Tuned on 2 cores of an AMD EPYC 9004 (Zen 4: 32 kB L1, 1 MB L2).
constexpr int64_t band_bytes = 448 << 10;        // of a core's L2: the band; the rest is for weights and results
constexpr int64_t weight_band_bytes = 640 << 10; // band and gradient together
constexpr int64_t least_band_bytes = 64 << 10;   // of a small layer, whose memory is counted
constexpr int64_t beside_band_bytes = 12 << 10;  // rows of results, tables
constexpr int64_t shared_bytes = 2560 << 10;     // all bands of a pass whose units are blocks of channels
constexpr int64_t winograd_bytes = 640 << 10;    // of a core's L2: transformed source and products
constexpr int64_t winograd_shared_bytes = 8 << 20;
constexpr int64_t winograd_dilation = 4;         // at most, along y and x
constexpr int64_t winograd_weight_bytes = 3 << 20;   // of both cores' L2 and more
constexpr int64_t winograd_sums_bytes = 256 << 10;   // of the weight gradient of a group
constexpr int64_t many_weight_bytes = 512 << 10; // worth packing where they are used
constexpr int64_t stream_bytes = 8 << 20;        // results that no cache would keep until they are read
constexpr int64_t stream_taps = 64;              // more arithmetic than this hides the stores
constexpr int64_t bare_bytes = 24 << 20;         // of a source that the caches may hold
constexpr int64_t waiting_bytes = 160 << 10;     // results that wait to be streamed
constexpr int64_t terms_at_once = 64;
constexpr int64_t toeplitz_positions = 32768;
constexpr int64_t little_weight = 1 << 15;         // elements that one thread packs before another wakes
constexpr int64_t wanted_units = 8;
constexpr int64_t least_dot_vectors = 8;         // of a dot product
constexpr int64_t depthwise_bytes = 48 << 10;    // of a core's caches: a frame
constexpr int64_t depthwise_values = 1 << 14;    // of results, worth a unit
constexpr int64_t longest_block = 1024;
constexpr int64_t positions_at_once = 2048;      // of the weight gradient: a row of them stays in L1
constexpr int64_t channels_at_once = 64;
constexpr int64_t least_channels = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t product(const std::array<int64_t, 3>& v) { return v[0] * v[1] * v[2]; }

// The part that is copied as a piece, and the sources of the other positions.
template <class T>
void index_axis(ConvTables<T>& t, size_t a, int64_t first, int64_t skip, bool zeros, ConvPadding padding) {
    ConvAxis& axis = t.pass.axis[a];
    const int64_t positions = axis.reach(axis.count);
    axis.first = first, axis.skip = skip;
    axis.inner = std::clamp<int64_t>(ceil_div(std::max<int64_t>(-first, 0), skip), 0, positions);
    axis.outer = std::clamp<int64_t>(ceil_div(std::max<int64_t>(axis.length - first, 0), skip), axis.inner, positions);
    auto& edge = t.edge[a];
    edge.reserve(size_t(positions - (axis.outer - axis.inner)));
    for (int64_t r = 0; r < positions; ++r) {
        if (r == axis.inner) r = axis.outer;
        if (r < positions) edge.push_back(int32_t(zeros ? -1 : scalar::source_index(r * skip + first, axis.length, boundary_of(padding))));
    }
    axis.edge = edge.data();
    axis.used = t.used[a].data();
}

template <class T>
void layout(const ConvAxis* axis, bool flat, ConvBand& band) {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    auto odd_lines = [](int64_t n) { return (ceil_div(n, line) | 1) * line; };   // else rows compete for the same sets
    const int64_t columns = axis[2].block - 1 + ceil_div(axis[2].span, axis[2].step);
    band.flat = flat;
    band.row = flat ? columns : odd_lines(columns);
    band.part = (axis[1].block - 1 + ceil_div(axis[1].span, axis[1].step)) * band.row;
    band.plane = band.part * axis[1].step * axis[2].step;
    band.channel = odd_lines(axis[0].reach(axis[0].block) * band.plane);
}

// The band that is copied with the least excess, fits, and leaves enough units. `others`: units per band; `copying`: what a
// copied element costs beside the arithmetic of an output.
template <class T>
void cut(ConvAxis* axis, ConvBand& band, int64_t channels, int64_t bytes, int64_t most_positions, int64_t others, int64_t lanes,
         int64_t rows_of_tile, int64_t columns_of_tile, int64_t rows_summed, bool may_be_flat, double copying) {
    int64_t best[3] = {1, 1, std::min<int64_t>(axis[2].count, 64)};
    double least = INFINITY;
    auto sizes = [](const ConvAxis& a, int64_t smallest, int64_t most, int64_t multiple) {   // even cuts of the axis
        std::vector<int64_t> list;
        for (int64_t n = 1, last = 0; n <= a.count; ++n) {
            const int64_t size = std::min(a.count, ceil_div(ceil_div(a.count, n), multiple) * multiple);
            if (size <= most && (last == 0 || 5 * size <= 4 * last)) list.push_back(size), last = size;
            if (size <= smallest) break;
        }
        if (list.empty()) list.push_back(std::min(a.count, most));
        return list;
    };
    const auto xs = sizes(axis[2], 64, longest_block, lanes * columns_of_tile), ys = sizes(axis[1], 1, 64, rows_of_tile);
    const auto zs = sizes(axis[0], 1, 16, 1);
    bool flat = false;
    for (int64_t x : xs)
        for (int64_t y : ys)
            for (int64_t z : zs) {
                axis[2].block = x, axis[1].block = y, axis[0].block = z;
                for (int flattened = 0; flattened < (may_be_flat && x == axis[2].count && axis[1].count > 1 ? 2 : 1); ++flattened) {
                    ConvBand trial{};
                    layout<T>(axis, flattened, trial);
                    const double size = double(channels * trial.channel) * sizeof(T);
                    const int64_t units = others * axis[0].blocks() * axis[1].blocks() * axis[2].blocks();
                    const double outputs = double(x * y * z);
                    // A row takes as long as some columns more.
                    const double copied = double(axis[0].reach(z) * axis[1].reach(y) * (axis[2].reach(x) + 24)) / outputs;
                    // Vectors per vector of outputs; the last block of columns is narrower.
                    const int64_t rest = axis[2].count % x, row_vectors = axis[2].count / x * ceil_div(x, lanes) + ceil_div(rest, lanes);
                    const double vectors = flattened ? double(ceil_div((y - 1) * trial.row + x, lanes) * lanes) / double(x * y)
                                                     : double(row_vectors * lanes) / double(axis[2].count);
                    // Fewer sums at once than hide the latency of one.
                    const int64_t sums = rows_summed * std::min<int64_t>(6, ceil_div(flattened ? (y - 1) * trial.row + x : x, lanes));
                    double cost = vectors * (flattened ? 1.05 : 1) * (sums < 8 ? 8 / double(sums) : 1) + copying * copied;
                    if (x < axis[2].count) cost += 0.03;   // no streaming, shorter rows
                    if (size > double(bytes)) cost += 4 * size / double(bytes);
                    if (units < wanted_units) cost += 0.1 * double(wanted_units) / double(units);
                    if (x * y * z > most_positions) cost += 0.1 * double(x * y * z) / double(most_positions);
                    if (cost < least) least = cost, best[0] = z, best[1] = y, best[2] = x, flat = flattened;
                }
            }
    for (int a = 0; a < 3; ++a) axis[a].block = best[a];
    layout<T>(axis, flat, band);
}

// A tap of an axis: where it reads, and which of the kernel's elements it is for each merged phase (-1: none).
struct AxisTap {
    int64_t at;
    std::vector<int64_t> element;
};

// What a tile costs per tap, in multiplications of a row: few rows are bound by loads.
double tile_cost(int64_t rows) { return rows >= 8 ? double(rows) : rows == 4 ? 4.4 : rows == 2 ? 3 : 2; }

// Blocks of `channels` channels, then of what is left; rows are powers of 2.
std::vector<ConvBlock> blocks_of(int64_t destinations, int64_t merged, int64_t most_rows) {
    std::vector<ConvBlock> blocks;
    int64_t rows_before = 0, channels = std::max<int64_t>(1, most_rows / merged);
    for (int64_t first = 0; first < destinations; first += channels) {
        while (channels > destinations - first) channels = merged > 1 ? destinations - first : channels / 2;
        int64_t rows = 1;
        while (rows < channels * merged) rows *= 2;
        blocks.push_back({first, channels, rows, rows_before});
        rows_before += rows;
    }
    return blocks;
}

// Whether a phase lacks taps that another has: merged, it is multiplied by zeros there, and 0 times what is infinite is no number.
bool fills_up(const std::vector<std::vector<AxisTap>>& merged) {
    for (const auto& phase : merged)
        for (const AxisTap& tap : phase)
            for (int64_t element : tap.element)
                if (element < 0) return true;
    return false;
}

// Which output phases become rows of a tile, and every tap of those that do not.
template <class T>
void choose_taps(ConvTables<T>& t, const std::array<std::vector<std::vector<AxisTap>>, 3>& merged_taps,
                 const std::array<std::vector<std::vector<AxisTap>>, 3>& single_taps, int64_t most_rows,
                 const std::array<int64_t, 3>& kernel, bool exact) {
    ConvPass<T>& p = t.pass;
    double least = INFINITY;
    std::array<bool, 3> chosen{};
    for (int level = 0; level < 4; ++level) {        // none, x, x and y, all
        std::array<bool, 3> merge{level > 2, level > 1, level > 0};
        int64_t merged = 1;
        double taps = 1;
        for (size_t a = 0; a < 3; ++a) {
            merge[a] = merge[a] && p.axis[a].phases > 1 && !(exact && fills_up(merged_taps[a]));
            const auto& list = merge[a] ? merged_taps[a] : single_taps[a];
            if (merge[a]) merged *= p.axis[a].phases;
            double sum = 0;
            for (const auto& phase : list) sum += double(phase.size());
            taps *= sum;
        }
        if (merged > most_rows) break;
        double rows = 0;
        for (const ConvBlock& b : blocks_of(p.destinations, merged, most_rows)) rows += tile_cost(b.rows);
        if (taps * rows < least) least = taps * rows, chosen = merge;
    }
    std::array<const std::vector<std::vector<AxisTap>>*, 3> lists{};
    int64_t merged = 1;
    for (size_t a = 0; a < 3; ++a) {
        lists[a] = chosen[a] ? &merged_taps[a] : &single_taps[a];
        p.merged[a] = chosen[a] ? p.axis[a].phases : 1;
        merged *= p.merged[a];
    }
    t.blocks = blocks_of(p.destinations, merged, most_rows);
    p.blocks = t.blocks.data();
    p.block_count = int64_t(t.blocks.size());
    p.block_rows = t.blocks.empty() ? 0 : t.blocks.back().rows_before + t.blocks.back().rows;
    for (const auto& z : *lists[0])
        for (const auto& y : *lists[1])
            for (const auto& x : *lists[2]) {
                std::vector<int32_t> weights;
                for (const AxisTap& tz : z)
                    for (const AxisTap& ty : y)
                        for (const AxisTap& tx : x)
                            for (int64_t ez : tz.element)
                                for (int64_t ey : ty.element)
                                    for (int64_t ex : tx.element)
                                        weights.push_back(ez < 0 || ey < 0 || ex < 0 ? -1 : int32_t((ez * kernel[1] + ey) * kernel[2] + ex));
                t.variants.push_back({nullptr, nullptr, int64_t(z.size() * y.size() * x.size()), p.variant_taps});
                p.variant_taps += t.variants.back().taps;
                t.weights.push_back(std::move(weights));
            }
    // Offsets follow from the band, whose layout is known by now.
    size_t v = 0;
    for (const auto& z : *lists[0])
        for (const auto& y : *lists[1])
            for (const auto& x : *lists[2]) {
                std::vector<int32_t> offsets;
                for (int64_t c = 0; c < p.sources; ++c)
                    for (const AxisTap& tz : z)
                        for (const AxisTap& ty : y)
                            for (const AxisTap& tx : x) {
                                const int64_t at = p.bare ? (tz.at * p.axis[1].length + ty.at) * p.axis[2].length + tx.at
                                                          : band_offset(p.band, p.axis, tz.at, ty.at, tx.at);
                                if (!p.bare || tx.at % p.axis[2].step == 0) offsets.push_back(int32_t(c * p.band.channel + at));
                            }
                t.offsets.push_back(std::move(offsets));
                t.variants[v].offsets = t.offsets.back().data();
                t.variants[v].weights = t.weights[v].data();
                ++v;
            }
    p.variants = t.variants.data();
}

bool has_winograd(const ConvAxis* axis, const std::array<int64_t, 3>& kernel) {
    const bool line = kernel[1] == 1 && (kernel[2] == 3 || kernel[2] == 5);
    return ((kernel[1] == 3 && kernel[2] == 3) || line) && axis[0].step == 1 && axis[1].step == 1 && axis[2].step == 1 &&
           std::max(axis[1].dilation, axis[2].dilation) <= winograd_dilation;
}

// Whether Winograd's products take less time than sums over taps, and how they are cut. In cycles of one core, from counts:
// what a transform of a vector of tiles takes is measured.
template <class T>
void consider_winograd(ConvPass<T>& p, int64_t lanes) {
    constexpr int64_t least = 16;
    const bool line = p.y_taps == 1;
    const int64_t tall = line ? 1 : 4, taps = p.y_taps * p.x_taps, elements = line ? p.x_taps + 3 : 36;
    const double of_source = line ? 8.0 * double(elements) : 200, of_result = line ? 7.0 * double(elements) : 160;
    const double of_weights = line ? double(elements) : 25;
    if (sizeof(T) != 4 || p.sources < least || p.destinations < least) return;
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const double products = double(p.sources) * double(p.destinations) * double(p.z_taps), images = double(p.batch * p.groups);
    const int64_t across = ceil_div(x.count, 4 * x.dilation), down = ceil_div(y.count, tall * y.dilation), span = z.span;
    const int64_t phases = y.dilation * x.dilation;
    const double weights = of_weights * products * double(p.groups);
    const int64_t vectors = std::min(y.count * ceil_div(x.count, lanes), ceil_div((y.count - 1) * (x.count + x.span - 1) + x.count, lanes));
    const double direct = p.dots ? 1.2 * double(p.destination_size) / double(lanes) : double(vectors * z.count);   // of an image
    double best = 0.85 * (double(taps) * products * direct * images + weights / 8);
    int64_t rows = 0, columns = 0, slices = 0;
    bool shared = false;
    auto time = [&](double row, double per_slice, double units) {   // of all slices of an image; transforms once per unit
        return double(z.count) * row / double(lanes) * units *
               (elements * products + of_source * double(p.sources) * per_slice + of_result * double(p.destinations));
    };
    // Transformed weights are four times as large; where they would be larger than the volumes, units transform their own.
    const double volumes = images * double(p.sources * p.source_size + p.destinations * p.destination_size);
    const bool affordable = elements * products * double(p.groups) <= 3 * volumes;
    for (int64_t cx = 1; affordable && cx <= across; ++cx) {
        const int64_t tx = ceil_div(across, cx);
        if (cx > 1 && (tx * x.dilation < 16 || tx == ceil_div(across, cx - 1))) continue;
        for (int64_t cy = 1; cy <= down; ++cy) {
            const int64_t ty = ceil_div(down, cy);
            if (cy > 1 && ty == ceil_div(down, cy - 1)) continue;
            for (int64_t tz = 1; tz <= std::min<int64_t>(z.count, span > 1 ? 64 : 1); ++tz) {
                const int64_t row = ceil_div(phases * tx * ty, lanes) * lanes;
                const int64_t bytes = elements * row * (p.sources * span + p.block_rows) * int64_t(sizeof(T));
                const int64_t units = cx * cy * ceil_div(z.count, tz);
                double t = weights + images * time(double(row), double(tz - 1 + span) / double(tz), double(cx * cy));
                if (bytes > winograd_bytes) t *= 1 + 0.3 * double(bytes - winograd_bytes) / double(winograd_bytes);
                if (units * p.batch * p.groups < wanted_units) t *= 1 + 0.5 / double(units * p.batch * p.groups);
                if (row == 16 * lanes / 16) t *= 1.1;   // one vector: a loaded value is used once
                if (t < best) best = t, rows = ty, columns = tx, slices = tz;
            }
        }
    }
    if (p.groups * p.block_count >= wanted_units) {
        const int64_t row = ceil_div(p.batch * phases * across * down, lanes) * lanes;
        const int64_t bytes = elements * row * p.sources * p.groups * (z.count - 1 + span) * int64_t(sizeof(T));
        const double t = weights + double(p.groups) * time(double(row), 1, 1) * 1.05;
        if (bytes <= winograd_shared_bytes && t < best) best = t, rows = down, columns = across, slices = z.count, shared = true;
    }
    if (rows == 0) return;
    p.winograd = true, p.toeplitz = p.stream = p.in_place = p.columns = p.dots = false, p.shared = shared;
    p.axis[0].block = slices, p.axis[1].block = tall * y.dilation * rows, p.axis[2].block = 4 * x.dilation * columns;
}

// Whether an input gradient's rows of weights take less time than what was chosen, in cycles of one core: the products,
// what is added to the destination, and the copy of the weights; else what the tiles compute beside the positions, and the
// packing of the weights. Measured but for the products.
template <class T>
void consider_columns(ConvTables<T>& t, const ConvShape& s, int64_t lanes) {
    constexpr double of_addition = 2, of_packing = 1.3, of_interleaving = 2;
    constexpr int64_t vectors = 9, least_vectors = 2, positions = 64;
    ConvPass<T>& p = t.pass;
    const ConvAxis *axis = p.axis, &y = axis[1], &x = axis[2];
    const int64_t kernel = product(s.kernel);
    const double images = double(p.batch * p.groups), sources = double(p.sources), pairs = sources * double(p.destinations);
    const double weights = pairs * double(kernel * p.groups), products = images * double(p.source_size * kernel) * pairs / double(lanes);
    const double additions = images * double(p.source_size * kernel) * double(p.destinations);
    const double time = products + of_addition * additions + 2 * weights / double(lanes);
    const int64_t line = p.band.flat ? (y.block - 1) * p.band.row + x.block : x.block;
    const double tiles = double(axis[0].count * y.blocks() * x.blocks() * (p.band.flat ? 1 : y.block) * ceil_div(line, lanes));
    double rows = 0;
    for (const ConvBlock& b : t.blocks) rows += tile_cost(b.rows);
    const double delivered = x.phases > 1 ? images * double(p.destinations * p.destination_size) : 0;
    const double direct = images * tiles * double(p.variant_taps) * sources * rows + of_packing * weights + of_interleaving * delivered;
    if (time > 0.9 * direct) return;
    const int64_t wanted = ceil_div(p.destinations * p.groups, wanted_units);
    p.channels_at_once = std::min(ceil_div(vectors * lanes, kernel), std::max(ceil_div(least_vectors * lanes, kernel), wanted));
    p.channels_at_once = std::min(p.channels_at_once, p.destinations);
    p.positions_at_once = std::min(positions, p.source_size);
    if (p.groups * p.column_blocks() < wanted_units) return;
    p.columns = true, p.toeplitz = p.stream = p.shared = p.in_place = p.bare = false;
}

// Whether dot products along the weights take less time than tiles of a forward pass that lie half beside a small image.
template <class T>
void consider_dots(ConvPass<T>& p, int64_t lanes) {
    constexpr double of_sums = 6, of_copying = 5;
    const ConvAxis *axis = p.axis, &y = axis[1], &x = axis[2];
    const int64_t positions = p.batch * p.destination_size, values = p.source_values();
    if (positions > p.destinations || values < least_dot_vectors * lanes) return;   // no larger than packed weights
    if (positions * p.groups * values * int64_t(sizeof(T)) > shared_bytes) return;
    const int64_t line = p.band.flat ? (y.block - 1) * p.band.row + x.block : x.block;
    const double tiles = double(p.batch * axis[0].count * y.blocks() * x.blocks() * (p.band.flat ? 1 : y.block) * ceil_div(line, lanes));
    const int64_t vectors = ceil_div(values, lanes), parts = ceil_div(vectors, dot_vectors);
    const double copied = double(p.sources * p.z_taps * p.y_taps) / double(p.destinations);
    const double time = 1.1 * double(vectors) + of_sums * double(parts) + of_copying * copied;
    if (double(positions) * time > tiles * double(values)) return;
    p.channels_at_once = std::min(ceil_div(p.destinations * p.groups, 2 * wanted_units), p.destinations);
    p.dots = p.shared = true, p.toeplitz = p.stream = p.in_place = p.bare = false;
}

// Whether channels are small images that are filtered by themselves.
template <class T>
void consider_depthwise(ConvPass<T>& p, const ConvShape& s, int64_t lanes) {
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const bool slices = s.kernel[0] == 1 && z.step == 1 && z.phases == 1 && z.inner == 0 && z.outer == z.count && z.length == z.count;
    const bool single = p.sources == 1 && p.destinations == 1 && y.phases == 1 && x.phases == 1 && y.dilation == 1 && x.dilation == 1;
    const bool taps = s.kernel[1] % 2 == 1 && s.kernel[1] >= 3 && std::max(s.kernel[1], s.kernel[2]) <= 7;
    const bool steps = y.step == x.step && y.step <= 2 && x.skip == 1;
    if (!slices || !single || !taps || !steps || z.skip != 1) return;
    if (conv_frame(p.axis, s.kernel[1], s.kernel[2], lanes).size() * int64_t(sizeof(T)) > depthwise_bytes) return;
    const int64_t channels = p.batch * p.groups * z.count;
    p.channels_at_once = std::clamp<int64_t>(depthwise_values / std::max<int64_t>(1, y.count * x.count), 1,
                                             std::max<int64_t>(1, channels / wanted_units));
    p.depthwise = true, p.toeplitz = p.stream = p.shared = p.in_place = p.bare = p.columns = p.dots = false;
}

// Whether every position that is read lies in the source, and is read for one output only; along x for its first and, with a
// stride of 2, second tap. Tiles read whole vectors: the last one must not reach beyond the array.
bool reads_once(const ConvAxis* axis, int64_t lanes) {
    for (int a = 0; a < 3; ++a) {
        const ConvAxis& axis_a = axis[a];
        if (axis_a.span > axis_a.step || axis_a.skip != 1 || axis_a.inner != 0 || axis_a.outer < axis_a.reach(axis_a.count)) return false;
    }
    const ConvAxis& x = axis[2];
    return x.count % lanes == 0 && (x.step == 1 || (x.step == 2 && x.span == 2 && x.dilation == 1));
}

// The rest of a pass, once its axes are known but for their blocks.
template <class T>
void finish(ConvTables<T>& t, const ConvShape& s, const ConvKernels<T>& kernels,
            const std::array<std::vector<std::vector<AxisTap>>, 3>& merged_taps,
            const std::array<std::vector<std::vector<AxisTap>>, 3>& single_taps) {
    ConvPass<T>& p = t.pass;
    ConvAxis* axis = p.axis;
    p.batch = s.batch, p.groups = s.groups;
    p.source_size = axis[0].length * axis[1].length * axis[2].length;
    p.destination_size = axis[0].destination * axis[1].destination * axis[2].destination;
    bool phases = false;
    for (const ConvAxis& a : {axis[0], axis[1], axis[2]}) phases = phases || a.phases > 1;
    p.toeplitz = p.destinations == 1 && !phases && axis[1].step == 1 && axis[2].step == 1 && s.dilation[1] == 1 && s.dilation[2] == 1 &&
                 s.kernel[1] > 1 && axis[2].count >= 24;
    p.y_taps = s.kernel[1], p.x_taps = s.kernel[2], p.z_taps = s.kernel[0], p.z_step = s.dilation[0];
    const int64_t weights = p.destinations * p.sources * product(s.kernel) * s.groups;
    const double copying = 5 / double(std::max<int64_t>(5, p.destinations * product(s.kernel)));
    // Enough taps at once that adding the sums of the channels before costs little.
    p.sources_at_once = std::clamp<int64_t>(ceil_div(terms_at_once, product(s.kernel)), 1, std::max<int64_t>(1, p.sources));
    // Two threads' bands, and what lies beside them: a tenth of both arrays.
    const int64_t values = s.batch * s.groups * (p.sources * p.source_size + p.destinations * p.destination_size);
    const int64_t bytes = std::clamp(values * int64_t(sizeof(T)) / 20 - beside_band_bytes, least_band_bytes, band_bytes);
    if (p.toeplitz)
        cut<T>(axis, p.band, p.sources_at_once, bytes, toeplitz_positions, s.batch * s.groups, kernels.lanes, 6, 4, 8, false, copying);
    else
        cut<T>(axis, p.band, p.sources, bytes, INT64_MAX, s.batch * s.groups, kernels.lanes, 1, 1,
               std::min(kernels.rows, p.destinations), true, copying);
    const int64_t units = s.batch * s.groups * p.positions();
    const int64_t blocks = s.groups * ceil_div(p.destinations, kernels.rows);
    if (!p.toeplitz && blocks >= wanted_units && (weights * int64_t(sizeof(T)) >= many_weight_bytes || units < wanted_units)) {
        ConvAxis whole[3] = {axis[0], axis[1], axis[2]};
        for (ConvAxis& a : whole) a.block = a.count;
        ConvBand band{};
        const int64_t row = axis[2].block - 1 + ceil_div(axis[2].span, axis[2].step);
        const bool flat = ceil_div((axis[1].count - 1) * row + axis[2].count, kernels.lanes) * 20 <
                          axis[1].count * ceil_div(axis[2].count, kernels.lanes) * 19;
        layout<T>(whole, flat && axis[1].count > 1, band);
        if (s.batch * s.groups * p.sources * band.channel * int64_t(sizeof(T)) <= shared_bytes) {
            for (int a = 0; a < 3; ++a) axis[a].block = axis[a].count;
            p.band = band;
            p.shared = true;
        }
    }
    p.stream = !phases && !p.band.flat && !p.shared && axis[2].block == axis[2].count &&
               s.batch * s.groups * p.destinations * p.destination_size * int64_t(sizeof(T)) >= stream_bytes &&
               p.sources * product(s.kernel) <= stream_taps;
    if (p.stream && !p.toeplitz) {   // what waits to be streamed stays in the cache
        const int64_t rows = std::max<int64_t>(1, waiting_bytes / (kernels.rows * axis[2].count * int64_t(sizeof(T))));
        axis[1].block = ceil_div(axis[1].count, ceil_div(axis[1].count, std::min(rows, axis[1].block)));
        layout<T>(axis, false, p.band);
    }
    // A copy would be read by a tile or two; more of them need channels that do not compete for the same sets of the cache. From
    // memory the copy fetches one channel after the other, ahead of time, and tiles would wait for all of them at once.
    const bool spread = p.source_size * int64_t(sizeof(T)) % 512 != 0;
    const int64_t source_values = s.batch * s.groups * p.sources * p.source_size;
    p.bare = !p.toeplitz && !p.shared && !phases && reads_once(axis, kernels.lanes) && p.sources * p.source_size <= INT32_MAX &&
             source_values * int64_t(sizeof(T)) <= bare_bytes && (p.destinations <= 2 * kernels.rows || spread);
    if (p.bare) {
        p.band.flat = false;
        p.band.channel = p.source_size, p.band.plane = axis[1].length * axis[2].length, p.band.row = axis[1].step * axis[2].length;
    }
    choose_taps(t, merged_taps, single_taps, kernels.rows, s.kernel, s.exact);
    // Full tiles of a forward pass; a few positions would not make up for packing.
    p.in_place = p.shared && !phases && !p.flipped && p.destinations % kernels.rows == 0;
    if (p.flipped) consider_columns(t, s, kernels.lanes);
    else consider_dots(p, kernels.lanes);
    if (!s.exact && !phases && has_winograd(axis, s.kernel)) consider_winograd(p, kernels.lanes);
    consider_depthwise(p, s, kernels.lanes);
}

template <class T>
ConvTables<T> forward_tables(const ConvShape& s, const std::array<int64_t, 3>& output, const ConvKernels<T>& kernels) {
    ConvTables<T> t;
    std::array<std::vector<std::vector<AxisTap>>, 3> taps;
    for (size_t a = 0; a < 3; ++a) {
        ConvAxis& axis = t.pass.axis[a];
        axis.length = s.input[a], axis.count = axis.destination = output[a];
        // A single tap skips what no output reads.
        const int64_t skip = s.kernel[a] == 1 ? s.stride[a] : 1;
        axis.step = s.stride[a] / skip, axis.span = (s.kernel[a] - 1) * s.dilation[a] + 1;
        axis.dilation = s.kernel[a] > 1 ? s.dilation[a] : 1, axis.phases = 1, axis.crop = 0;
        t.used[a].assign(size_t(axis.step), 0);
        taps[a].emplace_back();
        for (int64_t k = 0; k < s.kernel[a]; ++k) {
            taps[a][0].push_back({k * s.dilation[a], {k}});
            t.used[a][size_t(k * s.dilation[a] % axis.step)] = 1;
        }
        index_axis(t, a, -s.low[a], skip, s.padding == ConvPadding::zeros, s.padding);
    }
    ConvPass<T>& p = t.pass;
    p.sources = s.sources / s.groups, p.destinations = s.destinations / s.groups;
    const int64_t kernel = product(s.kernel);
    p.destination_stride = p.sources * kernel, p.source_stride = kernel, p.group_stride = p.destinations * p.sources * kernel;
    finish(t, s, kernels, taps, taps);
    return t;
}

// Destination i lies at i + low = q · stride + phase; tap k reaches it from q - floor(k · dilation / stride).
template <class T>
ConvTables<T> backward_tables(const ConvShape& s, const std::array<int64_t, 3>& output, const std::array<int64_t, 3>& padded,
                              const ConvKernels<T>& kernels) {
    ConvTables<T> t;
    t.pass.flipped = true;
    const bool zeros = s.padding == ConvPadding::zeros;
    std::array<std::vector<std::vector<AxisTap>>, 3> merged, single;
    for (size_t a = 0; a < 3; ++a) {
        ConvAxis& axis = t.pass.axis[a];
        const int64_t stride = s.stride[a], low = zeros ? s.low[a] : 0;
        axis.length = output[a], axis.destination = zeros ? s.input[a] : padded[a];
        const int64_t first = low / stride, last = (low + axis.destination - 1) / stride;
        const int64_t farthest = (s.kernel[a] - 1) * s.dilation[a] / stride;
        axis.count = last - first + 1, axis.step = 1, axis.span = farthest + 1;
        axis.phases = stride, axis.crop = low - first * stride;
        t.pass.low[a] = low, axis.dilation = s.kernel[a] > 1 ? s.dilation[a] : 1;
        t.used[a].assign(1, 1);
        single[a].resize(size_t(stride));
        merged[a].emplace_back();
        for (int64_t k = 0; k < s.kernel[a]; ++k) {
            const int64_t at = farthest - k * s.dilation[a] / stride, phase = k * s.dilation[a] % stride;
            single[a][size_t(phase)].push_back({at, {k}});
            auto& list = merged[a][0];
            if (list.empty() || list.back().at != at) list.push_back({at, std::vector<int64_t>(size_t(stride), -1)});   // it never rises
            list.back().element[size_t(phase)] = k;
        }
        index_axis(t, a, first - farthest, 1, true, s.padding);
    }
    ConvPass<T>& p = t.pass;
    p.sources = s.destinations / s.groups, p.destinations = s.sources / s.groups;
    const int64_t kernel = product(s.kernel);
    p.destination_stride = kernel, p.source_stride = p.destinations * kernel, p.group_stride = p.destinations * p.sources * kernel;
    finish(t, s, kernels, merged, single);
    return t;
}

// The same for the weight gradient, and what its units are. Units that are elements add to sums in memory: their bands are as
// large as memory allows.
template <class T>
void consider_winograd(ConvWeightPass<T>& p, int64_t lanes) {
    constexpr int64_t least = 16, block_destinations = 32, block_vectors = 3;
    if (p.sources < least || p.destinations < least) return;
    const ConvAxis &z = p.axis[0], &y = p.axis[1], &x = p.axis[2];
    const int64_t elements = p.winograd_elements(), tall = p.taps[1] == 1 ? 1 : 4;
    // Of the transforms and transposes of a vector of channels: cycles per vector of tiles, over lanes.
    const double of_channel = (tall == 1 ? 10 : 12) * double(elements);
    const int64_t across = ceil_div(x.count, 4 * x.dilation), down = ceil_div(y.count, tall * y.dilation);
    const int64_t sources = ceil_div(p.sources, lanes) * lanes;
    const int64_t destinations = ceil_div(p.destinations, lanes) * lanes;
    const double products = double(p.sources) * double(p.destinations) * double(p.taps[0] * p.groups);
    const double volumes = double(p.batch * p.groups * (p.sources * p.source_size + p.destinations * p.gradient_size));
    const double direct = double(p.taps[1] * p.taps[2]) * products * double(p.batch * z.count * y.count * x.count) / double(lanes) * 1.15;
    auto tile_bytes = [&](int64_t slices) {   // of a group's transformed tiles, as many slices of one in every phase
        return elements * int64_t(sizeof(T)) * (sources * (slices - 1 + z.span) + destinations * slices) * y.dilation * x.dilation;
    };
    auto row_bytes = [&](int64_t slices) { return tile_bytes(slices) * p.groups * across; };
    // Of the transforms and products of all bands, and `of_sums` cycles for each of the sums.
    auto time = [&](int64_t columns, int64_t rows, int64_t slices, double of_sums) {
        const double tiles = double(p.batch * ceil_div(down, rows) * rows * ceil_div(z.count, slices) * slices) *
                             double(ceil_div(across, columns) * columns * y.dilation * x.dilation);
        const double transforms = of_channel * double(p.groups) *
                                  (double(sources) * double(slices - 1 + z.span) / double(slices) + double(destinations)) / double(lanes);
        return tiles / double(lanes) * double(elements) * products + tiles * transforms + of_sums * double(elements) * products;
    };
    auto choose = [&](WinogradUnits units, int64_t bands_at_once, int64_t columns, int64_t rows, int64_t slices) {
        p.winograd = true, p.channels = false, p.winograd_units = units, p.bands_at_once = bands_at_once;
        p.axis[0].block = slices, p.axis[1].block = tall * y.dilation * rows, p.axis[2].block = 4 * x.dilation * columns;
        p.sources_at_once = p.sources, p.destinations_at_once = p.destinations, p.parts = p.source_blocks = p.destination_blocks = 1;
    };

    const double sums_bytes = double(elements) * products / double(p.groups) * sizeof(T);
    const int64_t fitting = winograd_bytes / 2 / tile_bytes(1);   // tiles
    if (z.span == 1 && sums_bytes <= winograd_sums_bytes && (fitting >= across || fitting >= 2 * lanes)) {
        const int64_t columns = ceil_div(across, ceil_div(across, fitting));
        const int64_t rows = ceil_div(down, ceil_div(down, std::clamp<int64_t>(fitting / columns, 1, down)));
        const int64_t bands = p.batch * z.count * ceil_div(down, rows) * ceil_div(across, columns);
        const int64_t affordable = std::max<int64_t>(1, int64_t(volumes / 20) / p.size());
        const int64_t most = std::max<int64_t>(1, std::min(affordable, bands));
        const int64_t parts = std::clamp<int64_t>(ceil_div(2 * wanted_units, p.groups), 1, most);
        if (p.groups * parts >= wanted_units && time(columns, rows, 1, 1 + double(parts)) <= 0.85 * direct) {
            choose(WinogradUnits::bands, 1, columns, rows, 1);
            p.parts = parts;
            return;
        }
    }
    // Sums in memory where there are few, as the transforms of all bands would not stay in the caches.
    const bool few_sums = double(elements) * products <= 3 * volumes;
    const double whole = double(p.batch * row_bytes(z.count) * down);
    const double most = std::min<double>(few_sums ? winograd_weight_bytes : winograd_shared_bytes, 3 * volumes * sizeof(T));
    if (whole <= most && time(across, down, z.count, 0.4) <= 0.85 * direct) {
        choose(WinogradUnits::blocks, p.batch, across, down, z.count);
        p.sources_at_once = std::min(p.sources, block_vectors * lanes);
        p.destinations_at_once = std::min(p.destinations, block_destinations);
        p.source_blocks = ceil_div(p.sources, p.sources_at_once);
        while (p.groups * p.source_blocks * ceil_div(p.destinations, p.destinations_at_once) < wanted_units && p.destinations_at_once > 8)
            p.destinations_at_once = ceil_div(p.destinations_at_once, 2);
        p.destination_blocks = ceil_div(p.destinations, p.destinations_at_once);
        return;
    }
    int64_t rows = std::clamp<int64_t>(winograd_weight_bytes / row_bytes(1), 1, down), slices = 1;
    rows = ceil_div(down, ceil_div(down, rows));
    while (slices < z.count && row_bytes(slices + 1) * rows <= winograd_weight_bytes) ++slices;
    if (z.span > 1 && slices < 4 && z.count >= 4) {
        slices = 4;
        rows = std::clamp<int64_t>(winograd_weight_bytes / row_bytes(4), 1, down);
    }
    if (row_bytes(slices) * rows > 4 * winograd_weight_bytes) return;   // an image that is too wide
    slices = ceil_div(z.count, ceil_div(z.count, slices));
    const int64_t bands = p.batch * ceil_div(down, rows) * ceil_div(z.count, slices);
    const int64_t at_once = std::clamp<int64_t>(winograd_weight_bytes / (row_bytes(slices) * rows), 1, std::max<int64_t>(1, bands));
    const double chunks = double(ceil_div(bands, at_once));
    if (!few_sums || time(across, rows, slices, 1 + chunks) > 0.85 * direct) return;
    choose(WinogradUnits::elements, at_once, across, rows, slices);
}

template <class T>
ConvWeightPass<T> weight_pass(const ConvShape& s, const ConvTables<T>& forward, const ConvKernels<T>& kernels) {
    ConvWeightPass<T> p{};
    std::copy_n(forward.pass.axis, 3, p.axis);
    p.batch = s.batch, p.groups = s.groups;
    p.sources = s.sources / s.groups, p.destinations = s.destinations / s.groups;
    p.source_size = forward.pass.source_size, p.gradient_size = forward.pass.destination_size;
    for (size_t a = 0; a < 3; ++a) p.taps[a] = s.kernel[a], p.dilation[a] = s.dilation[a];
    p.channels = p.sources >= 2 * kernels.lanes && p.destinations >= kernels.rows / 2;
    p.toeplitz = p.destinations == 1 && p.axis[1].step == 1 && s.dilation[1] == 1 && p.taps[1] > 1;
    // What is transposed serves every tap; of a single one, more channels on the other side, at fewer positions.
    const int64_t channels = p.channels && p.kernel() == 1 ? 2 * channels_at_once : channels_at_once;
    p.sources_at_once = std::min(p.sources, channels), p.destinations_at_once = std::min(p.destinations, channels);
    const int64_t fewer = p.channels ? p.sources_at_once + p.destinations_at_once > 2 * channels_at_once ? 8 : 2 : 1;
    const int64_t blocks_at_once = s.groups * ceil_div(p.sources, p.sources_at_once) * ceil_div(p.destinations, p.destinations_at_once);
    // Two threads' scratch and the parts: a tenth of both arrays, and the weights once.
    const int64_t values = s.batch * (s.sources * p.source_size + s.destinations * p.gradient_size);
    const int64_t allowed = values / 10 + p.size() - beside_band_bytes / int64_t(sizeof(T));
    const int64_t bytes = std::clamp(allowed * int64_t(sizeof(T)) / 3, least_band_bytes, weight_band_bytes);
    const int64_t fitting = bytes / (int64_t(sizeof(T)) * (p.sources_at_once + p.destinations_at_once));
    cut<T>(p.axis, p.band, p.sources_at_once, bytes / 2, std::min(positions_at_once / fewer, std::max<int64_t>(fitting, 64)),
           s.batch * blocks_at_once, p.channels ? 1 : kernels.lanes, 1, 1, 8, !p.toeplitz && !p.channels, 0.05);
    const int64_t line = 64 / int64_t(sizeof(T));
    p.gradient_row = p.band.flat ? p.band.row : (ceil_div(p.axis[2].block, line) | 1) * line;
    p.parts = 2;   // the scratch of a single part holds its sums too
    const int64_t affordable = std::max<int64_t>(1, (allowed - 2 * kernels.weight_scratch(p)) / std::max<int64_t>(1, p.size()));
    auto blocks = [&] {
        p.source_blocks = ceil_div(p.sources, p.sources_at_once), p.destination_blocks = ceil_div(p.destinations, p.destinations_at_once);
        return s.groups * p.source_blocks * p.destination_blocks;
    };
    // Few units: parts of the positions, as many as are affordable and even, then smaller blocks of channels.
    p.parts = std::clamp<int64_t>(ceil_div(2 * wanted_units, blocks()), 1, std::max<int64_t>(1, std::min(affordable, p.bands())));
    if (p.parts > 2) p.parts -= p.parts % 2;
    while (p.parts * blocks() < wanted_units * 3 / 4 && std::max(p.destinations_at_once, p.sources_at_once) > least_channels) {
        int64_t& larger = p.destinations_at_once >= p.sources_at_once ? p.destinations_at_once : p.sources_at_once;
        larger = ceil_div(larger, 2);
    }
    if (!s.exact && sizeof(T) == 4 && has_winograd(p.axis, s.kernel)) consider_winograd(p, kernels.lanes);
    return p;
}

}  // namespace

template <class T>
ConvPlan<T>::ConvPlan(const ConvShape& given) : shape(given), kernels_(conv_kernels<T>()) {
    merge_axes(shape);
    padded_ = padded_input(shape);
    output = conv_output(shape);
    forward_ = forward_tables(shape, output, kernels_);
    weight_ = weight_pass(shape, forward_, kernels_);
}

template <class T>
const ConvTables<T>& ConvPlan<T>::backward() const {
    std::call_once(backward_made_, [&] { backward_ = backward_tables(shape, output, padded_, kernels_); });
    return backward_;
}

template <class T>
const char* ConvPlan<T>::family() const {
    const ConvPass<T>& p = forward_.pass;
    return p.winograd ? "winograd" : p.dots ? "dots" : p.toeplitz ? "toeplitz" : p.band.flat ? "flat" : "direct";
}

template <class T>
int64_t ConvPlan<T>::workspace_bytes(int threads) const {
    int64_t most = 0;
    for (const ConvTables<T>* t : {&forward_, &backward()}) {
        const ConvPass<T>& p = t->pass;
        int64_t elements = threads * kernels_.scratch(p);
        if (!p.columns) elements += p.shared ? kernels_.bands_size(p) : kernels_.packed_size(p);
        if (t != &forward_ && shape.padding != ConvPadding::zeros) elements += p.batch * p.groups * p.destinations * p.destination_size;
        most = std::max(most, elements);
    }
    int64_t sums = 0;
    if (weight_.winograd && weight_.winograd_units != WinogradUnits::bands) {
        const int64_t transformed = kernels_.winograd_weight_size(weight_, &sums);
        most = std::max(most, threads * kernels_.weight_scratch(weight_) + transformed + sums);
    } else {
        const int64_t partial = weight_.parts > 1 ? weight_.parts * weight_.size() : 0;
        most = std::max(most, threads * kernels_.weight_scratch(weight_) + partial);
    }
    return most * int64_t(sizeof(T));
}

template <class T>
void ConvPlan<T>::run(const ConvTables<T>& tables, const T* source, const T* weight, const T* bias, T* destination, const ConvEnd<T>& end,
                      int threads, const Poll& poll) const {
    ConvPass<T> pass = tables.pass;
    pass.source = source, pass.destination = destination, pass.bias = bias, pass.weight = weight, pass.end = end;
    pass.ends = end.addend || (end.relu && end.slope != T(0)), pass.relu = end.relu && !pass.ends;
    const int64_t size = ceil_div(kernels_.scratch(pass), 64) * 64;
    Buffer<T> scratch = acquire<T>(size * threads), shared;
    if (pass.columns || pass.depthwise) {   // units read the weights as they are
    } else if (pass.shared) {
        shared = acquire<T>(kernels_.bands_size(pass));
        parallel_for(kernels_.band_units(pass), threads, [&](int64_t unit, int worker) {
            kernels_.copy_band(pass, unit, shared.get(), scratch.get() + worker * size);
        });
        pass.bands = shared.get();
    } else if (pass.toeplitz) {
        const int64_t kernel = pass.z_taps * pass.y_taps * pass.x_taps;
        shared = acquire<T>(pass.groups * pass.sources * kernel);
        T* to = shared.get();
        for (int64_t c = 0; c < pass.groups * pass.sources; ++c, weight += kernel)
            for (int64_t z = 0; z < pass.z_taps; ++z)
                for (int64_t x = 0; x < pass.x_taps; ++x)
                    for (int64_t y = 0; y < pass.y_taps; ++y) {
                        const int64_t at = (z * pass.y_taps + y) * pass.x_taps + x;
                        *to++ = weight[pass.flipped ? kernel - 1 - at : at];
                    }
        pass.packed = shared.get();
    } else {
        shared = acquire<T>(kernels_.packed_size(pass));
        const bool little = kernels_.packed_size(pass) < little_weight;
        parallel_for(pass.groups * pass.block_count, little ? 1 : threads, [&](int64_t unit, int) {
            kernels_.pack(pass, unit / pass.block_count, unit % pass.block_count, shared.get());
        });
        pass.packed = shared.get();
    }
    parallel_for(pass.units(), threads, [&](int64_t unit, int worker) { kernels_.unit(pass, unit, scratch.get() + worker * size); }, poll);
}

template <class T>
void ConvPlan<T>::forward(const T* x, const T* weight, const T* bias, T* out, const ConvEnd<T>& end, int threads, const Poll& poll) const {
    run(forward_, x, weight, bias, out, end, threads, poll);
}

template <class T>
void ConvPlan<T>::input_grad(const T* gradient, const T* weight, const T* bias, T* out, const ConvEnd<T>& end, int threads,
                             const Poll& poll) const {
    if (shape.padding == ConvPadding::zeros) {
        run(backward(), gradient, weight, bias, out, end, threads, poll);
        return;
    }
    // The gradient in the padded input, folded: what the padding repeats is added where it was taken from.
    const ConvPass<T>& p = backward().pass;
    Buffer<T> whole = acquire<T>(shape.batch * shape.sources * p.destination_size);
    run(backward(), gradient, weight, nullptr, whole.get(), ConvEnd<T>{}, threads, poll);
    std::array<std::vector<int64_t>, 3> to;
    for (size_t a = 0; a < 3; ++a)
        for (int64_t i = 0; i < padded_[a]; ++i)
            to[a].push_back(scalar::source_index(i - shape.low[a], shape.input[a], boundary_of(shape.padding)));
    const int64_t size = product(shape.input), row = shape.input[2];
    parallel_for(shape.batch * shape.sources, threads, [&](int64_t channel, int) {
        T* result = out + channel * size;
        std::fill_n(result, size, bias ? bias[channel % shape.sources] : T(0));
        const T* from = whole.get() + channel * p.destination_size;
        for (int64_t z : to[0])
            for (int64_t y : to[1]) {
                T* line = result + (z * shape.input[1] + y) * row;
                for (int64_t x = 0; x < shape.low[2]; ++x) line[to[2][size_t(x)]] += from[x];
                for (int64_t x = 0; x < row; ++x) line[x] += from[shape.low[2] + x];
                for (int64_t x = shape.low[2] + row; x < padded_[2]; ++x) line[to[2][size_t(x)]] += from[x];
                from += padded_[2];
            }
        if (const T* more = end.addend ? end.addend + channel * size : nullptr)
            for (int64_t i = 0; i < size; ++i) result[i] += more[i];
        if (end.relu)
            for (int64_t i = 0; i < size; ++i) result[i] = result[i] < T(0) ? end.slope != T(0) ? end.slope * result[i] : T(0) : result[i];
    }, poll);
}

template <class T>
void ConvPlan<T>::weight_grad(const T* gradient, const T* x, T* out, int threads, const Poll& poll) const {
    ConvWeightPass<T> pass = weight_;
    pass.gradient = gradient, pass.source = x;
    const int64_t size = pass.size();
    if (pass.winograd && pass.winograd_units != WinogradUnits::bands) {
        const bool blocks = pass.winograd_units == WinogradUnits::blocks;
        int64_t sums_size = 0;
        Buffer<T> transformed = acquire<T>(kernels_.winograd_weight_size(pass, &sums_size)), sums = acquire<T>(sums_size);
        const int64_t scratch_size = ceil_div(kernels_.weight_scratch(pass), 64) * 64;
        const int64_t units = pass.groups * pass.taps[0] * pass.winograd_elements();
        Buffer<T> scratch = acquire<T>(scratch_size * threads);
        std::fill_n(sums.get(), sums_size, T(0));
        for (int64_t first = 0; first < pass.bands(); first += pass.bands_at_once) {
            const int64_t bands = std::min(pass.bands_at_once, pass.bands() - first);
            parallel_for(kernels_.winograd_weight_units(pass, bands), threads, [&](int64_t unit, int worker) {
                kernels_.winograd_weight_transform(pass, first, unit, transformed.get(), scratch.get() + worker * scratch_size);
            }, poll);
            if (blocks) break;   // all bands
            parallel_for(units, threads, [&](int64_t unit, int worker) {
                kernels_.winograd_weight_products(pass, bands, unit, transformed.get(), sums.get(), scratch.get() + worker * scratch_size);
            }, poll);
        }
        if (blocks) {
            pass.partial = out;
            parallel_for(pass.units(), threads, [&](int64_t unit, int worker) {
                kernels_.winograd_weight_block(pass, unit, transformed.get(), scratch.get() + worker * scratch_size);
            }, poll);
            return;
        }
        parallel_for(pass.groups * pass.destinations, threads,
                     [&](int64_t unit, int) { kernels_.winograd_weight_collect(pass, unit, sums.get(), out); });
        return;
    }
    Buffer<T> partial;
    if (pass.parts > 1) partial = acquire<T>(pass.parts * size);
    pass.partial = pass.parts > 1 ? partial.get() : out;
    const int64_t scratch_size = ceil_div(kernels_.weight_scratch(pass), 64) * 64;
    Buffer<T> scratch = acquire<T>(scratch_size * threads);
    parallel_for(pass.units(), threads,
                 [&](int64_t unit, int worker) { kernels_.weight_unit(pass, unit, scratch.get() + worker * scratch_size); }, poll);
    if (pass.parts == 1) return;
    // The parts in their order, one destination channel at a time.
    const int64_t taps = pass.kernel(), row = pass.sources * taps;
    parallel_for(pass.groups * pass.destinations, threads, [&](int64_t channel, int) {
        const int64_t group = channel / pass.destinations, o = channel % pass.destinations;
        T* to = out + channel * row;
        if (!pass.channels) {
            for (int64_t i = 0; i < row; ++i) {
                T sum = pass.partial[channel * row + i];
                for (int64_t part = 1; part < pass.parts; ++part) sum += pass.partial[part * size + channel * row + i];
                to[i] = sum;
            }
            return;
        }
        constexpr int64_t block = 16;    // a line of every tap
        std::vector<T> sums(size_t(taps * block));
        for (int64_t c0 = 0; c0 < pass.sources; c0 += block) {
            const int64_t count = std::min(block, pass.sources - c0);
            for (int64_t k = 0; k < taps; ++k) {
                const T* from = pass.partial + ((group * taps + k) * pass.destinations + o) * pass.sources + c0;
                T* sum = sums.data() + k * block;
                std::copy_n(from, count, sum);
                for (int64_t part = 1; part < pass.parts; ++part)
                    for (int64_t c = 0; c < count; ++c) sum[c] += from[part * size + c];
            }
            for (int64_t c = 0; c < count; ++c)
                for (int64_t k = 0; k < taps; ++k) to[(c0 + c) * taps + k] = sums[size_t(k * block + c)];
        }
    });
}

template <class T>
void sum_channels(const T* x, int64_t batch, int64_t channels, int64_t size, T* out, int threads, const Poll& poll) {
    constexpr int64_t chunk = 1 << 16;
    const ConvKernels<T>& kernels = conv_kernels<T>();
    const int64_t chunks = ceil_div(size, chunk), per_channel = batch * chunks;
    std::vector<double> sums(size_t(channels * per_channel));
    parallel_for(channels * per_channel, threads, [&](int64_t unit, int) {
        const int64_t channel = unit / per_channel, image = unit / chunks % batch, start = unit % chunks * chunk;
        sums[size_t(unit)] = kernels.sum(x + (image * channels + channel) * size + start, std::min(chunk, size - start));
    }, poll);
    for (int64_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (int64_t i = 0; i < per_channel; ++i) sum += sums[size_t(c * per_channel + i)];
        out[c] = T(sum);
    }
}

#define INSTANTIATE(T)         \
    template class ConvPlan<T>; \
    template void sum_channels<T>(const T*, int64_t, int64_t, int64_t, T*, int, const Poll&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace medeconv
