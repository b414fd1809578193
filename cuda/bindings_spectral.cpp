// The spectral engine, of grids and of lines, for Python.
#include <pybind11/numpy.h>

#include "bindings.hpp"
#include "overlap.hpp"
#include "spectral.hpp"

namespace medeconv::cuda {
namespace {

using Bounds = std::vector<std::pair<int64_t, int64_t>>;

// Memory whose values the binding does not look at.
void* memory_of(py::handle array, size_t bytes, const char* name) {
    const size_t given = py::cast<size_t>(array.attr("nbytes"));
    if (given < bytes) throw py::value_error(std::string(name) + ": got " + std::to_string(given) + " bytes, expected " + std::to_string(bytes));
    return reinterpret_cast<void*>(py::cast<uintptr_t>(array.attr("pointer")));
}
Box box3(const Bounds& bounds) {
    Box box{Range{0, 1}, Range{0, 1}, Range{0, 1}};
    for (size_t i = 0; i < bounds.size(); ++i) box[3 - bounds.size() + i] = {bounds[i].first, bounds[i].second};
    return box;
}
int64_t voxels(const Box& b) { return (b[0].stop - b[0].start) * (b[1].stop - b[1].start) * (b[2].stop - b[2].start); }

template <class T>
SpectralPlan<T> plan_of(const std::vector<int64_t>& grid, const Bounds& estimate, const Bounds& image, const Bounds& reach) {
    if (grid.size() != estimate.size() || grid.size() != image.size())
        throw py::value_error("grid, estimate_box and image_box must have the same number of axes");
    const Shape shape = shape3(grid);
    const Box boxes[2] = {box3(estimate), box3(image)};
    for (size_t a = 0; a < 3; ++a)
        for (const Box& b : boxes)
            if (b[a].start < 0 || b[a].stop <= b[a].start || b[a].stop > shape[a])
                throw py::value_error("box: must be non-empty and inside the grid");
    if (!reach.empty() && reach.size() != grid.size()) throw py::value_error("reach: must be empty or have as many axes as grid");
    Reach continued;
    for (size_t i = 0, a = 3 - reach.size(); i < reach.size(); ++i, ++a) {
        const auto [low, high] = reach[i];
        const int64_t length = boxes[0][a].stop;
        if (low < 0 || high < 0 || low > length || high > length || (low + high > 0 && length + low + high > shape[a]))
            throw py::value_error("reach: must fit into the box, and with it into the grid");
        continued[a] = {low, high};
    }
    return SpectralPlan<T>(shape, boxes[0], boxes[1], continued);
}

template <class T>
Box box_of(const SpectralPlan<T>& plan, bool image) {
    return image ? plan.image_box : plan.estimate_box;
}

template <class T>
py::array_t<uint8_t> axis_tables(int64_t length) {
    const Axis<T> axis(length);
    py::array_t<uint8_t> tables{py::ssize_t(axis.table_bytes())};
    axis.write_tables(tables.mutable_data());
    return tables;
}

template <class T>
void bind_plan(py::module_& m, const std::string& suffix) {
    using Plan = SpectralPlan<T>;
    py::class_<Plan>(m, ("SpectralPlan" + suffix).c_str())
        .def(py::init(&plan_of<T>), py::arg("grid"), py::arg("estimate_box"), py::arg("image_box"), py::arg("reach"))
        .def_property_readonly("lengths", &Plan::lengths)
        .def("use_tables",
             [](Plan& plan, const std::array<py::object, 3>& tables) {
                 std::array<const void*, 3> on_device;
                 for (size_t a = 0; a < 3; ++a) on_device[a] = memory_of(tables[a], Axis<T>(plan.lengths()[a]).table_bytes(), "tables");
                 plan.use_tables(on_device);
             },
             py::arg("tables"))
        .def_property_readonly("spectrum_bytes", &Plan::spectrum_bytes)
        .def("transfer_bytes", &Plan::transfer_bytes, py::arg("symmetric"))
        .def_property_readonly("sums_size", [](const Plan& plan) { return sums_size(plan.sum_blocks()); })
        .def_property_readonly("gcv_bytes", &Plan::gcv_bytes)
        .def("transfer",
             [](const Plan& plan, const Place& place, py::handle psf, const std::vector<int64_t>& shape, const std::vector<int64_t>& centre,
                bool symmetric, py::handle spectrum, py::handle transfer) {
                 const Shape s = shape3(shape), c = zeros3(centre);
                 const T* from = pointer_of<T>(psf, size_of(s), "psf");
                 void* work = memory_of(spectrum, plan.spectrum_bytes(), "spectrum");
                 void* to = memory_of(transfer, plan.transfer_bytes(symmetric), "transfer");
                 at(place, [&](Stream stream) { plan.transfer(from, s, c, symmetric, work, to, stream); });
             },
             py::arg("place"), py::arg("psf"), py::arg("shape"), py::arg("centre"), py::arg("symmetric"), py::arg("spectrum"),
             py::arg("transfer"))
        .def("wiener_transfer",
             [](const Plan& plan, const Place& place, py::handle psf, py::handle regularizer, double balance, py::handle transfer) {
                 const size_t bytes = plan.transfer_bytes(false);
                 const void *h = memory_of(psf, bytes, "psf_transfer"), *r = memory_of(regularizer, bytes, "regularizer_transfer");
                 void* to = memory_of(transfer, bytes, "transfer");
                 at(place, [&](Stream stream) { plan.wiener_transfer(h, r, balance, to, stream); });
             },
             py::arg("place"), py::arg("psf_transfer"), py::arg("regularizer_transfer"), py::arg("balance"), py::arg("transfer"))
        .def("gcv",
             [](const Plan& plan, const Place& place, py::handle image, py::handle psf, py::handle regularizer,
                const std::vector<double>& balances, py::handle spectrum, py::handle scratch, py::handle totals) {
                 const T* y = pointer_of<T>(image, voxels(plan.image_box), "image");
                 const size_t bytes = plan.transfer_bytes(false);
                 const void *h = memory_of(psf, bytes, "psf_transfer"), *r = memory_of(regularizer, bytes, "regularizer_transfer");
                 void *work = memory_of(spectrum, plan.spectrum_bytes(), "spectrum"), *slots = memory_of(scratch, plan.gcv_bytes(), "scratch");
                 double* to = pointer_of<double>(totals, int64_t(2 * balances.size()), "totals");
                 at(place, [&](Stream stream) { plan.gcv(y, h, r, balances.data(), int(balances.size()), work, slots, to, stream); });
             },
             py::arg("place"), py::arg("image"), py::arg("psf_transfer"), py::arg("regularizer_transfer"), py::arg("balances"),
             py::arg("spectrum"), py::arg("scratch"), py::arg("totals"))
        .def("load",
             [](const Plan& plan, const Place& place, py::handle spectrum, py::handle x, bool adjoint, const py::dict& given) {
                 const int64_t size = voxels(box_of(plan, adjoint));
                 const T* from = pointer_of<T>(x, size, "x");
                 const Operands<T> operands = operands_of<T>(Formula::copy, size, plan.sum_blocks(), given);
                 void* work = memory_of(spectrum, plan.spectrum_bytes(), "spectrum");
                 at(place, [&](Stream stream) { plan.load(work, from, adjoint, operands, stream); });
             },
             py::arg("place"), py::arg("spectrum"), py::arg("x"), py::arg("adjoint"), py::arg("operands"))
        .def("sweep",
             [](const Plan& plan, const Place& place, py::handle spectrum, py::handle transfer, bool symmetric, bool adjoint,
                const std::string& formula_name, bool keep, const py::dict& given) {
                 const Formula formula = formula_of(formula_name);
                 const Operands<T> operands = operands_of<T>(formula, voxels(box_of(plan, !adjoint)), plan.sum_blocks(), given);
                 void* work = memory_of(spectrum, plan.spectrum_bytes(), "spectrum");
                 const Transfer<T> otf{memory_of(transfer, plan.transfer_bytes(symmetric), "transfer"), symmetric};
                 at(place, [&](Stream stream) { plan.sweep(work, otf, adjoint, formula, operands, keep, stream); });
             },
             py::arg("place"), py::arg("spectrum"), py::arg("transfer"), py::arg("symmetric"), py::arg("adjoint"), py::arg("formula"),
             py::arg("keep"), py::arg("operands"));
}

using Line = std::array<int64_t, 4>;  // AxisTaps

template <class T>
void bind_line(py::module_& m, const std::string& suffix) {
    // An axis whose tables are on the device.
    const auto view = [](int64_t segment, py::handle tables) {
        const Axis<T> axis(segment);
        return PowerOfTwo<T>{axis.view(memory_of(tables, axis.table_bytes(), "tables"))};
    };
    m.def(("overlap_taps_" + suffix).c_str(), &overlap_taps<T>);
    m.def(("overlap_segment_" + suffix).c_str(), &overlap_segment<T>, py::arg("taps"));
    m.def(("axis_tables_" + suffix).c_str(), &axis_tables<T>, py::arg("length"));
    m.def(("overlap_sums_size_" + suffix).c_str(),
          [](int64_t segment, const Line& line) { return sums_size(overlap_blocks<T>(segment, line[3], line[1])); }, py::arg("segment"),
          py::arg("line"));
    m.def(("overlap_transfer_" + suffix).c_str(),
          [view](const Place& place, int64_t segment, py::handle tables, py::handle weights, int64_t taps, py::handle transfer) {
              const PowerOfTwo<T> axis = view(segment, tables);
              const T* from = pointer_of<T>(weights, taps, "weights");
              if (taps > segment) throw py::value_error("weights: longer than a segment");
              auto* to = static_cast<Pair<T>*>(memory_of(transfer, size_t(segment) * sizeof(Pair<T>), "transfer"));
              at(place, [&](Stream stream) { overlap_transfer(axis, from, taps, to, stream); });
          },
          py::arg("place"), py::arg("segment"), py::arg("tables"), py::arg("weights"), py::arg("taps"), py::arg("transfer"));
    m.def(("overlap_" + suffix).c_str(),
          [view](const Place& place, int64_t segment, py::handle tables, const Line& line, bool periodic, py::handle transfer, py::handle input,
                 py::handle kept, const std::string& formula_name, const py::dict& given) {
              const Formula formula = formula_of(formula_name);
              if (line[3] > segment) throw py::value_error("line: more taps than a segment has values");
              const OverlapPass<T> pass{view(segment, tables), {line[0], line[1], line[2], line[3]}, periodic,
                                        static_cast<const Pair<T>*>(memory_of(transfer, size_t(segment) * sizeof(Pair<T>), "transfer")),
                                        pointer_of<T>(input, line[0], "input"), optional_pointer<T>(kept, line[1], "kept"), formula,
                                        operands_of<T>(formula, line[1], overlap_blocks<T>(segment, line[3], line[1]), given)};
              at(place, [&](Stream stream) { overlap(pass, stream); });
          },
          py::arg("place"), py::arg("segment"), py::arg("tables"), py::arg("line"), py::arg("periodic"), py::arg("transfer"), py::arg("input"),
          py::arg("kept"), py::arg("formula"), py::arg("operands"));
}

}  // namespace

void bind_spectral(py::module_& m) {
    bind_plan<float>(m, "F32");
    bind_plan<double>(m, "F64");
    bind_line<float>(m, "F32");
    bind_line<double>(m, "F64");
    m.def("good_size", &good_size, py::arg("n"), py::arg("even"), py::arg("last"));
}

}  // namespace medeconv::cuda
