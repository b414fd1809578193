// The spectral engine's kernels, on grids that take each radix, several blocks, lines that do not fill one, and prime factors.
#include <algorithm>

#include "launchers.hpp"
#include "overlap.hpp"
#include "spectral.hpp"
#include "sums.hpp"

using namespace medeconv;
using namespace medeconv::cuda;

namespace {

struct Memory {  // of no type
    explicit Memory(size_t bytes) : values(int64_t((bytes + 7) / 8)) {}
    operator void*() const { return static_cast<double*>(values); }
    DeviceValues<double> values;
};

template <class T>
struct Tables {
    explicit Tables(int64_t length) : axis(length), memory(axis.table_bytes()) {
        std::vector<char> host(axis.table_bytes());
        axis.write_tables(host.data());
        copy_to_device(memory, host.data(), host.size(), nullptr);
        synchronize(nullptr);
    }
    Axis<T> axis;
    Memory memory;
};
template <class T>
struct PlanTables {
    explicit PlanTables(SpectralPlan<T>& plan) : z(plan.lengths()[0]), y(plan.lengths()[1]), x(plan.lengths()[2]) {
        plan.use_tables({z.memory, y.memory, x.memory});
    }
    Tables<T> z, y, x;
};

int64_t size_of(const Box& b) { return (b[0].stop - b[0].start) * (b[1].stop - b[1].start) * (b[2].stop - b[2].start); }

// Loads an estimate, sweeps there and back with the formula, the second time with all that it may be given.
template <class T>
std::vector<double> iteration(Shape grid, Box estimate, Box image, Reach reach, Formula formula, bool symmetric) {
    SpectralPlan<T> plan(grid, estimate, image, reach);
    const PlanTables<T> tables(plan);
    const Memory spectrum(plan.spectrum_bytes()), otf(plan.transfer_bytes(symmetric));
    const Shape taps{std::min<int64_t>(grid[0], 2), std::min<int64_t>(grid[1], 3), std::min<int64_t>(grid[2], 3)};
    const DeviceValues<T> psf(taps[0] * taps[1] * taps[2], 1);
    plan.transfer(psf, taps, {taps[0] / 2, taps[1] / 2, taps[2] / 2}, symmetric, spectrum, otf, nullptr);

    const int64_t n = size_of(estimate), m = size_of(image);
    const DeviceValues<T> x(n, 2), gain(n, 3), factor(n, 4), previous(n, 5), change(n, 6), out(n), ahead(n);
    const DeviceValues<T> measured(m, 7), weights(m, 8), ratio(m);
    const DeviceValues<double> sums(sums_size(plan.sum_blocks()));
    Operands<T> forward, backward;
    forward.image = measured, forward.weights = weights, forward.estimate = measured, forward.out = ratio, forward.eps = T(1e-3);
    backward.image = x, backward.estimate = x, backward.gain = gain, backward.factor = factor, backward.previous = previous;
    backward.change = change, backward.out = out, backward.extrapolated = ahead, backward.sums = sums, backward.eps = T(1e-3);
    plan.load(spectrum, x, false, {}, nullptr);
    plan.sweep(spectrum, {otf, symmetric}, false, formula, forward, true, nullptr);
    plan.sweep(spectrum, {otf, symmetric}, true, formula, backward, true, nullptr);
    plan.sweep(spectrum, {otf, symmetric}, false, Formula::copy, forward, false, nullptr);
    std::vector<double> all;
    out.append_to(all), ahead.append_to(all), ratio.append_to(all), sums.append_to(all, sums_of_a_sweep);
    return all;
}

template <class T>
std::vector<double> filters() {
    const Shape grid{4, 5, 6};
    const Box box{Range{1, 3}, Range{0, 5}, Range{1, 6}};
    SpectralPlan<T> plan(grid, box, box);
    const PlanTables<T> tables(plan);
    const Memory spectrum(plan.spectrum_bytes()), scratch(plan.gcv_bytes());
    const Memory h(plan.transfer_bytes(false)), r(plan.transfer_bytes(false)), wiener(plan.transfer_bytes(false));
    const DeviceValues<T> psf(8, 1), edge(3, 2), image(size_of(box), 3), out(size_of(box));
    plan.transfer(psf, {2, 2, 2}, {1, 1, 1}, false, spectrum, h, nullptr);
    plan.transfer(edge, {1, 1, 3}, {0, 0, 1}, false, spectrum, r, nullptr);
    plan.wiener_transfer(h, r, 0.1, wiener, nullptr);
    const double balances[] = {1e-3, 1e-2, 0.1, 1, 10};
    const DeviceValues<double> totals(10);
    plan.gcv(image, h, r, balances, 5, spectrum, scratch, totals, nullptr);
    Operands<T> operands;
    operands.out = out;
    plan.load(spectrum, image, false, {}, nullptr);
    plan.sweep(spectrum, {wiener, false}, false, Formula::copy, operands, false, nullptr);
    std::vector<double> all;
    totals.append_to(all), out.append_to(all);
    return all;
}

template <class T>
std::vector<double> line(int64_t taps, bool periodic, Formula formula, bool general) {
    const int64_t n = 3000, segment = overlap_segment<T>(taps);
    const Tables<T> tables(segment);
    const PowerOfTwo<T> axis{tables.axis.view(tables.memory)};
    const DeviceValues<T> weights(taps, 1), input(n, 2), image(n, 3), kept(n), out(n);
    const Memory otf(size_t(segment) * sizeof(Pair<T>));
    auto* const transfer = static_cast<Pair<T>*>(static_cast<void*>(otf));
    overlap_transfer(axis, static_cast<const T*>(weights), taps, transfer, nullptr);
    const DeviceValues<double> sums(sums_size(overlap_blocks<T>(segment, taps, n)));
    Operands<T> operands;
    operands.image = image, operands.estimate = image, operands.out = out, operands.eps = T(1e-3);
    if (general) operands.sums = sums, operands.partial = image;
    overlap<T>({axis, {n, n, -taps / 2, taps}, periodic, transfer, input, kept, formula, operands}, nullptr);
    std::vector<double> all;
    kept.append_to(all), out.append_to(all);
    if (general) sums.append_to(all, sums_of_a_sweep);
    return all;
}

template <class T>
void add_cases(std::vector<Case>& cases, const std::string& type) {
    auto grid_case = [&](Shape grid, int64_t margin, Reach reach, Formula formula, bool symmetric) {
        Box whole, inner;
        for (size_t a = 0; a < 3; ++a) {
            const int64_t n = grid[a] - reach[a].low - reach[a].high;
            whole[a] = {0, n}, inner[a] = {n > 2 * margin ? margin : 0, n > 2 * margin ? n - margin : n};
        }
        const std::string name = "spectral " + std::to_string(grid[0]) + " " + std::to_string(grid[1]) + " " + std::to_string(grid[2]) + type;
        cases.push_back({name, [=] { return iteration<T>(grid, whole, inner, reach, formula, symmetric); }});
    };
    grid_case({1, 1, 1}, 0, {}, Formula::copy, false);
    grid_case({1, 1, 560}, 1, {}, Formula::ratio, false);
    grid_case({1, 96, 35}, 2, {}, Formula::multiply, true);
    grid_case({1, 70, 64}, 2, {}, Formula::residual, false);
    grid_case({1, 60, 90}, 2, {}, Formula::multiply, false);    // radices above 8, first and last
    grid_case({54, 4, 100}, 2, {}, Formula::ratio, false);
    grid_case({1, 6, 256}, 2, {}, Formula::ratio, false);       // lengths that kernels are compiled for
    grid_case({256, 2, 6}, 1, {}, Formula::multiply, true);
    grid_case({1, 9, 125}, 0, {Continuation{}, {}, {2, 3}}, Formula::add, false);
    grid_case({20, 16, 18}, 0, {Continuation{1, 0}, {0, 2}, {2, 1}}, Formula::ratio, false);
    grid_case({21, 16, 40}, 3, {}, Formula::multiply, false);
    grid_case({22, 13, 17}, 1, {}, Formula::ratio, false);
    cases.push_back({"wiener and cross-validation" + type, [] { return filters<T>(); }});
    for (int f = 0; f < 5; ++f)
        for (const bool general : {false, true})
            cases.push_back({"line" + type, [=] { return line<T>(f == 1 ? 300 : 40, f % 2 == 0, Formula(f), general); }});
}

}  // namespace

void add_spectral_cases(std::vector<Case>& cases) {
    add_cases<float>(cases, " float32");
    add_cases<double>(cases, " float64");
}
