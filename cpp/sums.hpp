// Sums over a sweep that are the same for any number of threads: each piece of work adds to a slot of its own, and the slots
// are added in order.
#pragma once
#include <vector>

#include "operands.hpp"

namespace medeconv {

template <class T>
class Sums {
public:
    // Redirects operands.sums, if asked for, to `slots` slots until `finish`. Slots must not depend on the number of threads.
    Sums(Operands<T>& operands, int64_t slots) : totals_(operands.sums) {
        if (!totals_) return;
        parts_.assign(size_t(slots * sums_of_a_sweep), 0.0);
        operands.sums = parts_.data();
    }
    void finish() const {
        if (!totals_) return;
        for (int k = 0; k < sums_of_a_sweep; ++k) totals_[k] = 0;
        for (size_t at = 0; at < parts_.size(); ++at) totals_[at % sums_of_a_sweep] += parts_[at];
    }

private:
    double* totals_;
    std::vector<double> parts_;
};

}  // namespace medeconv
