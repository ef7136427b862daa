// Singular values of Jacobians.
#include "bindings/bind.h"
#include "bindings/checked_stack.h"
#include "bindings/result_figures.h"
#include "bindings/run_op.h"
#include "ops/stack_spectrum.h"

namespace gt {
namespace {

// Of a float64 stack and x that a trace would take: (batch, values).
py::array_t<double> spectrum_of_stack(const DenseStack& stack, const py::array_t<double, py::array::c_style>& x,
                                      std::size_t first, std::size_t last) {
    const auto batch = static_cast<std::size_t>(x.shape(0));
    const std::vector<DenseLayer<double>> layers = stack.layers<double>();
    StackTracer<double> tracer(active_isa(), layers, {{"activations", "derivatives"}, true});
    ResultFigures<double> figures;
    const CallOutputs<double> out = tracer.outputs(batch, figures);
    py::array_t<double> log2 = result_array({x.shape(0), std::min(stack.sizes[first], stack.sizes[last])});
    const StackJacobians at{x.data(), batch, out.activations, out.derivatives};
    const Cotangent<double> start = checked_cotangent<double>(stack, x.shape(0), py::none(), "", py::none(), 0, 0, "");
    run_op("x", "the spectra of " + std::to_string(batch) + " samples", [&](Interrupt& interrupt) {
        tracer.add(x.data(), batch, start, out, interrupt);
        stack_spectrum(layers, at, first, last, log2.mutable_data(), interrupt);
    });
    return log2;
}

}  // namespace

void bind_spectrum(py::module_& module) {
    module.def("stack_spectrum", &spectrum_of_stack, py::arg("stack"), py::arg("x"), py::arg("first"), py::arg("last"));
}

}  // namespace gt
