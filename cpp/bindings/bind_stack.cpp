// DenseStack: a checked network. StackTracer: one trace of it, batch by batch.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "bindings/checked_stack.h"
#include "bindings/result_figures.h"
#include "bindings/run_op.h"
#include "ops/stack_tracer.h"

namespace gt {
namespace {

std::string batch_text(py::ssize_t samples) { return "a batch of " + std::to_string(samples) + " samples"; }

template <class T>
py::array checked_input(const DenseStack& stack, const py::object& object, const std::string& name,
                        bool finite = true) {
    const py::array x = checked_array<T>(object, name, " (the network's)");
    const std::string inputs = std::to_string(stack.sizes[0]);
    require_shape(x, name, {-1, stack.sizes[0]}, "(batch, " + inputs + ")",
                  x.ndim() == 1 ? "use " + name + "[None, :] for a single sample" : "");
    if (x.shape(0) == 0) fail_value(name, "at least one sample", "shape " + shape_text(x));
    if (finite) require_finite<T>(x, name);
    return x;
}

template <class T>
py::array forward(const DenseStack& stack, const py::object& object) {
    const py::array x = checked_input<T>(stack, object, "x");
    py::array_t<T> y({x.shape(0), stack.sizes.back()});
    const auto* from = static_cast<const T*>(x.data());
    T* to = y.mutable_data();
    const auto batch = static_cast<std::size_t>(x.shape(0));
    const std::vector<DenseLayer<T>> layers = stack.layers<T>();  // reads Python objects: while the GIL is held
    run_op("x", batch_text(x.shape(0)),
           [&](Interrupt& interrupt) { stack_forward(active_isa(), layers, from, batch, to, interrupt); });
    return y;
}

// What one call's samples start their backward pass from; the arrays stay with the caller.
template <class T>
Cotangent<T> checked_cotangent(const DenseStack& stack, py::ssize_t batch, const py::object& target,
                               const std::string& loss, const py::object& cotangent, std::uint64_t seed,
                               std::size_t samples_before, const std::string& label) {
    const std::string shape = "(" + std::to_string(batch) + ", " + std::to_string(stack.sizes.back()) + ")";
    Cotangent<T> result{CotangentKind::random};
    result.seed = seed;
    result.first_sample = samples_before;
    const auto rows = [&](const py::object& object, const std::string& name) {
        const py::array array = checked_array<T>(object, name, " (the network's)");
        require_shape(array, name, {batch, stack.sizes.back()}, shape);
        require_finite<T>(array, name);
        return static_cast<const T*>(array.data());
    };
    if (loss == "cross_entropy") {
        const std::string name = "target" + label;
        const py::array labels = checked_array<std::int64_t>(target, name, " (labels)");
        require_shape(labels, name, {batch}, "(" + std::to_string(batch) + ",)");
        const auto* given = static_cast<const std::int64_t*>(labels.data());
        result.labels.assign(given, given + batch);  // before the check: another thread may write to the caller's
        require_labels(result.labels, name, stack.sizes.back());
        result.kind = CotangentKind::cross_entropy;
    } else if (loss == "mse") {
        result.kind = CotangentKind::mse;
        result.rows = rows(target, "target" + label);
    } else if (!cotangent.is_none()) {
        result.kind = CotangentKind::given;
        result.rows = rows(cotangent, "cotangent" + label);
    }
    return result;
}

// One trace under way.
template <class T>
class Tracer {
  public:
    Tracer(std::shared_ptr<DenseStack> stack, const std::vector<std::string>& keep, bool one_call)
        : stack_(std::move(stack)),
          options_{{keep.begin(), keep.end()}, one_call},
          tracer_(active_isa(), stack_->layers<T>(), options_) {}

    py::dict add(const py::object& x_object, const py::object& target, const std::string& loss,
                 const py::object& cotangent_object, std::uint64_t seed, const std::string& label) {
        // A readout takes what a recurrent network gave, which may be infinite or NaN and is reported there.
        const py::array x = checked_input<T>(*stack_, x_object, "x" + label, !options_.keeps("grad_input"));
        const auto batch = static_cast<std::size_t>(x.shape(0));
        const Cotangent<T> cotangent =
            checked_cotangent<T>(*stack_, x.shape(0), target, loss, cotangent_object, seed, tracer_.samples(), label);
        ResultFigures<T> figures;
        const CallOutputs<T> out = tracer_.outputs(batch, figures);
        run_op("x" + label, batch_text(x.shape(0)), [&](Interrupt& interrupt) {
            tracer_.add(static_cast<const T*>(x.data()), batch, cotangent, out, interrupt);
        });
        return figures.dict;
    }

    py::dict finish() {
        ResultFigures<T> figures;
        if (!tracer_.results(figures)) fail_overflow("keep", "exponents within int64", "one beyond");
        figures.dict["loss"] = tracer_.loss();
        figures.dict["samples"] = tracer_.samples();
        const bool finite = tracer_.first_nonfinite() == stack_->weights.size();
        figures.dict["first_nonfinite"] =
            finite ? py::object(py::none()) : py::object(py::int_(tracer_.first_nonfinite()));
        return figures.dict;
    }

  private:
    std::shared_ptr<DenseStack> stack_;
    TraceOptions options_;
    StackTracer<T> tracer_;
};

template <class T>
void check_batch(const DenseStack& stack, const py::object& x, const py::object& target, const std::string& loss,
                 const py::object& cotangent) {
    checked_cotangent<T>(stack, checked_input<T>(stack, x, "x").shape(0), target, loss, cotangent, 0, 0, "");
}

template <class T>
void bind_tracer(py::module_& module, const char* name) {
    py::class_<Tracer<T>>(module, name)
        .def("add", &Tracer<T>::add, py::arg("x"), py::arg("target"), py::arg("loss"), py::arg("cotangent"),
             py::arg("seed"), py::arg("label"))
        .def("finish", &Tracer<T>::finish);
}

py::object make_tracer(const std::shared_ptr<DenseStack>& stack, const std::vector<std::string>& keep, bool one_call) {
    if (stack->is_float32) return py::cast(std::make_unique<Tracer<float>>(stack, keep, one_call));
    return py::cast(std::make_unique<Tracer<double>>(stack, keep, one_call));
}

}  // namespace

void bind_stack(py::module_& module) {
    module.def(
        "check_activation",
        [](const py::object& activation, const std::string& name) { return checked_activation(activation, name).name; },
        py::arg("activation"), py::arg("name"),
        "The name as a stack keeps it; TypeError or ValueError that names the argument.");
    module.def(
        "derivative_sup",
        [](const py::object& activation) { return checked_activation(activation, "activation").info.derivative_sup; },
        py::arg("activation"), "Largest |phi'|.");
    py::class_<DenseStack, std::shared_ptr<DenseStack>>(module, "DenseStack")
        .def(py::init(&make_stack), py::arg("weights"), py::arg("biases"), py::arg("activation"), py::arg("residual"),
             py::arg("layer_norm"))
        .def_property_readonly(
            "residual",
            [](const DenseStack& s) {
                py::list scales;
                for (const double scale : s.residual)
                    scales.append(scale == 0 ? py::object(py::none()) : py::object(py::float_(scale)));
                return py::tuple(scales);
            })
        .def_property_readonly(
            "layer_norm",
            [](const DenseStack& s) {
                py::list layers;
                for (std::size_t l = 0; l < s.weights.size(); ++l)
                    layers.append(s.normalised[l] ? py::object(py::make_tuple(s.norm_weights[l], s.norm_biases[l]))
                                                  : py::object(py::none()));
                return py::tuple(layers);
            })
        .def_property_readonly("weights", [](const DenseStack& s) { return py::tuple(py::cast(s.weights)); })
        .def_property_readonly("biases", [](const DenseStack& s) { return py::tuple(py::cast(s.biases)); })
        .def_property_readonly("sizes", [](const DenseStack& s) { return py::tuple(py::cast(s.sizes)); })
        .def_property_readonly("activation",
                               [](const DenseStack& s) {
                                   py::list names;
                                   for (const CheckedActivation& a : s.activations) names.append(a.name);
                                   return py::tuple(names);
                               })
        .def("forward", [](const DenseStack& s,
                           const py::object& x) { return s.is_float32 ? forward<float>(s, x) : forward<double>(s, x); })
        .def(
            "check_batch",
            [](const DenseStack& s, const py::object& x, const py::object& target, const std::string& loss,
               const py::object& cotangent) {
                (s.is_float32 ? check_batch<float> : check_batch<double>)(s, x, target, loss, cotangent);
            },
            py::arg("x"), py::arg("target"), py::arg("loss"), py::arg("cotangent"))
        .def("tracer", &make_tracer, py::arg("keep"), py::arg("one_call"));
    bind_tracer<float>(module, "StackTracerF32");
    bind_tracer<double>(module, "StackTracerF64");
}

}  // namespace gt
