// Singular values of Jacobians, Lyapunov exponents.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "bindings/checked_recurrent.h"
#include "bindings/checked_stack.h"
#include "bindings/result_figures.h"
#include "bindings/run_op.h"
#include "ops/lyapunov.h"
#include "ops/recurrent_spectrum.h"
#include "ops/stack_spectrum.h"

namespace gt {
namespace {

// Of a float64 stack and x that a trace would take: (batch, values).
py::array_t<double> spectrum_of_stack(const DenseStack& stack, const py::array_t<double, py::array::c_style>& x,
                                      std::size_t first, std::size_t last) {
    const auto batch = static_cast<std::size_t>(x.shape(0));
    DrawnArrays<double> own;
    std::vector<DenseLayer<double>> layers;
    run_op("x", "all weights", [&](Interrupt& interrupt) { layers = stack.layers<double>(&own, interrupt); });
    StackTracer<double> tracer(active_isa(), layers, {.keep = {"activations", "derivatives"}});
    ResultFigures<double> figures;
    const CallOutputs<double> out = tracer.outputs(batch, figures);
    py::array_t<double> log2 = result_array({x.shape(0), std::min(stack.sizes[first], stack.sizes[last])});
    const StackJacobians at{x.data(), batch, out.activations, out.derivatives};
    const Cotangent<double> start = checked_cotangent<double>(stack, x.shape(0), py::none(), "", py::none(), 0, 0, "");
    double* to = log2.mutable_data();
    run_op("x", "the spectra of " + std::to_string(batch) + " samples", [&](Interrupt& interrupt) {
        tracer.add(x.data(), batch, start, out, interrupt);
        stack_spectrum(active_isa(), layers, at, first, last, to, interrupt);
    });
    return log2;
}

DrivenSequences driven(const Sequences<double>& s) {
    return {static_cast<const double*>(s.x.data()), s.steps, s.batch, s.h0.layers, s.c0.layers};
}

// Of a float64 network of one direction, spans (batch, 2): (batch, state size).
py::array_t<double> spectrum_of_recurrent(const RecurrentParameters& net, const py::object& x, const py::object& h0,
                                          const py::object& c0,
                                          const py::array_t<std::int64_t, py::array::c_style>& spans) {
    const Sequences<double> s = checked_sequences<double>(net, x, h0, c0, py::none());
    const RecurrentNetwork<double> network = net.network<double>();
    const DrivenSequences at = driven(s);
    py::array_t<double> log2 =
        result_array({static_cast<py::ssize_t>(s.batch), static_cast<py::ssize_t>(state_size(network))});
    require_shape(spans, "spans", {static_cast<py::ssize_t>(s.batch), 2}, "(batch, 2)");
    const std::int64_t* from = spans.data();
    double* to = log2.mutable_data();
    run_op("x", "the spectra of " + s.what(),
           [&](Interrupt& interrupt) { recurrent_spectrum(active_isa(), network, at, from, to, interrupt); });
    return log2;
}

// edges (batch, parts + 1), within each sample's steps: (parts, batch, count).
py::array_t<double> lyapunov(const RecurrentParameters& net, const py::object& x, const py::object& h0,
                             const py::object& c0, std::size_t count,
                             const py::array_t<std::int64_t, py::array::c_style>& edges) {
    const Sequences<double> s = checked_sequences<double>(net, x, h0, c0, py::none());
    const RecurrentNetwork<double> network = net.network<double>();
    const DrivenSequences at = driven(s);
    require_shape(edges, "edges", {static_cast<py::ssize_t>(s.batch), -1}, "(batch, parts + 1)");
    const py::ssize_t parts = edges.shape(1) - 1;
    const std::int64_t* from = edges.data();
    py::array_t<double> sums =
        result_array({parts, static_cast<py::ssize_t>(s.batch), static_cast<py::ssize_t>(count)});
    double* to = sums.mutable_data();
    run_op("x", "the exponents of " + s.what(), [&](Interrupt& interrupt) {
        lyapunov_sums(active_isa(), network, at, count, static_cast<std::size_t>(parts), from, to, interrupt);
    });
    return sums;
}

}  // namespace

void bind_spectrum(py::module_& module) {
    module.def("stack_spectrum", &spectrum_of_stack, py::arg("stack"), py::arg("x"), py::arg("first"), py::arg("last"));
    module.def("recurrent_spectrum", &spectrum_of_recurrent, py::arg("network"), py::arg("x"), py::arg("h0"),
               py::arg("c0"), py::arg("spans"));
    module.def("lyapunov", &lyapunov, py::arg("network"), py::arg("x"), py::arg("h0"), py::arg("c0"), py::arg("count"),
               py::arg("edges"));
}

}  // namespace gt
