// Devices, memory, copies, streams and graphs for Python.
#include <pybind11/numpy.h>

#include "bindings.hpp"

namespace medeconv::cuda {
namespace {

using Host = py::array;

void* host_pointer(const Host& array, bool written) {
    if (!(array.flags() & py::array::c_style)) throw py::value_error("array: expected a C-contiguous NumPy array");
    if (written && !array.writeable()) throw py::value_error("array: it is read-only");
    return const_cast<void*>(array.data());
}

// Device memory, given back in the order of the place's work; lasting: once all streams' work is done.
class Buffer {
public:
    Buffer(std::shared_ptr<Place> place, size_t bytes, bool lasting) : place_(std::move(place)), lasting_(lasting) {
        at(*place_, [&](Stream stream) { memory_ = lasting_ ? allocate_lasting(bytes) : allocate(bytes, stream); });
    }
    ~Buffer() {
        try {
            at(*place_, [&](Stream stream) { lasting_ ? release_lasting(memory_) : release(memory_, stream); });
        } catch (const Failure&) {
            // A forked child, or a process at its end, has no device to give it back to.
        }
    }
    Buffer(const Buffer&) = delete;
    uintptr_t pointer() const { return reinterpret_cast<uintptr_t>(memory_); }

private:
    std::shared_ptr<Place> place_;
    bool lasting_;
    void* memory_ = nullptr;
};

// Page-locked host memory.
py::array_t<uint8_t> pinned(size_t bytes) {
    void* memory = allocate_pinned(bytes);
    return py::array_t<uint8_t>({py::ssize_t(bytes)}, static_cast<uint8_t*>(memory), py::capsule(memory, release_pinned));
}

}  // namespace

Place::Place(int device, std::optional<uintptr_t> stream) : device(device), stream(nullptr), own_(!stream) {
    const OnDevice on(device);
    this->stream = stream ? reinterpret_cast<Stream>(*stream) : new_stream();
}
Place::~Place() {
    if (own_) delete_stream(stream);
}

Formula formula_of(const std::string& name) {
#define MEDECONV_NAME(F) \
    if (name == #F) return Formula::F;
    MEDECONV_EACH_FORMULA(MEDECONV_NAME)
#undef MEDECONV_NAME
    throw py::value_error("formula: got '" + name + "', expected copy, ratio, multiply, residual or add");
}
Shape shape3(const std::vector<int64_t>& lengths) {
    if (lengths.empty() || lengths.size() > 3) throw py::value_error("expected 1 to 3 axes, got " + std::to_string(lengths.size()));
    Shape shape{1, 1, 1};
    for (size_t i = 0; i < lengths.size(); ++i) shape[3 - lengths.size() + i] = lengths[i];
    return shape;
}
Shape zeros3(const std::vector<int64_t>& offsets) {
    Shape shape = shape3(offsets);
    for (size_t i = 0; i < 3 - offsets.size(); ++i) shape[i] = 0;
    return shape;
}
int64_t size_of(const Shape& shape) { return shape[0] * shape[1] * shape[2]; }

void bind_runtime(py::module_& m) {
    py::register_exception_translator([](std::exception_ptr raised) {
        try {
            if (raised) std::rethrow_exception(raised);
        } catch (const OutOfMemory& error) {
            PyErr_SetString(PyExc_MemoryError, error.what());
        } catch (const Failure& error) {
            PyErr_SetString(PyExc_RuntimeError, error.what());
        }
    });
    py::class_<Place, std::shared_ptr<Place>>(m, "Place")
        .def(py::init<int, std::optional<uintptr_t>>(), py::arg("device"), py::arg("stream") = std::nullopt)
        .def_readonly("device", &Place::device)
        .def_property_readonly("stream", [](const Place& p) { return reinterpret_cast<uintptr_t>(p.stream); })
        .def("synchronize", [](const Place& p) { at(p, [](Stream s) { synchronize(s); }); })
        .def("wait_for", [](const Place& p, uintptr_t stream) {
            at(p, [&](Stream s) { wait_for(s, reinterpret_cast<Stream>(stream)); });
        }, py::arg("stream"))
        .def("precede", [](const Place& p, uintptr_t stream) {
            at(p, [&](Stream s) { wait_for(reinterpret_cast<Stream>(stream), s); });
        }, py::arg("stream"))
        .def_property_readonly("capturing", [](const Place& p) {
            const OnDevice on(p.device);
            return capturing(p.stream);
        })
        .def("upload", [](const Place& p, uintptr_t to, const Host& from) {
            void* host = host_pointer(from, false);
            const size_t bytes = size_t(from.nbytes());
            at(p, [&](Stream s) { copy_to_device(reinterpret_cast<void*>(to), host, bytes, s); });
        }, py::arg("to"), py::arg("array"))
        // The array is valid after synchronize.
        .def("download", [](const Place& p, const Host& to, uintptr_t from) {
            void* host = host_pointer(to, true);
            const size_t bytes = size_t(to.nbytes());
            at(p, [&](Stream s) { copy_to_host(host, reinterpret_cast<void*>(from), bytes, s); });
        }, py::arg("array"), py::arg("source"))
        .def("copy", [](const Place& p, uintptr_t to, uintptr_t from, size_t bytes) {
            at(p, [&](Stream s) { copy_on_device(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes, s); });
        }, py::arg("to"), py::arg("source"), py::arg("bytes"))
        .def("zero", [](const Place& p, uintptr_t to, size_t bytes) {
            at(p, [&](Stream s) { set_zero(reinterpret_cast<void*>(to), bytes, s); });
        }, py::arg("to"), py::arg("bytes"));
    py::class_<Buffer>(m, "Buffer")
        .def(py::init<std::shared_ptr<Place>, size_t, bool>(), py::arg("place"), py::arg("bytes"), py::arg("lasting") = false)
        .def_property_readonly("pointer", &Buffer::pointer);
    py::class_<Graph>(m, "Graph")
        .def(py::init([](const Place& p) {
                 const OnDevice on(p.device);
                 return std::make_unique<Graph>(p.stream);
             }),
             py::arg("place"), py::keep_alive<1, 2>())
        .def("finish", &Graph::finish)
        .def("run", [](const Graph& graph, const Place& p) { at(p, [&](Stream s) { graph.run(s); }); }, py::arg("place"));
    m.def("devices", [] {
        const Devices found = devices();
        py::dict made;
        made["count"] = found.count, made["driver"] = found.driver, made["runtime"] = found.runtime, made["error"] = found.error;
        return made;
    });
    m.def("describe_device", &describe_device, py::arg("device"));
    m.def("device_of", [](uintptr_t memory) { return device_of(reinterpret_cast<const void*>(memory)); }, py::arg("memory"));
    m.def("memory", [](int device) {
        const OnDevice on(device);
        size_t free = 0, total = 0;
        free_memory(free, total);
        return py::make_tuple(free, total);
    }, py::arg("device"));
    m.def("keep_freed_memory", &keep_freed_memory, py::arg("device"));
    m.def("kept_memory", &kept_memory, py::arg("device"));
    m.def("release_kept_memory", &release_kept_memory, py::arg("device"));
    m.def("pinned", &pinned, py::arg("bytes"));
}

}  // namespace medeconv::cuda
