// Network convolution for Python.
#include "bindings.hpp"
#include "conv_plan.hpp"

namespace medeconv::cuda {
namespace {

int64_t volume(const std::array<int64_t, 3>& v) { return v[0] * v[1] * v[2]; }

// How a pass is cut into blocks, for notes and tests.
template <class T>
py::dict cut_of(const ConvPass<T>& p) {
    py::dict cut;
    cut["kernel"] = p.points ? "points" : p.toeplitz ? "rows" : "table";
    cut["tile"] = py::make_tuple(p.axis[1].block, p.axis[2].block);
    cut["taps"] = py::make_tuple(p.axis[1].taps_at_once, p.axis[2].taps_at_once);
    cut["merged"] = py::make_tuple(p.axis[0].merged, p.axis[1].merged, p.axis[2].merged);
    cut["rows"] = p.rows, cut["segment"] = p.segment, cut["sources_at_once"] = p.sources_at_once;
    cut["threads"] = py::make_tuple(p.threads, p.teams, p.splits);
    cut["parts"] = p.parts, cut["shared_bytes"] = p.shared_bytes, cut["blocks"] = p.blocks();
    return cut;
}
template <class T>
py::dict cut_of(const ConvWeightPass<T>& p) {
    py::dict cut;
    cut["kernel"] = "weight";
    cut["tile"] = py::make_tuple(p.axis[1].block, p.axis[2].block);
    cut["own"] = py::make_tuple(p.own_destinations, p.own_sources, p.own_taps);
    cut["owners"] = py::make_tuple(p.destination_threads, p.source_threads, p.z_taps, p.y_taps, p.x_chunks);
    cut["of"] = py::make_tuple(p.destination_blocks(), p.source_blocks(), p.z_blocks(), p.y_blocks(), p.x_blocks());
    cut["splits"] = p.splits, cut["threads"] = p.threads, cut["parts"] = p.parts;
    cut["shared_bytes"] = p.shared_bytes, cut["blocks"] = p.blocks();
    return cut;
}

template <class T>
void bind(py::module_& m, const std::string& suffix) {
    using Plan = ConvPlan<T>;
    auto input_size = [](const Plan& p) { return p.shape.batch * p.shape.sources * volume(p.shape.input); };
    auto output_size = [](const Plan& p) { return p.shape.batch * p.shape.destinations * volume(p.output); };
    auto weight_size = [](const Plan& p) { return p.shape.destinations * (p.shape.sources / p.shape.groups) * volume(p.shape.kernel); };
    auto memory = [](py::handle workspace, int64_t bytes) {
        return bytes > 0 ? pointer_of<T>(workspace, bytes / int64_t(sizeof(T)), "workspace") : nullptr;
    };
    py::class_<Plan>(m, ("ConvPlan" + suffix).c_str())
        .def(py::init([](const std::vector<int64_t>& input, const std::vector<int64_t>& weight, const std::vector<int64_t>& stride,
                         const std::vector<std::pair<int64_t, int64_t>>& padding, const std::vector<int64_t>& dilation, int64_t groups,
                         const std::string& padding_mode, bool exact) {
                 return std::make_unique<Plan>(conv_shape_of(input, weight, stride, padding, dilation, groups, padding_mode, exact));
             }),
             py::arg("input_shape"), py::arg("weight_shape"), py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"),
             py::arg("padding_mode"), py::arg("exact"))
        .def("forward",
             [=](const Plan& plan, const Place& place, py::handle x, py::handle w, py::handle bias, py::handle out, bool relu,
                 py::handle workspace) {
                 const T *from = pointer_of<T>(x, input_size(plan), "x"), *weight = pointer_of<T>(w, weight_size(plan), "w");
                 const T* b = optional_pointer<T>(bias, plan.shape.destinations, "bias");
                 T *to = pointer_of<T>(out, output_size(plan), "out"), *work = memory(workspace, plan.forward_bytes());
                 at(place, [&](Stream stream) { plan.forward(from, weight, b, to, relu, work, stream); });
             },
             py::arg("place"), py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("out"), py::arg("relu"), py::arg("workspace"))
        .def("input_grad",
             [=](const Plan& plan, const Place& place, py::handle grad, py::handle w, py::handle bias, py::handle out, bool relu,
                 py::handle workspace) {
                 const T *from = pointer_of<T>(grad, output_size(plan), "grad"), *weight = pointer_of<T>(w, weight_size(plan), "w");
                 const T* b = optional_pointer<T>(bias, plan.shape.sources, "bias");
                 T *to = pointer_of<T>(out, input_size(plan), "out"), *work = memory(workspace, plan.input_grad_bytes());
                 at(place, [&](Stream stream) { plan.input_grad(from, weight, b, to, relu, work, stream); });
             },
             py::arg("place"), py::arg("grad"), py::arg("w"), py::arg("bias"), py::arg("out"), py::arg("relu"), py::arg("workspace"))
        .def("weight_grad",
             [=](const Plan& plan, const Place& place, py::handle grad, py::handle x, py::handle out, py::handle workspace) {
                 const T *gradient = pointer_of<T>(grad, output_size(plan), "grad"), *from = pointer_of<T>(x, input_size(plan), "x");
                 T *to = pointer_of<T>(out, weight_size(plan), "out"), *work = memory(workspace, plan.weight_grad_bytes());
                 at(place, [&](Stream stream) { plan.weight_grad(gradient, from, to, work, stream); });
             },
             py::arg("place"), py::arg("grad"), py::arg("x"), py::arg("out"), py::arg("workspace"))
        .def_property_readonly("family", &Plan::family)
        .def_property_readonly("cuts", [](const Plan& plan) {
            return std::vector<py::dict>{cut_of(plan.forward_pass()), cut_of(plan.backward_pass()), cut_of(plan.weight_pass())};
        })
        .def_property_readonly("forward_bytes", &Plan::forward_bytes)
        .def_property_readonly("input_grad_bytes", &Plan::input_grad_bytes)
        .def_property_readonly("weight_grad_bytes", &Plan::weight_grad_bytes);
    m.def(("sum_channels_" + suffix).c_str(),
          [](const Place& place, py::handle x, int64_t batch, int64_t channels, int64_t size, py::handle out, py::handle workspace) {
              const T* from = pointer_of<T>(x, batch * channels * size, "x");
              T* to = pointer_of<T>(out, channels, "out");
              double* work = pointer_of<double>(workspace, sum_channels_bytes(batch, channels, size) / int64_t(sizeof(double)), "workspace");
              at(place, [&](Stream stream) { sum_channels(from, batch, channels, size, to, work, stream); });
          },
          py::arg("place"), py::arg("x"), py::arg("batch"), py::arg("channels"), py::arg("size"), py::arg("out"), py::arg("workspace"));
}

}  // namespace

void bind_conv(py::module_& m) {
    bind<float>(m, "F32");
    bind<double>(m, "F64");
    m.def("sum_channels_bytes", &sum_channels_bytes, py::arg("batch"), py::arg("channels"), py::arg("size"));
}

}  // namespace medeconv::cuda
