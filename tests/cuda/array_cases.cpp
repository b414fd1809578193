// Kernels of whole arrays and of the engines without transforms.
#include "elementwise.hpp"
#include "launchers.hpp"
#include "denoise.hpp"
#include "penalty.hpp"
#include "separable.hpp"
#include "sums.hpp"

using namespace medeconv;
using namespace medeconv::cuda;

namespace {

int64_t size_of(const Shape& s) { return s[0] * s[1] * s[2]; }

// All that a formula may be given.
template <class T>
struct AllOperands {
    DeviceValues<T> image, weights, estimate, gain, factor, damping, partial, held_out, previous, change, out, extrapolated;
    DeviceValues<double> sums;
    AllOperands(int64_t n, int64_t blocks)
        : image(n, 1), weights(n, 2), estimate(n, 3), gain(n, 4), factor(n, 5), damping(n, 6), partial(n, 7), held_out(n, 8), previous(n, 9),
          change(n, 10), out(n), extrapolated(n), sums(sums_size(blocks)) {}
    Operands<T> operands() const {
        Operands<T> o;
        o.image = image, o.weights = weights, o.estimate = estimate, o.gain = gain, o.factor = factor, o.damping = damping;
        o.partial = partial, o.held_out = held_out, o.previous = previous, o.change = change, o.out = out, o.extrapolated = extrapolated;
        o.sums = sums, o.background = T(0.1), o.eps = T(1e-3), o.alpha = T(0.3), o.held_out_scale = T(0.2);
        return o;
    }
    std::vector<double> results() const {
        std::vector<double> all;
        out.append_to(all), extrapolated.append_to(all), change.append_to(all), sums.append_to(all, sums_of_a_sweep);
        return all;
    }
};

const char* const formulas[] = {"copy", "ratio", "multiply", "residual", "add"};

void add_sums_cases(std::vector<Case>& cases) {
    for (const int64_t count : {1, 700, 4096, 9000})
        cases.push_back({"sums of " + std::to_string(count) + " blocks", [=] {
            DeviceValues<double> sums(sums_size(count), 1);
            finish_sums(sums, count, nullptr);
            std::vector<double> all;
            sums.append_to(all, sums_of_a_sweep);
            return all;
        }});
}

template <class T>
void add_cases(std::vector<Case>& cases, const std::string& type) {
    const Shape shape{3, 5, 300}, low{2, 4, 7}, high{1, 6, 301};
    const Shape padded{shape[0] + 3, shape[1] + 10, shape[2] + 308};
    for (int b = 0; b < 4; ++b) {
        cases.push_back({"pad " + std::to_string(b) + type, [=] {
            DeviceValues<T> x(size_of(shape), 1), out(size_of(padded));
            pad<T>(x, shape, low, high, Boundary(b), out, nullptr);
            std::vector<double> all;
            out.append_to(all);
            return all;
        }});
        cases.push_back({"fold " + std::to_string(b) + type, [=] {
            DeviceValues<T> y(size_of(padded), 1), out(size_of(shape));
            fold<T>(y, shape, low, high, Boundary(b), out, nullptr);
            std::vector<double> all;
            out.append_to(all);
            return all;
        }});
    }
    const Shape longer{4, 7, 1100}, one{1, 2, 9}, more{2, 1, 12};
    const Shape longer_padded{longer[0] + 3, longer[1] + 3, longer[2] + 21};
    cases.push_back({"pad and fold, rows of pieces" + type, [=] {
        DeviceValues<T> x(size_of(longer), 1), wide(size_of(longer_padded)), out(size_of(longer));
        pad<T>(x, longer, one, more, Boundary::reflect, wide, nullptr);
        fold<T>(wide, longer, one, more, Boundary::mirror, out, nullptr);
        std::vector<double> all;
        out.append_to(all);
        return all;
    }});
    for (int op = 0; op < 12; ++op)
        cases.push_back({"pointwise " + std::to_string(op) + type, [=] {
            const int64_t n = 2500;
            DeviceValues<T> a(n, 1), b(n, 2), out(n);
            pointwise<T>(Pointwise(op), a, T(0), op % 2 ? static_cast<const T*>(b) : nullptr, T(1.1), out, n, nullptr);
            std::vector<double> all;
            out.append_to(all);
            return all;
        }});
    cases.push_back({"statistics" + type, [=] {
        const int64_t n = 9001;
        DeviceValues<T> a(n, 1), b(n + 1, 2);
        DeviceValues<double> results(sums_size(formula_blocks(n)));
        std::vector<double> all;
        for (const int64_t from : {0, 1})
            statistics<T>(a, b + from, n, results, nullptr), results.append_to(all, sums_of_a_sweep);
        return all;
    }});
    cases.push_back({"crop and convert" + type, [=] {
        const Shape start{1, 2, 5}, length{2, 3, 290};
        DeviceValues<T> x(size_of(shape), 1), part(size_of(length));
        DeviceValues<std::conditional_t<sizeof(T) == 4, double, float>> other(size_of(length));
        crop<T>(x, shape, start, length, part, nullptr);
        convert(static_cast<const T*>(part), static_cast<std::conditional_t<sizeof(T) == 4, double, float>*>(other), size_of(length), nullptr);
        std::vector<double> all;
        other.append_to(all);
        return all;
    }});
    for (int k = 0; k < 4; ++k)
        cases.push_back({"penalty " + std::to_string(k) + type, [=] {
            std::vector<double> all;
            for (const Shape& each : {shape, Shape{66, 9, 34}}) {   // the second: blocks on all sides of each other
                DeviceValues<T> x(size_of(each), 1), out(size_of(each));
                penalty<T>(Penalty(k), x, each, {2.0, 1.0, 1.5}, 0.01, 1.0, out, nullptr);
                out.append_to(all);
            }
            return all;
        }});
    cases.push_back({"denoise" + type, [=] {
        std::vector<double> all;
        for (const Shape& each : {shape, Shape{66, 9, 34}, Shape{1, 7, 300}}) {
            const int64_t n = size_of(each);
            DeviceValues<T> z(n, 1), ahead(3 * n, 2), dual(3 * n, 3), x(n);
            DenoisePass<T> pass{each[0], each[1], each[2], z, {}, {}, {T(0.3), T(0.2), T(0.5)}, {T(0.1), T(0.2), T(0.3)}, T(0.4), T(0)};
            for (int64_t a = 0; a < 3; ++a)
                if (each[size_t(a)] > 1) pass.ahead[a] = ahead + a * n, pass.dual[a] = dual + a * n;
            denoise_step<T>(pass, x, nullptr);
            denoised<T>(pass, x, nullptr);
            ahead.append_to(all), dual.append_to(all), x.append_to(all);
        }
        return all;
    }});
    for (int f = 0; f < 5; ++f) {
        const std::string name = std::string(" ") + formulas[f] + type;
        cases.push_back({"apply_formula" + name, [=] {
            const int64_t n = 2500;
            DeviceValues<T> blurred(n, 11);
            const AllOperands<T> given(n, formula_blocks(n));
            apply_formula<T>(Formula(f), blurred, given.operands(), n, nullptr);
            return given.results();
        }});
        // Taps beyond a chunk, tiles that are not full, zeros outside and the other end.
        for (const bool periodic : {false, true}) {
            const int64_t depth = 3, height = 37, width = 45, n = depth * height * width;
            const AxisTaps z{depth, depth, -1, 3}, y{height, height, -2, 5}, x{width, width, -9, 19};
            cases.push_back({"direct" + name, [=] {
                DeviceValues<T> weight(3 * 5 * 19, 12), input(n, 13), kept(n);
                const AllOperands<T> given(n, direct_blocks(z, y, x));
                direct<T>({z, y, x, periodic, weight, input, kept, Formula(f), given.operands()}, nullptr);
                std::vector<double> all = given.results();
                kept.append_to(all);
                return all;
            }});
            // Tiles that reach no border, and more taps of a column than a chunk; slices enough for blocks to make several. Large: of
            // two formulas only.
            const AxisTaps few_z{6, 5, -2, 4}, long_y{100, 97, -8, 17}, wide_x{140, 138, -3, 7};
            const AxisTaps deep_z{1030, 1031, -2, 4}, short_y{3, 3, -1, 2}, short_x{4, 5, -1, 3};
            for (const auto& [a, b, c] : {std::array{few_z, long_y, wide_x}, std::array{deep_z, short_y, short_x}}) {
                if (Formula(f) != Formula::ratio && Formula(f) != Formula::multiply) continue;
                cases.push_back({"direct tiles" + name, [=, a = a, b = b, c = c] {
                    const int64_t made = a.destination * b.destination * c.destination;
                    DeviceValues<T> weight(a.taps * b.taps * c.taps, 12), input(a.source * b.source * c.source, 13), kept(made);
                    const AllOperands<T> given(made, direct_blocks(a, b, c));
                    direct<T>({a, b, c, periodic, weight, input, kept, Formula(f), given.operands()}, nullptr);
                    std::vector<double> all = given.results();
                    kept.append_to(all);
                    return all;
                }});
            }
            // A line: more than a block, taps beyond a chunk.
            const AxisTaps one{1, 1, 0, 1}, line{1500, 1400, -9, 270};
            cases.push_back({"direct line" + name, [=] {
                DeviceValues<T> weight(line.taps, 12), input(line.source, 13), kept(line.destination);
                const AllOperands<T> given(line.destination, direct_blocks(one, one, line));
                direct<T>({one, one, line, periodic, weight, input, kept, Formula(f), given.operands()}, nullptr);
                std::vector<double> all = given.results();
                kept.append_to(all);
                return all;
            }});
            // Tiles with neighbours on both sides, rows that cross them, chunks of taps along y, columns in several steps.
            for (const int64_t long_z : {1, 6}) {
                const AxisTaps deep{30, 27, -2, long_z}, high{21, 19, -25, 51}, wide{301, 290, -3, 16}, flat{1, 1, 0, 1};
                const AxisTaps& outer = long_z > 1 ? deep : flat;
                cases.push_back({"separable tiles" + name, [=] {
                    const int64_t sources = outer.source * high.source * wide.source;
                    const int64_t results = outer.destination * high.destination * wide.destination;
                    DeviceValues<T> weight_z(outer.taps, 14), weight_y(high.taps, 15), weight_x(wide.taps, 16);
                    DeviceValues<T> input(sources, 17), kept(results);
                    DeviceValues<T> workspace(separable_workspace(outer, high, wide));
                    const AllOperands<T> given(results, separable_blocks(outer, high, wide));
                    separable<T>({outer, high, wide, periodic, weight_z, weight_y, weight_x, input, kept, Formula(f), given.operands()},
                                 workspace, nullptr);
                    std::vector<double> all = given.results();
                    kept.append_to(all);
                    return all;
                }});
            }
            for (const int64_t long_z : {1, 11}) {
                const AxisTaps deep{depth, depth, -(long_z / 2), long_z}, wide{width, width, -35, periodic ? 45 : 70};
                cases.push_back({"separable" + name, [=] {
                    DeviceValues<T> weight_z(deep.taps, 14), weight_y(y.taps, 15), weight_x(wide.taps, 16), input(n, 17), kept(n);
                    DeviceValues<T> workspace(separable_workspace(deep, y, wide));
                    const AllOperands<T> given(n, separable_blocks(deep, y, wide));
                    separable<T>({deep, y, wide, periodic, weight_z, weight_y, weight_x, input, kept, Formula(f), given.operands()}, workspace,
                                 nullptr);
                    std::vector<double> all = given.results();
                    kept.append_to(all);
                    return all;
                }});
            }
        }
    }
}

}  // namespace

void add_array_cases(std::vector<Case>& cases) {
    add_cases<float>(cases, " float32");
    add_cases<double>(cases, " float64");
    add_sums_cases(cases);
}
