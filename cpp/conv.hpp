// Network convolution: what its kernels work on, shared by the plan (conv.cpp) and the inner rows (conv*.simd.hpp).
//
// Forward and input gradient are one *pass*: destination channel o at position q = (z, y, x) is a sum over source channels c
// and taps t of weight[o, c, t] · source[c, q · step + e(t)], the source continued by the padding rule. The input gradient
// of a stride s has s output phases per axis: destination i = q · s + phase - crop, every phase with taps of its own. It
// is computed as that many extra channels, then interleaved: nothing is ever scattered.
//
// A unit copies the part of the source that its outputs need (a *band*) into cache, with what lies outside written out
// beside it and strides split into phases, so that inner loops read contiguous vectors and check no bounds. Then
//   tap table   a tile of channels × vectors is summed over all taps in registers; a tap is an offset into the band
//   Toeplitz    for one channel per group: a tile of rows × vectors (direct.simd.hpp)
//   depthwise   the same for small images: all channels of a unit go through one frame (conv_depthwise.simd.hpp)
//   Winograd    for 3 × 3 kernels and lines of 3 or 5 taps: fewer multiplications; dilated ones by phases (conv_winograd.simd.hpp)
//   dots        for small images with many channels: vectors run along the weights (conv_dots.simd.hpp)
//   columns     the same for input gradients (conv_columns.simd.hpp)
//   weights     for the weight gradient: the tap table again, whose taps are now positions and whose vectors run along the
//               source's channels; with few channels a tile of channels × taps, vectors along x
// Sources of which nothing is read twice are read where they lie.
// Narrow images are laid out so that a whole band is one line ("flat"): vectors run over the ends of the rows, and what
// they compute there is not delivered.
#pragma once
#include <cstdint>

#include "shared/formulas.hpp"

namespace medeconv {

// One axis of a pass. Position r in [0, (count - 1) · step + span) of the continued source is source element index(r), or
// zero where index(r) < 0. What lies on [inner, outer) is copied as a piece, and only the others are in a table: an axis may
// be as long as an image has values.
struct ConvAxis {
    int64_t length;                  // of the source
    int64_t first;                   // element of position 0, if it is one
    const int32_t* edge;             // elements of the positions before inner, then of those from outer on
    int64_t inner, outer, skip;
    int64_t count, step, span, dilation;
    int64_t block;                   // of count, per unit
    const uint8_t* used;             // [step]: whether any tap reads positions r with r % step = i
    int64_t phases, crop, destination;
    MEDECONV_INLINE int64_t index(int64_t r) const {
        return r < inner ? edge[r] : r < outer ? first + r * skip : edge[r - outer + inner];
    }
    MEDECONV_INLINE int64_t blocks() const { return (count + block - 1) / block; }
    MEDECONV_INLINE int64_t stop(int64_t start) const { return start + block < count ? start + block : count; }
    MEDECONV_INLINE int64_t reach(int64_t counted) const { return (counted - 1) * step + span; }  // positions that they read
};

// Where a band's element (c, z, y, x) lies: c · channel + z · plane + phase(y, x) · part + (y / step) · row + x / step.
struct ConvBand {
    int64_t row, part, plane, channel;
    bool flat;
};
MEDECONV_INLINE int64_t band_offset(const ConvBand& b, const ConvAxis* axis, int64_t z, int64_t y, int64_t x) {
    const int64_t sy = axis[1].step, sx = axis[2].step;
    return z * b.plane + (y % sy * sx + x % sx) * b.part + y / sy * b.row + x / sx;
}

// The taps of one choice of those output phases that are not merged into the tile's channels.
struct ConvVariant {
    const int32_t* offsets;          // [channels][taps], into a band
    const int32_t* weights;          // [taps][merged]: element of the weight's kernel, or -1: zero
    int64_t taps;
    int64_t packed_before;           // taps of the variants before it
};
// Neighbouring destination channels that share a tile of `rows` = channels · merged phases, rounded up to a power of 2.
struct ConvBlock {
    int64_t first, channels, rows, rows_before;
};

// Where the position that output (z, y, x) reads first lies in a source that is read where it is.
template <class Pass>
MEDECONV_INLINE int64_t bare_offset(const Pass& p, int64_t z, int64_t y, int64_t x) {
    const ConvAxis &az = p.axis[0], &ay = p.axis[1], &ax = p.axis[2];   // a gradient's padding is not read
    return ((az.index(0) + z * az.step) * ay.length + ay.index(0) + y * ay.step) * ax.length + ax.index(0) + x * ax.step;
}

// A small image of one channel among zeros: position (y, x) of what is read lies at y · row + x % step · pitch + x / step.
struct ConvFrame {
    int64_t row, pitch, rows;
    MEDECONV_INLINE int64_t size() const { return rows * row; }
};
constexpr int64_t frame_rows = 4;    // of results, at once
constexpr int64_t dot_vectors = 64;  // of dot products at once, at most, so that what tiles share stays in L1
// Vectors read beyond the last column; so do rows, where those of results are not a multiple.
MEDECONV_INLINE ConvFrame conv_frame(const ConvAxis* axis, int64_t y_taps, int64_t x_taps, int64_t lanes) {
    const int64_t pitch = ((axis[2].count + x_taps + lanes - 1) / lanes + 1) * lanes;
    const int64_t rows = (axis[1].count + frame_rows - 1) / frame_rows * frame_rows;
    return {axis[2].step * pitch, pitch, (rows - 1) * axis[1].step + y_taps};
}

// What is done to results while they are in cache: what is added to them, and then a ReLU, whose `slope` negative values keep.
template <class T>
struct ConvEnd {
    const T* addend;                 // as the destination, or null
    bool relu;
    T slope;
};

template <class T>
struct ConvPass {
    ConvAxis axis[3];                // z, y, x
    ConvBand band;
    int64_t batch, groups, sources, destinations;   // channels per group
    int64_t source_size, destination_size;          // elements of a channel
    const T* source;
    T* destination;
    const T* bias;                   // per destination channel, or null
    bool relu;                       // as sums leave their registers; else
    bool ends;                       // a unit does `end` to what it has made
    ConvEnd<T> end;
    bool stream;                     // results past the cache
    bool toeplitz, winograd, columns, dots;
    bool depthwise;                  // small images of one channel per group: units are channels_at_once of them
    bool shared;                     // `bands` is used, and a unit is a block of channels of all images; dots too
    bool in_place;                   // shared: a tile reads the weights as given, which lie in the order of its taps
    bool bare;                       // nothing is continued or overlaps: tiles read the source where it lies
    bool flipped;                    // Toeplitz, Winograd: taps are read from the last to the first
    const T* weight;                 // as given: destination_stride, source_stride, kernel elements
    int64_t destination_stride, source_stride, group_stride;
    const T* packed;                 // [groups][variants][blocks][sources][taps][rows]; where shared, units pack their own
    const T* bands;                  // shared: every image's band, its transform, or its values; else units copy their own
    int64_t merged[3];               // output phases per axis that are rows of the tile: axis.phases or 1
    const ConvVariant* variants;     // [z][y][x] of the phases not merged
    int64_t variant_taps;            // of all variants
    const ConvBlock* blocks;
    int64_t block_count, block_rows; // of all blocks
    int64_t y_taps, x_taps, y_step;  // toeplitz: weight [groups][sources][z taps][x taps][y taps]
    int64_t z_taps, z_step;
    int64_t sources_at_once;         // toeplitz
    int64_t channels_at_once, positions_at_once;    // columns, dots: destination channels of a unit; source positions
    int64_t low[3];                  // columns: source q is added to destination q · phases + k · dilation - low
    MEDECONV_INLINE int64_t group_packed() const { return sources * variant_taps * block_rows; }
    MEDECONV_INLINE int64_t positions() const { return axis[0].blocks() * axis[1].blocks() * axis[2].blocks(); }
    MEDECONV_INLINE int64_t source_values() const { return sources * z_taps * y_taps * x_taps; }   // of a position
    MEDECONV_INLINE int64_t column_blocks() const { return (destinations + channels_at_once - 1) / channels_at_once; }
    MEDECONV_INLINE int64_t units() const {
        if (depthwise) return (batch * groups * axis[0].count + channels_at_once - 1) / channels_at_once;
        return columns || dots ? groups * column_blocks() : shared ? groups * block_count : batch * groups * positions();
    }
};

// What a unit of the products of Winograd's weight gradient is: conv_winograd_weight.simd.hpp.
enum class WinogradUnits { elements, blocks, bands };

// The weight gradient: weight[o, c, k] = sum over images and q of gradient[o, q] · source[c, q · step + k · dilation].
// Images and bands are cut into `parts`, each summed in order into a partial result of its own.
template <class T>
struct ConvWeightPass {
    ConvAxis axis[3];
    ConvBand band;
    int64_t batch, groups, sources, destinations;
    int64_t source_size, gradient_size;
    const T* source;
    const T* gradient;
    int64_t taps[3], dilation[3];
    int64_t gradient_row;            // in scratch
    bool channels;                   // vectors along the source's channels, else along x
    bool winograd;                   // the same, in the transform's elements: conv_winograd_weight.simd.hpp
    WinogradUnits winograd_units;
    int64_t bands_at_once;           // winograd: whose transforms lie in memory at the same time
    bool toeplitz;                   // one destination channel: tiles of y taps × x taps
    int64_t parts, source_blocks, destination_blocks, sources_at_once, destinations_at_once;
    T* partial;                      // the result, of one part; else [parts][groups · destinations][sources][taps], or
                                     // channels: [parts][groups][taps][destinations][sources]
    MEDECONV_INLINE int64_t kernel() const { return taps[0] * taps[1] * taps[2]; }
    MEDECONV_INLINE int64_t size() const { return groups * destinations * sources * kernel(); }
    MEDECONV_INLINE int64_t winograd_elements() const { return (taps[1] == 1 ? 1 : taps[1] + 3) * (taps[2] + 3); }
    MEDECONV_INLINE int64_t bands() const { return batch * axis[0].blocks() * axis[1].blocks() * axis[2].blocks(); }
    MEDECONV_INLINE int64_t units() const { return parts * groups * source_blocks * destination_blocks; }
};

template <class T>
struct ConvKernels {
    int64_t lanes, rows;             // of a vector; the most rows of a tile
    int64_t (*scratch)(const ConvPass<T>&);                     // elements per worker
    int64_t (*packed_size)(const ConvPass<T>&);
    void (*pack)(const ConvPass<T>&, int64_t group, int64_t block, T* packed);   // a block's weights, for every variant
    int64_t (*bands_size)(const ConvPass<T>&);
    int64_t (*band_units)(const ConvPass<T>&);
    void (*copy_band)(const ConvPass<T>&, int64_t unit, T* bands, T* scratch);   // what `bands` holds
    void (*unit)(const ConvPass<T>&, int64_t unit, T* scratch);
    int64_t (*weight_scratch)(const ConvWeightPass<T>&);
    void (*weight_unit)(const ConvWeightPass<T>&, int64_t unit, T* scratch);
    double (*sum)(const T*, int64_t n);
    // The weight gradient by Winograd's transform, for `bands` bands from `first` on after one another: transform, then
    // products added to `sums`; in the end collect. Units of each may be done in any order.
    int64_t (*winograd_weight_size)(const ConvWeightPass<T>&, int64_t* sums);   // of `transformed`, and of `sums`
    int64_t (*winograd_weight_units)(const ConvWeightPass<T>&, int64_t bands);  // of the transform
    void (*winograd_weight_transform)(const ConvWeightPass<T>&, int64_t first, int64_t unit, T* transformed, T* scratch);
    void (*winograd_weight_products)(const ConvWeightPass<T>&, int64_t bands, int64_t unit, const T* transformed, T* sums, T* scratch);
    void (*winograd_weight_collect)(const ConvWeightPass<T>&, int64_t unit, const T* sums, T* out);   // [groups][destinations]
    void (*winograd_weight_block)(const ConvWeightPass<T>&, int64_t unit, const T* transformed, T* scratch);   // products, collected
};

template <class T>
const ConvKernels<T>& conv_kernels();                          // of the active ISA (dispatch.cpp)

}  // namespace medeconv
