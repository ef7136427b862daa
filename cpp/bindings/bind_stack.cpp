// DenseStack: a checked network. StackTracer: one trace of it, batch by batch.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "bindings/checked_stack.h"
#include "bindings/run_op.h"
#include "bindings/stack_results.h"
#include "ops/stack_checkpoints.h"
#include "ops/stack_forward.h"

namespace gt {
namespace {

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
    run_op("x", batch_text(batch),
           [&](Interrupt& interrupt) { stack_forward(active_isa(), stack.source<T>(), from, batch, to, interrupt); });
    return y;
}

// One trace under way. How it goes through the layers is decided at the first batch.
template <class T>
class Tracer {
  public:
    Tracer(std::shared_ptr<DenseStack> stack, const std::vector<std::string>& keep, bool one_call, std::size_t every,
           std::size_t memory)
        : stack_(std::move(stack)),
          options_{.keep = {keep.begin(), keep.end()}, .one_call = one_call, .every = every},
          memory_(memory) {}

    py::dict add(const py::object& x_object, const py::object& target, const std::string& loss,
                 const py::object& cotangent_object, std::uint64_t seed, const std::string& label) {
        // A readout takes what a recurrent network gave, which may be infinite or NaN and is reported there.
        const py::array x = checked_input<T>(*stack_, x_object, "x" + label, !options_.keeps("grad_input"));
        const auto batch = static_cast<std::size_t>(x.shape(0));
        open(batch);
        const Cotangent<T> cotangent =
            checked_cotangent<T>(*stack_, x.shape(0), target, loss, cotangent_object, seed, tracer_->samples(), label);
        ResultFigures<T> figures;
        const CallOutputs<T> out = tracer_->outputs(batch, figures);
        run_op("x" + label, batch_text(batch), [&](Interrupt& interrupt) {
            tracer_->add(static_cast<const T*>(x.data()), batch, cotangent, out, interrupt);
        });
        return figures.dict;
    }

    py::dict finish() {
        ResultFigures<T> figures;
        put_results(*tracer_, figures);
        return figures.dict;
    }

    // Bytes of the figures of such a call, and of the arrays that are kept.
    py::tuple memory(std::size_t batch) {
        open(batch);
        const CountedFigures<T> counted = tracer_->memory(batch);
        return py::make_tuple(counted.figure_bytes, counted.kept_bytes);
    }

  private:
    void open(std::size_t batch) {
        if (tracer_) return;
        try {
            tracer_ = open_tracer(active_isa(), stack_->source<T>(), options_, batch, memory_);
        } catch (const MemoryTooSmall& small) {
            fail_value("memory", "at least " + std::to_string(small.least) + " bytes for this trace",
                       std::to_string(memory_));
        }
    }

    std::shared_ptr<DenseStack> stack_;
    TraceOptions options_;
    std::size_t memory_;  // 0: not given
    std::unique_ptr<AnyStackTracer<T>> tracer_;
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
        .def("memory", &Tracer<T>::memory, py::arg("batch"))
        .def("finish", &Tracer<T>::finish);
}

py::object make_tracer(const std::shared_ptr<DenseStack>& stack, const std::vector<std::string>& keep, bool one_call,
                       std::size_t every, std::size_t memory) {
    if (stack->is_float32) return py::cast(std::make_unique<Tracer<float>>(stack, keep, one_call, every, memory));
    return py::cast(std::make_unique<Tracer<double>>(stack, keep, one_call, every, memory));
}

// One entry a layer; equal ones in a row are one object.
template <class Value, class Make>
py::tuple of_layers(std::size_t count, Value&& value, Make&& make) {
    py::tuple all(count);
    py::object made;
    for (std::size_t l = 0; l < count; ++l) {
        if (l == 0 || value(l) != value(l - 1)) made = make(value(l));
        all[l] = made;
    }
    return all;
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
        .def(py::init(&make_drawn_stack), py::arg("sizes"), py::arg("is_float32"), py::arg("weight_law"),
             py::arg("seed"), py::arg("weight_factor"), py::arg("bias_law"), py::arg("bias_factor"),
             py::arg("activation"), py::arg("residual"), py::arg("layer_norm"))
        .def_property_readonly(
            "residual",
            [](const DenseStack& s) {
                return of_layers(
                    s.depth(), [&](std::size_t l) { return s.residual[l]; },
                    [](double scale) { return scale == 0 ? py::object(py::none()) : py::object(py::float_(scale)); });
            })
        .def_property_readonly("normalised",
                               [](const DenseStack& s) {
                                   return of_layers(
                                       s.depth(), [&](std::size_t l) -> bool { return s.normalised[l]; },
                                       [](bool on) { return py::object(py::bool_(on)); });
                               })
        .def_property_readonly("layer_norm",
                               [](const DenseStack& s) {
                                   py::tuple layers(s.depth());
                                   for (std::size_t l = 0; l < s.depth(); ++l)
                                       layers[l] = s.normalised[l]
                                                       ? py::object(py::make_tuple(s.norm_weights[l], s.norm_biases[l]))
                                                       : py::object(py::none());
                                   return layers;
                               })
        .def_property_readonly("weights", [](const DenseStack& s) { return py::tuple(py::cast(s.weights)); })
        .def_property_readonly("biases", [](const DenseStack& s) { return py::tuple(py::cast(s.biases)); })
        .def_property_readonly("sizes",
                               [](const DenseStack& s) {
                                   return of_layers(
                                       s.sizes.size(), [&](std::size_t l) { return s.sizes[l]; },
                                       [](py::ssize_t size) { return py::object(py::int_(size)); });
                               })
        .def_property_readonly("activation",
                               [](const DenseStack& s) {
                                   return of_layers(
                                       s.depth(), [&](std::size_t l) { return s.activation[l]; },
                                       [&](std::uint32_t i) { return py::object(py::str(s.activations[i].name)); });
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
        .def("tracer", &make_tracer, py::arg("keep"), py::arg("one_call"), py::arg("every") = 1, py::arg("memory") = 0);
    bind_tracer<float>(module, "StackTracerF32");
    bind_tracer<double>(module, "StackTracerF64");
}

}  // namespace gt
