// The kernels of whole arrays and of the engines without transforms, for Python.
#include <algorithm>
#include <iterator>

#include "bindings.hpp"
#include "denoise.hpp"
#include "elementwise.hpp"
#include "penalty.hpp"
#include "separable.hpp"

namespace medeconv::cuda {
namespace {

Boundary boundary_of(const std::string& name) {
    const char* const names[] = {"reflect", "nearest", "mirror", "wrap"};
    const auto found = std::find(std::begin(names), std::end(names), name);
    if (found == std::end(names)) throw py::value_error("boundary: got '" + name + "', expected reflect, nearest, mirror or wrap");
    return Boundary(found - std::begin(names));
}

// (source, destination, base, taps) of z, y and x; see AxisTaps.
using Axes = std::array<std::array<int64_t, 4>, 3>;
AxisTaps axis_of(const Axes& axes, size_t a) { return {axes[a][0], axes[a][1], axes[a][2], axes[a][3]}; }

// z and the components of ahead and dual, which follow each other along the first axis: one for each axis of z longer than 1.
template <class T>
DenoisePass<T> denoise_pass(py::handle z, const std::vector<int64_t>& shape, py::handle ahead, const std::vector<double>& weight,
                            double lowest) {
    const Shape s = shape3(shape);
    if (weight.size() != shape.size()) throw py::value_error("weight: expected one value per axis");
    DenoisePass<T> pass{s[0], s[1], s[2], pointer_of<T>(z, size_of(s), "z"), {}, {}, {}, {}, T(0), T(lowest)};
    int64_t axes = 0;
    for (size_t a = 0; a < 3; ++a) axes += s[a] > 1;
    T* const components = axes ? pointer_of<T>(ahead, axes * size_of(s), "ahead") : nullptr;
    int64_t place = 0;
    for (size_t a = 0; a < 3; ++a)
        if (s[a] > 1) {
            pass.weight[a] = T(weight[a + shape.size() - 3]);
            pass.ahead[a] = components + place++ * size_of(s);
        }
    return pass;
}

template <class T>
void bind(py::module_& m, const std::string& suffix) {
    m.def(("pad_" + suffix).c_str(),
          [](const Place& place, py::handle x, const std::vector<int64_t>& shape, const std::vector<int64_t>& low,
             const std::vector<int64_t>& high, const std::string& boundary, py::handle out) {
              const Shape s = shape3(shape), l = zeros3(low), h = zeros3(high);
              const int64_t padded = (s[0] + l[0] + h[0]) * (s[1] + l[1] + h[1]) * (s[2] + l[2] + h[2]);
              const T* from = pointer_of<T>(x, size_of(s), "x");
              T* to = pointer_of<T>(out, padded, "out");
              const Boundary b = boundary_of(boundary);
              at(place, [&](Stream stream) { pad(from, s, l, h, b, to, stream); });
          },
          py::arg("place"), py::arg("x"), py::arg("shape"), py::arg("low"), py::arg("high"), py::arg("boundary"), py::arg("out"));
    m.def(("fold_" + suffix).c_str(),
          [](const Place& place, py::handle y, const std::vector<int64_t>& shape, const std::vector<int64_t>& low,
             const std::vector<int64_t>& high, const std::string& boundary, py::handle out) {
              const Shape s = shape3(shape), l = zeros3(low), h = zeros3(high);
              const int64_t padded = (s[0] + l[0] + h[0]) * (s[1] + l[1] + h[1]) * (s[2] + l[2] + h[2]);
              const T* from = pointer_of<T>(y, padded, "y");
              T* to = pointer_of<T>(out, size_of(s), "out");
              const Boundary b = boundary_of(boundary);
              at(place, [&](Stream stream) { fold(from, s, l, h, b, to, stream); });
          },
          py::arg("place"), py::arg("y"), py::arg("shape"), py::arg("low"), py::arg("high"), py::arg("boundary"), py::arg("out"));
    m.def(("apply_formula_" + suffix).c_str(),
          [](const Place& place, const std::string& formula_name, py::handle c, const py::dict& operands) {
              const Formula formula = formula_of(formula_name);
              const int64_t n = py::cast<int64_t>(c.attr("size"));
              const T* from = pointer_of<T>(c, n, "c");
              const Operands<T> o = operands_of<T>(formula, n, formula_blocks(n), operands);
              at(place, [&](Stream stream) { apply_formula(formula, from, o, n, stream); });
          },
          py::arg("place"), py::arg("formula"), py::arg("c"), py::arg("operands"));
    m.def(("penalty_" + suffix).c_str(),
          [](const Place& place, const std::string& name, py::handle x, const std::vector<int64_t>& shape, py::handle out,
             const std::vector<double>& spacing, double weight, double level) {
              const char* const names[] = {"tv", "tikhonov", "good-roughness", "entropy"};
              const auto found = std::find(std::begin(names), std::end(names), name);
              if (found == std::end(names)) throw py::value_error("kind: got '" + name + "', expected tv, tikhonov, good-roughness or entropy");
              const Shape s = shape3(shape);
              if (spacing.size() != shape.size()) throw py::value_error("spacing: expected one value per axis");
              std::array<double, 3> sizes{1, 1, 1};
              for (size_t i = 0; i < spacing.size(); ++i) sizes[3 - spacing.size() + i] = spacing[i];
              const T* from = pointer_of<T>(x, size_of(s), "x");
              T* to = pointer_of<T>(out, size_of(s), "out");
              if (from == to) throw py::value_error("out: must be another array than x");
              at(place, [&](Stream stream) { penalty(Penalty(found - std::begin(names)), from, s, sizes, weight, level, to, stream); });
          },
          py::arg("place"), py::arg("kind"), py::arg("x"), py::arg("shape"), py::arg("out"), py::arg("spacing"), py::arg("weight"),
          py::arg("level"));
    m.def(("denoised_" + suffix).c_str(),
          [](const Place& place, py::handle z, const std::vector<int64_t>& shape, py::handle dual, py::handle out,
             const std::vector<double>& weight, double lowest) {
              const DenoisePass<T> pass = denoise_pass<T>(z, shape, dual, weight, lowest);
              T* to = pointer_of<T>(out, size_of(shape3(shape)), "out");
              if (to == pass.z) throw py::value_error("out: must be another array than z");
              at(place, [&](Stream stream) { denoised(pass, to, stream); });
          },
          py::arg("place"), py::arg("z"), py::arg("shape"), py::arg("dual"), py::arg("out"), py::arg("weight"), py::arg("lowest"));
    m.def(("denoise_step_" + suffix).c_str(),
          [](const Place& place, py::handle z, const std::vector<int64_t>& shape, py::handle ahead, py::handle dual, py::handle room,
             const std::vector<double>& weight, const std::vector<double>& step, double momentum, double lowest) {
              DenoisePass<T> pass = denoise_pass<T>(z, shape, ahead, weight, lowest);
              if (step.size() != weight.size()) throw py::value_error("step: expected one value per axis");
              int64_t axes = 0;
              for (size_t a = 0; a < 3; ++a) axes += pass.ahead[a] != nullptr;
              const int64_t n = size_of(shape3(shape));
              T* const before = axes ? pointer_of<T>(dual, axes * n, "dual") : nullptr;
              for (size_t a = 0, number = 0; a < 3; ++a)
                  if (pass.ahead[a]) {
                      pass.dual[a] = before + int64_t(number++) * n;
                      pass.step[a] = T(step[a + step.size() - 3]);
                  }
              pass.momentum = T(momentum);
              T* const x = pointer_of<T>(room, n, "room");
              at(place, [&](Stream stream) { denoise_step(pass, x, stream); });
          },
          py::arg("place"), py::arg("z"), py::arg("shape"), py::arg("ahead"), py::arg("dual"), py::arg("room"), py::arg("weight"),
          py::arg("step"), py::arg("momentum"), py::arg("lowest"));
    m.def(("direct_" + suffix).c_str(),
          [](const Place& place, const Axes& axes, bool periodic, py::handle weight, py::handle input, py::handle kept,
             const std::string& formula_name, const py::dict& operands) {
              const AxisTaps z = axis_of(axes, 0), y = axis_of(axes, 1), x = axis_of(axes, 2);
              const int64_t size = z.destination * y.destination * x.destination;
              const int64_t blocks = direct_blocks(z, y, x);
              const Formula formula = formula_of(formula_name);
              const DirectPass<T> pass{z, y, x, periodic, pointer_of<T>(weight, z.taps * y.taps * x.taps, "weight"),
                                       pointer_of<T>(input, z.source * y.source * x.source, "input"), optional_pointer<T>(kept, size, "kept"),
                                       formula, operands_of<T>(formula, size, blocks, operands)};
              at(place, [&](Stream stream) { direct(pass, stream); });
          },
          py::arg("place"), py::arg("axes"), py::arg("periodic"), py::arg("weight"), py::arg("input"), py::arg("kept"), py::arg("formula"),
          py::arg("operands"));
    m.def(("separable_" + suffix).c_str(),
          [](const Place& place, const Axes& axes, bool periodic, const std::array<py::object, 3>& weights, py::handle input, py::handle kept,
             py::handle workspace, const std::string& formula_name, const py::dict& operands) {
              const AxisTaps z = axis_of(axes, 0), y = axis_of(axes, 1), x = axis_of(axes, 2);
              const int64_t size = z.destination * y.destination * x.destination, wanted = separable_workspace(z, y, x);
              const Formula formula = formula_of(formula_name);
              const SeparablePass<T> pass{z, y, x, periodic, pointer_of<T>(weights[0], z.taps, "weights[0]"),
                                          pointer_of<T>(weights[1], y.taps, "weights[1]"), pointer_of<T>(weights[2], x.taps, "weights[2]"),
                                          pointer_of<T>(input, z.source * y.source * x.source, "input"), optional_pointer<T>(kept, size, "kept"),
                                          formula, operands_of<T>(formula, size, separable_blocks(z, y, x), operands)};
              T* work = wanted ? pointer_of<T>(workspace, wanted, "workspace") : nullptr;
              at(place, [&](Stream stream) { separable(pass, work, stream); });
          },
          py::arg("place"), py::arg("axes"), py::arg("periodic"), py::arg("weights"), py::arg("input"), py::arg("kept"), py::arg("workspace"),
          py::arg("formula"), py::arg("operands"));
    m.def(("pointwise_" + suffix).c_str(),
          [](const Place& place, const std::string& name, py::handle a, py::handle b, py::handle out) {
              const char* const names[] = {"add", "subtract", "multiply", "divide", "maximum", "minimum", "less", "less_equal", "greater",
                                           "greater_equal", "sqrt", "copy"};
              const auto found = std::find(std::begin(names), std::end(names), name);
              if (found == std::end(names)) throw py::value_error("op: got '" + name + "'");
              const int64_t n = py::cast<int64_t>(out.attr("size"));
              auto operand = [n](py::handle value) {  // an array or a number
                  const bool array = py::hasattr(value, "pointer");
                  return std::pair<const T*, T>(array ? pointer_of<T>(value, n, "operand") : nullptr, array ? T(0) : T(py::cast<double>(value)));
              };
              const auto x = operand(a), y = operand(b);
              T* to = pointer_of<T>(out, n, "out");
              at(place, [&](Stream stream) { pointwise(Pointwise(found - std::begin(names)), x.first, x.second, y.first, y.second, to, n, stream); });
          },
          py::arg("place"), py::arg("op"), py::arg("a"), py::arg("b"), py::arg("out"));
    m.def(("statistics_" + suffix).c_str(),
          [](const Place& place, py::handle a, py::handle b, py::handle results) {
              const int64_t n = py::cast<int64_t>(a.attr("size"));
              const T *x = pointer_of<T>(a, n, "a"), *y = optional_pointer<T>(b, n, "b");
              double* to = pointer_of<double>(results, sums_size(formula_blocks(n)), "results");
              at(place, [&](Stream stream) { statistics(x, y, n, to, stream); });
          },
          py::arg("place"), py::arg("a"), py::arg("b"), py::arg("results"));
    m.def(("crop_" + suffix).c_str(),
          [](const Place& place, py::handle x, const std::vector<int64_t>& shape, const std::vector<int64_t>& start,
             const std::vector<int64_t>& length, py::handle out) {
              const Shape s = shape3(shape), first = zeros3(start), n = shape3(length);
              for (size_t i = 0; i < 3; ++i)
                  if (first[i] < 0 || first[i] + n[i] > s[i]) throw py::value_error("start: the part must lie in the array");
              const T* from = pointer_of<T>(x, size_of(s), "x");
              T* to = pointer_of<T>(out, size_of(n), "out");
              at(place, [&](Stream stream) { crop(from, s, first, n, to, stream); });
          },
          py::arg("place"), py::arg("x"), py::arg("shape"), py::arg("start"), py::arg("length"), py::arg("out"));
    using Other = std::conditional_t<std::is_same_v<T, float>, double, float>;
    m.def(("convert_" + suffix).c_str(),
          [](const Place& place, py::handle x, py::handle out) {
              const int64_t n = py::cast<int64_t>(x.attr("size"));
              const Other* from = pointer_of<Other>(x, n, "x");
              T* to = pointer_of<T>(out, n, "out");
              at(place, [&](Stream stream) { convert(from, to, n, stream); });
          },
          py::arg("place"), py::arg("x"), py::arg("out"));
}

}  // namespace

void bind_arrays(py::module_& m) {
    bind<float>(m, "F32");
    bind<double>(m, "F64");
    m.def("smallest_divisor", [](double scale, bool single) {
        return single ? scalar::smallest_divisor<float>(scale) : scalar::smallest_divisor<double>(scale);
    }, py::arg("scale"), py::arg("single"));
    // Doubles that the sums of a call take.
    m.def("formula_sums_size", [](int64_t n) { return sums_size(formula_blocks(n)); }, py::arg("n"));
    m.def("direct_sums_size", [](const Axes& axes) {
        return sums_size(direct_blocks(axis_of(axes, 0), axis_of(axes, 1), axis_of(axes, 2)));
    }, py::arg("axes"));
    m.def("separable_sums_size", [](const Axes& axes) {
        return sums_size(separable_blocks(axis_of(axes, 0), axis_of(axes, 1), axis_of(axes, 2)));
    }, py::arg("axes"));
    m.def("separable_workspace", [](const Axes& axes) {
        return separable_workspace(axis_of(axes, 0), axis_of(axes, 1), axis_of(axes, 2));
    }, py::arg("axes"));
}

}  // namespace medeconv::cuda
