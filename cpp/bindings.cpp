// The only file that knows pybind11: view the arrays, release the GIL, one call, return.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "kernels.hpp"

namespace py = pybind11;
using namespace medeconv;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

Formula formula_of(const std::string& name) {
#define MEDECONV_NAME(F) \
    if (name == #F) return Formula::F;
    MEDECONV_EACH_FORMULA(MEDECONV_NAME)
#undef MEDECONV_NAME
    throw std::invalid_argument("formula: got '" + name + "', expected copy, ratio, multiply, residual or add");
}
Boundary boundary_of(const std::string& name) {
    if (name == "reflect") return Boundary::reflect;
    if (name == "nearest") return Boundary::nearest;
    if (name == "mirror") return Boundary::mirror;
    if (name == "wrap") return Boundary::wrap;
    throw std::invalid_argument("boundary: got '" + name + "', expected reflect, nearest, mirror or wrap");
}

Shape shape3(const std::vector<int64_t>& v) {
    if (v.empty() || v.size() > 3) throw std::invalid_argument("expected 1 to 3 axes, got " + std::to_string(v.size()));
    Shape s{1, 1, 1};
    for (size_t i = 0; i < v.size(); ++i) s[3 - v.size() + i] = v[i];
    return s;
}
Shape zeros3(const std::vector<int64_t>& v) {  // for offsets: absent axes are 0
    Shape s = shape3(v);
    for (size_t i = 0; i < 3 - v.size(); ++i) s[i] = 0;
    return s;
}
template <class T>
Shape shape_of(const Array<T>& a) {
    return shape3(std::vector<int64_t>(a.shape(), a.shape() + a.ndim()));
}
Box box3(const std::vector<std::pair<int64_t, int64_t>>& v) {
    Box b{Range{0, 1}, Range{0, 1}, Range{0, 1}};
    for (size_t i = 0; i < v.size() && i < 3; ++i) b[3 - v.size() + i] = {v[i].first, v[i].second};
    return b;
}
int64_t size_of(const Box& b) {
    return (b[0].stop - b[0].start) * (b[1].stop - b[1].start) * (b[2].stop - b[2].start);
}

// Runs `call(poll)` without the GIL; Ctrl-C (or any signal handler that raises) stops it.
template <class F>
void without_gil(F call) {
    bool raised = false;
    Poll poll = [&raised] {
        py::gil_scoped_acquire gil;
        raised = raised || PyErr_CheckSignals() != 0;
        return raised;
    };
    bool interrupted = false;
    {
        py::gil_scoped_release release;
        try {
            call(poll);
        } catch (const Interrupted&) {
            interrupted = true;
        }
    }
    if (interrupted) throw py::error_already_set();
}

template <class T>
const T* optional_data(const std::optional<Array<T>>& a, int64_t size, const char* name) {
    if (!a) return nullptr;
    if (a->size() != size)
        throw std::invalid_argument(std::string(name) + ": got " + std::to_string(a->size()) + " values, expected " + std::to_string(size));
    return a->data();
}

// What a sweep is given by keyword: arrays of `size` values that the formula reads or writes, numbers, and whether sums are
// wanted. Owns what must live until the sweep is over.
template <class T>
class SweepOperands {
public:
    Operands<T> plain;
    std::optional<Array<T>> out, extrapolated;

    SweepOperands(Formula formula, int64_t size, const py::kwargs& given) {
        for (const auto& [key, value] : given) {
            const std::string name = py::cast<std::string>(key);
            if (!take_array(name, value, size) && !take_number(name, value))
                throw py::type_error(name + ": no formula takes it");
        }
        const bool of_image = formula == Formula::ratio || formula == Formula::residual;
        const bool of_estimate = formula == Formula::multiply || formula == Formula::add;
        if (of_image && !plain.image) throw std::invalid_argument("image: the formula needs it");
        if (of_estimate && !plain.estimate) throw std::invalid_argument("estimate: the formula needs it");
        if (plain.extrapolated && !plain.previous) throw std::invalid_argument("extrapolated: needs previous");
        if (plain.extrapolated && plain.extrapolated == plain.out) throw std::invalid_argument("extrapolated: must not be out");
    }
    SweepOperands(const SweepOperands&) = delete;

    // None, or the sums in the order of operands.hpp.
    py::object sums() const {
        if (!plain.sums) return py::none();
        return py::make_tuple(totals_[0], totals_[1], totals_[2]);
    }

private:
    bool take_array(const std::string& name, py::handle value, int64_t size) {
        Operands<T>& o = plain;
        const std::pair<const char*, const T**> read[] = {{"image", &o.image}, {"weights", &o.weights}, {"estimate", &o.estimate},
            {"gain", &o.gain}, {"factor", &o.factor}, {"damping", &o.damping}, {"held_out", &o.held_out}, {"partial", &o.partial}, {"previous", &o.previous}};
        const std::pair<const char*, T**> written[] = {{"out", &o.out}, {"extrapolated", &o.extrapolated}, {"change", &o.change}};
        for (const auto& [known, pointer] : read)
            if (name == known) {
                if (!value.is_none()) *pointer = checked(name, value, size).data();
                return true;
            }
        for (const auto& [known, pointer] : written)
            if (name == known) {
                if (value.is_none()) return true;
                Array<T> array = checked(name, value, size);
                if (!array.writeable()) throw std::invalid_argument(name + ": the array is read-only");
                *pointer = const_cast<T*>(array.data());
                if (name == "out") out = array;
                if (name == "extrapolated") extrapolated = array;
                return true;
            }
        return false;
    }
    bool take_number(const std::string& name, py::handle value) {
        Operands<T>& o = plain;
        const std::pair<const char*, T*> numbers[] = {{"background", &o.background}, {"eps", &o.eps}, {"step", &o.step},
            {"alpha", &o.alpha}, {"held_out_scale", &o.held_out_scale}, {"unit", &o.unit}};
        for (const auto& [known, number] : numbers)
            if (name == known) {
                *number = T(py::cast<double>(value));
                return true;
            }
        if (name == "positive") o.positive = py::cast<bool>(value);
        else if (name == "sums") o.sums = py::cast<bool>(value) ? totals_.data() : nullptr;
        else return false;
        return true;
    }
    Array<T> checked(const std::string& name, py::handle value, int64_t size) {
        if (!py::isinstance<Array<T>>(value))
            throw py::type_error(name + ": expected a C-contiguous array of the plan's dtype, got " + std::string(py::repr(py::type::of(value))));
        Array<T> array = py::reinterpret_borrow<Array<T>>(value);
        if (array.size() != size)
            throw std::invalid_argument(name + ": got " + std::to_string(array.size()) + " values, expected " + std::to_string(size));
        return array;
    }
    std::array<double, sums_of_a_sweep> totals_{};
};

template <class T, class Plan>
class Chain {  // one spectrum in flight
public:
    Chain(std::shared_ptr<Plan> plan, int threads) : plan_(std::move(plan)), threads_(threads) {}

    py::object load(const Array<T>& x, bool adjoint, const py::kwargs& given) {
        const int64_t size = size_of(adjoint ? plan_->image_box : plan_->estimate_box);
        if (x.size() != size) throw std::invalid_argument("x: got " + std::to_string(x.size()) + " values, expected " + std::to_string(size));
        const SweepOperands<T> operands(Formula::copy, size, given);
        if (!spectrum_) spectrum_ = plan_->new_spectrum();
        const T* data = x.data();
        loaded_ = false;
        without_gil([&](const Poll& poll) { plan_->load(spectrum_.get(), data, adjoint, operands.plain, threads_, poll); });
        loaded_ = true;
        return operands.sums();
    }
    py::object sweep(const typename Plan::Stored& transfer, const std::string& formula_name, bool adjoint, bool keep, const py::kwargs& given) {
        if (!loaded_) throw std::runtime_error("nothing is loaded: call load() first, or keep=True in the sweep before");
        const Formula formula = formula_of(formula_name);
        const SweepOperands<T> operands(formula, size_of(adjoint ? plan_->estimate_box : plan_->image_box), given);
        loaded_ = false;  // stays so if interrupted half-way
        without_gil([&](const Poll& poll) {
            plan_->sweep(spectrum_.get(), transfer, adjoint, formula, operands.plain, keep, threads_, poll);
        });
        loaded_ = keep;
        return operands.sums();
    }

private:
    std::shared_ptr<Plan> plan_;
    int threads_;
    Buffer<T> spectrum_;
    bool loaded_ = false;
};

// Of an engine without transforms: the array that the next sweep reads; the caller's are referred to, not copied.
template <class T, class Plan>
class ArrayChain {
public:
    ArrayChain(std::shared_ptr<Plan> plan, int threads) : plan_(std::move(plan)), threads_(threads) {}

    py::object load(const Array<T>& x, bool adjoint, const py::kwargs& given) {
        const int64_t size = size_of(plan_->read_box(adjoint));
        if (x.size() != size) throw std::invalid_argument("x: got " + std::to_string(x.size()) + " values, expected " + std::to_string(size));
        const SweepOperands<T> operands(Formula::copy, size, given);
        if (operands.plain.previous) {
            if (!operands.extrapolated) throw std::invalid_argument("extrapolated: an engine without transforms needs it here");
            const T* data = x.data();
            without_gil([&](const Poll&) { apply_formula(Formula::copy, data, operands.plain, size, threads_); });
            owner_ = *operands.extrapolated;
            source_ = operands.plain.extrapolated;
        } else {
            owner_ = x;
            source_ = x.data();
        }
        return operands.sums();
    }
    py::object sweep(const typename Plan::Filters& filters, const std::string& formula_name, bool adjoint, bool keep, const py::kwargs& given) {
        if (!source_) throw std::runtime_error("nothing is loaded: call load() first, or keep=True in the sweep before");
        const Formula formula = formula_of(formula_name);
        const int64_t size = size_of(plan_->written_box(adjoint));
        const SweepOperands<T> operands(formula, size, given);
        const T* source = std::exchange(source_, nullptr);  // stays so if interrupted half-way
        // The result's own place is needed only where no array of the caller's can serve as the next source.
        const std::optional<Array<T>>& next = operands.plain.previous ? operands.extrapolated : operands.out;
        const bool own = keep && !next;
        Buffer<T> result = own ? acquire<T>(plan_->largest_box()) : Buffer<T>();
        // What goes where the sweep still reads waits elsewhere.
        Operands<T> moved = operands.plain;
        T* const targets[] = {moved.out, moved.extrapolated};
        Buffer<T> waiting[2];
        for (int i = 0; i < 2; ++i)
            if (targets[i] && targets[i] == source) {
                waiting[i] = acquire<T>(plan_->largest_box());
                (i ? moved.extrapolated : moved.out) = waiting[i].get();
            }
        without_gil([&](const Poll& poll) {
            plan_->sweep(source, result.get(), filters, adjoint, formula, moved, threads_, poll);
            for (int i = 0; i < 2; ++i)
                if (waiting[i]) std::memcpy(targets[i], waiting[i].get(), size_t(size) * sizeof(T));
        });
        if (!keep) {
            owner_ = py::none();
            kept_.reset();
        } else if (own) {
            kept_ = std::move(result);
            owner_ = py::none();
            source_ = kept_.get();
        } else {
            owner_ = *next;
            source_ = next->data();
        }
        return operands.sums();
    }

private:
    std::shared_ptr<Plan> plan_;
    int threads_;
    py::object owner_ = py::none();
    Buffer<T> kept_;
    const T* source_ = nullptr;
};

using Ranges = std::vector<std::pair<int64_t, int64_t>>;

// Plan and chain of an engine without transforms; the caller adds how it and its filters are made.
template <class T, class Plan>
py::class_<Plan, std::shared_ptr<Plan>> bind_array_engine(py::module_& m, const std::string& engine, const std::string& suffix) {
    py::class_<typename Plan::Filters, std::shared_ptr<typename Plan::Filters>>(m, (engine + "Filters" + suffix).c_str());
    py::class_<Plan, std::shared_ptr<Plan>> plan(m, (engine + "Plan" + suffix).c_str());
    using Chain = ArrayChain<T, Plan>;
    py::class_<Chain>(m, (engine + "Chain" + suffix).c_str())
        .def(py::init<std::shared_ptr<Plan>, int>(), py::arg("plan"), py::arg("num_threads"))
        .def("load", &Chain::load, py::arg("x").noconvert(), py::arg("adjoint") = false)
        .def("sweep", &Chain::sweep, py::arg("filters"), py::arg("formula"), py::kw_only(), py::arg("adjoint") = false,
             py::arg("keep") = true);
    return plan;
}
template <class T, class Plan>
py::class_<Plan, std::shared_ptr<Plan>> bind_periodic_engine(py::module_& m, const std::string& engine, const std::string& suffix) {
    return bind_array_engine<T, Plan>(m, engine, suffix)
        .def(py::init([](const Ranges& estimate, const Ranges& image, bool periodic) {
                 if (estimate.size() != image.size()) throw std::invalid_argument("estimate_box and image_box must have the same number of axes");
                 return std::make_shared<Plan>(box3(estimate), box3(image), periodic);
             }),
             py::arg("estimate_box"), py::arg("image_box"), py::arg("periodic"));
}

template <class T>
void bind_separable(py::module_& m, const std::string& suffix) {
    using Plan = SeparablePlan<T>;
    bind_array_engine<T, Plan>(m, "Separable", suffix)
        .def(py::init([](const Ranges& estimate, const Ranges& image, const std::string& boundary, const Ranges& unfolded) {
                 if (estimate.size() != image.size() || estimate.size() != unfolded.size())
                     throw std::invalid_argument("estimate_box, image_box and unfolded_box must have the same number of axes");
                 const Boundary rule = boundary == "zero" ? Boundary::zero : boundary_of(boundary);
                 return std::make_shared<Plan>(box3(estimate), box3(image), rule, box3(unfolded));
             }),
             py::arg("estimate_box"), py::arg("image_box"), py::arg("boundary"), py::arg("unfolded_box"))
        .def("filters",
             [](const Plan& plan, const std::vector<std::vector<std::vector<T>>>& terms, const std::vector<int64_t>& centre) {
                 std::vector<typename Plan::Taps> all;
                 for (const auto& taps : terms) {
                     if (taps.empty() || taps.size() > 3 || taps.size() != centre.size())
                         throw std::invalid_argument("terms: expected one filter per axis, 1 to 3 of them, and a centre for each");
                     all.push_back({{{T(1)}, {T(1)}, {T(1)}}});
                     for (size_t i = 0; i < taps.size(); ++i) all.back()[3 - taps.size() + i] = taps[i];
                 }
                 return std::make_shared<typename Plan::Filters>(plan.filters(all, zeros3(centre)));
             },
             py::arg("terms"), py::arg("centre"));
}

template <class T>
void bind_direct(py::module_& m, const std::string& suffix) {
    using Plan = DirectPlan<T>;
    bind_periodic_engine<T, Plan>(m, "Direct", suffix)
        .def("filters",
             [](const Plan& plan, const Array<T>& psf, const std::vector<int64_t>& centre) {
                 return std::make_shared<typename Plan::Filters>(plan.filters(psf.data(), shape_of(psf), zeros3(centre)));
             },
             py::arg("psf").noconvert(), py::arg("centre"));
}

template <class T, class Plan>
void bind_chain(py::module_& m, const std::string& name) {
    using Made = Chain<T, Plan>;
    py::class_<Made>(m, name.c_str())
        .def(py::init<std::shared_ptr<Plan>, int>(), py::arg("plan"), py::arg("num_threads"))
        .def("load", &Made::load, py::arg("x").noconvert(), py::arg("adjoint") = false)
        .def("sweep", &Made::sweep, py::arg("transfer"), py::arg("formula"), py::kw_only(), py::arg("adjoint") = false,
             py::arg("keep") = true);
}

template <class T>
void bind_cosine(py::module_& m, const std::string& suffix) {
    using Plan = CosinePlan<T>;
    py::class_<typename Plan::Stored, std::shared_ptr<typename Plan::Stored>>(m, ("CosineTransfer" + suffix).c_str());
    py::class_<Plan, std::shared_ptr<Plan>>(m, ("CosinePlan" + suffix).c_str())
        .def(py::init([](const std::vector<int64_t>& shape) {
                 for (int64_t n : shape)
                     if (n < 1) throw std::invalid_argument("shape: expected axis lengths of at least 1");
                 return std::make_shared<Plan>(shape3(shape));
             }),
             py::arg("shape"))
        .def("transfer",
             [](const Plan& plan, const Array<T>& psf, int num_threads) {
                 const Shape shape = shape_of(psf);
                 const T* data = psf.data();
                 std::shared_ptr<typename Plan::Stored> made;
                 without_gil([&](const Poll&) { made = plan.transfer(data, shape, num_threads); });
                 return made;
             },
             py::arg("psf").noconvert(), py::arg("num_threads"))
        .def_property_readonly("spectrum_bytes", &Plan::spectrum_bytes)
        .def_property_readonly("transfer_bytes", &Plan::transfer_bytes);
    bind_chain<T, Plan>(m, "CosineChain" + suffix);
}

template <class T>
void bind_overlap(py::module_& m, const std::string& suffix) {
    using Plan = OverlapPlan<T>;
    bind_periodic_engine<T, Plan>(m, "Overlap", suffix)
        .def("filters",
             [](const Plan& plan, const Array<T>& psf, const std::vector<int64_t>& centre) {
                 return plan.filters(psf.data(), psf.size(), zeros3(centre)[2]);
             },
             py::arg("psf").noconvert(), py::arg("centre"));
}

// Memory that is kept for reuse once the array is gone: fresh pages cost more than most kernels that fill them.
template <class T>
Array<T> empty_array(const std::vector<int64_t>& shape) {
    int64_t size = 1;
    for (int64_t n : shape) {
        if (n < 0 || __builtin_mul_overflow(size, n, &size) || size > INT64_MAX / int64_t(sizeof(T)))
            throw std::invalid_argument("shape: negative or too large");
    }
    T* data = acquire<T>(size).release();
    return Array<T>(shape, data, py::capsule(data, [](void* p) { ReleaseBuffer()(p); }));
}
template <class T>
Array<T> given_or_empty(const std::optional<Array<T>>& given, const std::vector<int64_t>& shape) {
    if (given && !std::equal(shape.begin(), shape.end(), given->shape(), given->shape() + given->ndim()))
        throw std::invalid_argument("out: its shape is not that of the result");
    return given ? *given : empty_array<T>(shape);
}

template <class T>
void bind(py::module_& m, const std::string& suffix) {
    using Plan = SpectralPlan<T>;
    using Stored = StoredTransfer<T>;
    py::class_<Stored, std::shared_ptr<Stored>>(m, ("Transfer" + suffix).c_str());
    py::class_<Plan, std::shared_ptr<Plan>>(m, ("SpectralPlan" + suffix).c_str())
        .def(py::init([](const std::vector<int64_t>& grid, const std::vector<std::pair<int64_t, int64_t>>& estimate,
                         const std::vector<std::pair<int64_t, int64_t>>& image, const std::vector<std::pair<int64_t, int64_t>>& reach) {
                 if (grid.size() != estimate.size() || grid.size() != image.size())
                     throw std::invalid_argument("grid, estimate_box and image_box must have the same number of axes");
                 const Shape shape = shape3(grid);
                 const Box boxes[2] = {box3(estimate), box3(image)};
                 for (size_t a = 0; a < 3; ++a)
                     for (const Box& b : boxes)
                         if (b[a].start < 0 || b[a].stop <= b[a].start || b[a].stop > shape[a])
                             throw std::invalid_argument("box: must be non-empty and inside the grid");
                 if (!reach.empty() && reach.size() != grid.size()) throw std::invalid_argument("reach: must be empty or have as many axes as grid");
                 typename Plan::Reach continued;
                 for (size_t a = 3 - reach.size(), i = 0; i < reach.size(); ++a, ++i) {
                     const auto [low, high] = reach[i];
                     const int64_t length = boxes[0][a].stop;
                     if (low < 0 || high < 0 || low > length || high > length || (low + high > 0 && length + low + high > shape[a]))
                         throw std::invalid_argument("reach: must fit into the box, and with it into the grid");
                     continued[a] = {low, high};
                 }
                 return std::make_shared<Plan>(shape, boxes[0], boxes[1], continued);
             }),
             py::arg("grid"), py::arg("estimate_box"), py::arg("image_box"), py::arg("reach") = std::vector<std::pair<int64_t, int64_t>>())
        .def("transfer",
             [](const Plan& plan, const Array<T>& psf, const std::vector<int64_t>& centre, bool symmetric, int num_threads) {
                 const Shape shape = shape_of(psf), at = zeros3(centre);
                 const T* data = psf.data();
                 std::shared_ptr<Stored> made;
                 without_gil([&](const Poll&) { made = plan.transfer(data, shape, at, symmetric, num_threads); });
                 return made;
             },
             py::arg("psf").noconvert(), py::arg("centre"), py::arg("symmetric"), py::arg("num_threads"))
        .def("wiener_transfer", &Plan::wiener_transfer, py::arg("psf_transfer"), py::arg("regularizer_transfer"), py::arg("balance"),
             py::call_guard<py::gil_scoped_release>())
        .def("gcv",
             [](const Plan& plan, const Array<T>& image, const Stored& psf, const Stored& regularizer, const Array<double>& balances,
                int num_threads) {
                 if (image.size() != size_of(plan.image_box)) throw std::invalid_argument("image: wrong number of values");
                 Array<double> numerator(balances.size()), denominator(balances.size());
                 const T* y = image.data();
                 const double* b = balances.data();
                 double *top = numerator.mutable_data(), *bottom = denominator.mutable_data();
                 const int count = int(balances.size());
                 without_gil([&](const Poll& poll) { plan.gcv(y, psf, regularizer, b, count, top, bottom, num_threads, poll); });
                 return py::make_tuple(numerator, denominator);
             },
             py::arg("image").noconvert(), py::arg("psf_transfer"), py::arg("regularizer_transfer"), py::arg("balances").noconvert(),
             py::arg("num_threads"))
        .def_property_readonly("spectrum_bytes", &Plan::spectrum_bytes)
        .def("transfer_bytes", &Plan::transfer_bytes, py::arg("symmetric"));
    bind_chain<T, Plan>(m, "Chain" + suffix);
    m.def("pad",
          [](const Array<T>& x, const std::vector<int64_t>& low, const std::vector<int64_t>& high, const std::string& boundary,
             int num_threads, const std::optional<Array<T>>& given) {
              const Shape shape = shape_of(x), l = zeros3(low), h = zeros3(high);
              std::vector<int64_t> padded;
              for (py::ssize_t a = 0; a < x.ndim(); ++a) padded.push_back(x.shape(a) + low.at(size_t(a)) + high.at(size_t(a)));
              Array<T> out = given_or_empty(given, padded);
              const T* from = x.data();
              T* to = out.mutable_data();
              const Boundary b = boundary_of(boundary);
              without_gil([&](const Poll&) { pad(from, shape, l, h, b, to, num_threads); });
              return out;
          },
          py::arg("x").noconvert(), py::arg("low"), py::arg("high"), py::arg("boundary"), py::arg("num_threads"),
          py::arg("out").noconvert() = py::none());
    m.def("fold",
          [](const Array<T>& y, const std::vector<int64_t>& low, const std::vector<int64_t>& high, const std::string& boundary,
             int num_threads, const std::optional<Array<T>>& given) {
              std::vector<int64_t> inner;
              for (py::ssize_t a = 0; a < y.ndim(); ++a) inner.push_back(y.shape(a) - low.at(size_t(a)) - high.at(size_t(a)));
              const Shape shape = shape3(inner), l = zeros3(low), h = zeros3(high);
              Array<T> out = given_or_empty(given, inner);
              const T* from = y.data();
              T* to = out.mutable_data();
              const Boundary b = boundary_of(boundary);
              without_gil([&](const Poll&) { fold(from, shape, l, h, b, to, num_threads); });
              return out;
          },
          py::arg("y").noconvert(), py::arg("low"), py::arg("high"), py::arg("boundary"), py::arg("num_threads"),
          py::arg("out").noconvert() = py::none());
    m.def("apply_formula",
          [](const std::string& formula_name, const Array<T>& c, int num_threads, const py::kwargs& given) {
              const Formula formula = formula_of(formula_name);
              const int64_t n = c.size();
              const SweepOperands<T> operands(formula, n, given);
              if (!operands.out) throw std::invalid_argument("out: needed");
              const T* from = c.data();
              without_gil([&](const Poll&) { apply_formula(formula, from, operands.plain, n, num_threads); });
              return operands.sums();
          },
          py::arg("formula"), py::arg("c").noconvert(), py::kw_only(), py::arg("num_threads") = 1);
}

template <class T>
void bind_penalty(py::module_& m) {
    m.def("penalty",
          [](const std::string& name, const Array<T>& x, Array<T> out, const std::vector<double>& spacing, double weight, double level,
             int num_threads) {
              const char* const names[] = {"tv", "tikhonov", "good-roughness", "entropy"};
              const auto found = std::find(std::begin(names), std::end(names), name);
              if (found == std::end(names)) throw std::invalid_argument("kind: got '" + name + "', expected tv, tikhonov, good-roughness or entropy");
              const Penalty kind = Penalty(found - std::begin(names));
              if (out.size() != x.size() || !out.writeable() || out.data() == x.data())
                  throw std::invalid_argument("out: must be another writable array of the shape of x");
              if (spacing.size() != size_t(x.ndim())) throw std::invalid_argument("spacing: expected one value per axis");
              std::array<double, 3> sizes{1, 1, 1};
              for (size_t i = 0; i < spacing.size(); ++i) sizes[3 - spacing.size() + i] = spacing[i];
              const Shape shape = shape_of(x);
              const T* from = x.data();
              T* to = out.mutable_data();
              without_gil([&](const Poll&) { penalty(kind, from, shape, sizes, weight, level, to, num_threads); });
          },
          py::arg("kind"), py::arg("x").noconvert(), py::arg("out").noconvert(), py::arg("spacing"), py::arg("weight"), py::arg("level"),
          py::arg("num_threads"));
}

// z and the components of ahead and dual, which follow each other along the first axis: one for each axis of z longer than 1.
template <class T>
DenoisePass<T> denoise_pass(const Array<T>& z, Array<T>& ahead, Array<T>* dual, const std::vector<double>& weight, double lowest) {
    const Shape shape = shape_of(z);
    DenoisePass<T> pass{shape[0], shape[1], shape[2], z.data(), {}, {}, {}, {}, T(0), T(lowest)};
    int64_t axes = 0;
    if (weight.size() != size_t(z.ndim())) throw std::invalid_argument("weight: expected one value per axis");
    for (size_t a = 0; a < 3; ++a) axes += shape[a] > 1;
    if (ahead.size() != axes * z.size() || (dual && dual->size() != ahead.size()))
        throw std::invalid_argument("ahead, dual: expected an array like z for each of its axes longer than 1");
    int64_t place = 0;
    for (size_t a = 0; a < 3; ++a)
        if (shape[a] > 1) {
            pass.weight[a] = T(weight[a + size_t(z.ndim()) - 3]);
            pass.ahead[a] = (dual ? ahead.mutable_data() : const_cast<T*>(ahead.data())) + place * z.size();
            if (dual) pass.dual[a] = dual->mutable_data() + place * z.size();
            ++place;
        }
    return pass;
}
template <class T>
void bind_denoise(py::module_& m) {
    m.def("denoised",
          [](const Array<T>& z, Array<T> dual, Array<T> out, const std::vector<double>& weight, double lowest, int num_threads) {
              if (out.size() != z.size() || !out.writeable() || out.data() == z.data())
                  throw std::invalid_argument("out: must be another writable array of the shape of z");
              const DenoisePass<T> pass = denoise_pass<T>(z, dual, nullptr, weight, lowest);
              T* to = out.mutable_data();
              without_gil([&](const Poll&) { denoised(pass, to, num_threads); });
          },
          py::arg("z").noconvert(), py::arg("dual").noconvert(), py::arg("out").noconvert(), py::arg("weight"), py::arg("lowest"),
          py::arg("num_threads"));
    m.def("denoise_step",
          [](const Array<T>& z, Array<T> ahead, Array<T> dual, const std::vector<double>& weight, const std::vector<double>& step,
             double momentum, double lowest, int num_threads) {
              DenoisePass<T> pass = denoise_pass<T>(z, ahead, &dual, weight, lowest);
              if (step.size() != weight.size()) throw std::invalid_argument("step: expected one value per axis");
              for (size_t a = 3 - step.size(); a < 3; ++a) pass.step[a] = T(step[a + step.size() - 3]);
              pass.momentum = T(momentum);
              without_gil([&](const Poll&) { denoise_step(pass, num_threads); });
          },
          py::arg("z").noconvert(), py::arg("ahead").noconvert(), py::arg("dual").noconvert(), py::arg("weight"), py::arg("step"),
          py::arg("momentum"), py::arg("lowest"), py::arg("num_threads"));
}

template <class T>
void bind_conv(py::module_& m, const std::string& suffix) {
    using Plan = ConvPlan<T>;
    auto expect_size = [](const Array<T>& a, int64_t size, const char* name) { optional_data(std::optional<Array<T>>(a), size, name); };
    auto result = [](Array<T>& out, int64_t size) {
        optional_data(std::optional<Array<T>>(out), size, "out");
        return out.mutable_data();  // raises for a read-only array
    };
    auto input_size = [](const Plan& p) { return p.shape.batch * p.shape.sources * p.shape.input[0] * p.shape.input[1] * p.shape.input[2]; };
    auto output_size = [](const Plan& p) { return p.shape.batch * p.shape.destinations * p.output[0] * p.output[1] * p.output[2]; };
    auto weight_size = [](const Plan& p) {
        return p.shape.destinations * (p.shape.sources / p.shape.groups) * p.shape.kernel[0] * p.shape.kernel[1] * p.shape.kernel[2];
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
             [=](const Plan& plan, const Array<T>& x, const Array<T>& w, const std::optional<Array<T>>& bias, Array<T> out, bool relu,
                 const std::optional<Array<T>>& addend, double slope, int num_threads) {
                 expect_size(x, input_size(plan), "x"), expect_size(w, weight_size(plan), "w");
                 const T *from = x.data(), *weight = w.data(), *b = optional_data(bias, plan.shape.destinations, "bias");
                 T* to = result(out, output_size(plan));
                 const ConvEnd<T> end{optional_data(addend, output_size(plan), "addend"), relu, T(slope)};
                 without_gil([&](const Poll& poll) { plan.forward(from, weight, b, to, end, num_threads, poll); });
             },
             py::arg("x").noconvert(), py::arg("w").noconvert(), py::arg("bias").noconvert().none(true), py::arg("out").noconvert(),
             py::arg("relu"), py::arg("addend").noconvert().none(true), py::arg("slope"), py::arg("num_threads"))
        .def("input_grad",
             [=](const Plan& plan, const Array<T>& grad, const Array<T>& w, const std::optional<Array<T>>& bias, Array<T> out, bool relu,
                 const std::optional<Array<T>>& addend, double slope, int num_threads) {
                 expect_size(grad, output_size(plan), "grad"), expect_size(w, weight_size(plan), "w");
                 const T *from = grad.data(), *weight = w.data(), *b = optional_data(bias, plan.shape.sources, "bias");
                 T* to = result(out, input_size(plan));
                 const ConvEnd<T> end{optional_data(addend, input_size(plan), "addend"), relu, T(slope)};
                 without_gil([&](const Poll& poll) { plan.input_grad(from, weight, b, to, end, num_threads, poll); });
             },
             py::arg("grad").noconvert(), py::arg("w").noconvert(), py::arg("bias").noconvert().none(true), py::arg("out").noconvert(),
             py::arg("relu"), py::arg("addend").noconvert().none(true), py::arg("slope"), py::arg("num_threads"))
        .def("weight_grad",
             [=](const Plan& plan, const Array<T>& grad, const Array<T>& x, Array<T> out, int num_threads) {
                 expect_size(grad, output_size(plan), "grad"), expect_size(x, input_size(plan), "x");
                 const T *gradient = grad.data(), *from = x.data();
                 T* to = result(out, weight_size(plan));
                 without_gil([&](const Poll& poll) { plan.weight_grad(gradient, from, to, num_threads, poll); });
             },
             py::arg("grad").noconvert(), py::arg("x").noconvert(), py::arg("out").noconvert(), py::arg("num_threads"))
        .def_property_readonly("family", &Plan::family)
        .def("workspace_bytes", &Plan::workspace_bytes, py::arg("num_threads"));
    m.def("sum_channels",
          [=](const Array<T>& x, Array<T> out, int num_threads) {
              if (x.ndim() < 2) throw std::invalid_argument("x: expected (batch, channels, ...)");
              const int64_t batch = x.shape(0), channels = x.shape(1), size = batch > 0 && channels > 0 ? x.size() / (batch * channels) : 0;
              const T* from = x.data();
              T* to = result(out, channels);
              without_gil([&](const Poll& poll) { sum_channels(from, batch, channels, size, to, num_threads, poll); });
          },
          py::arg("x").noconvert(), py::arg("out").noconvert(), py::arg("num_threads"));
    m.def(("empty_" + suffix).c_str(), &empty_array<T>, py::arg("shape"));
}

}  // namespace

PYBIND11_MODULE(_cpp, m, py::mod_gil_not_used()) {
    m.doc() = "Compiled CPU kernels of medeconv_fast; called through medeconv_fast.backends.cpp.";
    bind<float>(m, "F32");
    bind<double>(m, "F64");
    bind_separable<float>(m, "F32");
    bind_separable<double>(m, "F64");
    bind_direct<float>(m, "F32");
    bind_direct<double>(m, "F64");
    bind_cosine<float>(m, "F32");
    bind_cosine<double>(m, "F64");
    bind_overlap<float>(m, "F32");
    bind_overlap<double>(m, "F64");
    bind_penalty<float>(m);
    bind_penalty<double>(m);
    bind_denoise<float>(m);
    bind_denoise<double>(m);
    bind_conv<float>(m, "F32");
    bind_conv<double>(m, "F64");
    m.def("good_size", &good_size, py::arg("n"), py::arg("even") = false);
    m.def("isa", [] { return std::string(active_isa()); });
    m.def("supported_isas", [] {
        const char* const* names;
        const int count = supported_isas(&names);
        return std::vector<std::string>(names, names + count);
    });
    m.def("smallest_divisor", [](double scale, bool single) {
        return single ? scalar::smallest_divisor<float>(scale) : scalar::smallest_divisor<double>(scale);
    }, py::arg("scale"), py::arg("single"));
    m.def("cached_bytes", &cached_bytes);
    m.def("release_memory", &release_cached);
}
