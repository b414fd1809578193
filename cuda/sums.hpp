// Sums over a sweep that are the same in every run: each block adds into a slot of its own, in a fixed order, and one block
// adds the slots, of many the sums of equal parts of them. `Operands::sums` points to sums_size(blocks) doubles of the device;
// the totals come first.
#pragma once
#include "operands.hpp"
#include "runtime.hpp"

namespace medeconv::cuda {

constexpr int64_t sums_size(int64_t blocks) { return sums_of_a_sweep * (1 + blocks); }

// Adds the slots that `blocks` blocks have filled, and may overwrite them.
void finish_sums(double* sums, int64_t blocks, Stream stream);

}  // namespace medeconv::cuda
