// What the bindings of all stems share. Device arrays come as Python objects with the attributes pointer, size and itemsize
// (medeconv_fast._device); whoever made them has checked layout and kind.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "direct.hpp"
#include "runtime.hpp"
#include "sums.hpp"

namespace medeconv::cuda {

namespace py = pybind11;

// A device and the stream that its work goes to.
class Place {
public:
    Place(int device, std::optional<uintptr_t> stream);  // without a stream: its own
    ~Place();
    Place(const Place&) = delete;
    int device;
    Stream stream;

private:
    bool own_;
};

// Runs `call(stream)` on the place's device, without the GIL.
template <class F>
void at(const Place& place, F call) {
    const py::gil_scoped_release release;
    const OnDevice on(place.device);
    call(place.stream);
}

// The attribute of a device array; `interned`, so that its name is not made for every array of every call.
template <class T>
T attribute(py::handle array, PyObject* interned) {
    PyObject* const value = PyObject_GetAttr(array.ptr(), interned);
    if (!value) throw py::error_already_set();
    return py::cast<T>(py::reinterpret_steal<py::object>(value));
}
struct AttributeNames {
    PyObject* const pointer = PyUnicode_InternFromString("pointer");
    PyObject* const size = PyUnicode_InternFromString("size");
    PyObject* const itemsize = PyUnicode_InternFromString("itemsize");
};
inline const AttributeNames& attribute_names() {
    static const AttributeNames names;
    return names;
}

// The array's memory; refuses another dtype or (unless `size` is negative) another number of values.
template <class T>
T* pointer_of(py::handle array, int64_t size, const char* name) {
    const AttributeNames& names = attribute_names();
    if (!PyObject_HasAttr(array.ptr(), names.pointer)) throw py::type_error(std::string(name) + ": expected a device array");
    if (attribute<int64_t>(array, names.itemsize) != int64_t(sizeof(T)))
        throw py::type_error(std::string(name) + ": expected an array of the plan's dtype");
    const int64_t given = attribute<int64_t>(array, names.size);
    if (size >= 0 && given != size)
        throw py::value_error(std::string(name) + ": got " + std::to_string(given) + " values, expected " + std::to_string(size));
    return reinterpret_cast<T*>(attribute<uintptr_t>(array, names.pointer));
}
// The same, null for None.
template <class T>
T* optional_pointer(py::handle array, int64_t size, const char* name) {
    return array.is_none() ? nullptr : pointer_of<T>(array, size, name);
}

Formula formula_of(const std::string& name);
Shape shape3(const std::vector<int64_t>& lengths);
Shape zeros3(const std::vector<int64_t>& offsets);  // absent axes are 0
int64_t size_of(const Shape& shape);

// A sweep's keywords: arrays of `size` values, numbers, and `sums`: a device array of sums_size(blocks) doubles.
template <class T>
Operands<T> operands_of(Formula formula, int64_t size, int64_t blocks, const py::dict& given) {
    Operands<T> o;
    const std::pair<const char*, const T**> read[] = {{"image", &o.image}, {"weights", &o.weights}, {"estimate", &o.estimate},
        {"gain", &o.gain}, {"factor", &o.factor}, {"damping", &o.damping}, {"partial", &o.partial}, {"held_out", &o.held_out},
        {"previous", &o.previous}};
    const std::pair<const char*, T**> written[] = {{"change", &o.change}, {"out", &o.out}, {"extrapolated", &o.extrapolated}};
    const std::pair<const char*, T*> numbers[] = {{"background", &o.background}, {"eps", &o.eps}, {"step", &o.step},
        {"alpha", &o.alpha}, {"held_out_scale", &o.held_out_scale}, {"unit", &o.unit}};
    for (const auto& [key, value] : given) {
        const std::string name = py::cast<std::string>(key);
        bool known = false;
        for (const auto& [n, to] : read)
            if (name == n) *to = optional_pointer<T>(value, size, n), known = true;
        for (const auto& [n, to] : written)
            if (name == n) *to = optional_pointer<T>(value, size, n), known = true;
        for (const auto& [n, to] : numbers)
            if (name == n) *to = T(py::cast<double>(value)), known = true;
        if (name == "positive") o.positive = py::cast<bool>(value), known = true;
        if (name == "sums") o.sums = optional_pointer<double>(value, sums_size(blocks), "sums"), known = true;
        if (!known) throw py::type_error(name + ": no formula takes it");
    }
    const bool of_image = formula == Formula::ratio || formula == Formula::residual;
    const bool of_estimate = formula == Formula::multiply || formula == Formula::add;
    if (of_image && !o.image) throw py::value_error("image: the formula needs it");
    if (of_estimate && !o.estimate) throw py::value_error("estimate: the formula needs it");
    if (o.extrapolated && !o.previous) throw py::value_error("extrapolated: needs previous");
    if (o.extrapolated && o.extrapolated == o.out) throw py::value_error("extrapolated: must not be out");
    return o;
}

// One of these per file that binds; bindings.cpp calls them all.
void bind_runtime(py::module_& m);
void bind_arrays(py::module_& m);
void bind_spectral(py::module_& m);
void bind_conv(py::module_& m);

}  // namespace medeconv::cuda
