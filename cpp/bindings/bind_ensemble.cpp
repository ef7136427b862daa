// Ensembles of random stacks. What comes here was checked in gradtrace/ensembles; names of laws and figures are its.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "bindings/checked_stack.h"
#include "bindings/result_array.h"
#include "bindings/run_op.h"
#include "ops/ensemble.h"

namespace gt {
namespace {

template <class V>
V get(const py::dict& from, const char* key) {
    return py::cast<V>(from[key]);
}

template <class T>
DenseLayer<T> layer_of(const py::dict& network, const char* activation) {
    const CheckedActivation checked = checked_activation(network[activation], activation);
    DenseLayer<T> layer{};
    layer.activation = checked.index;
    layer.parameter = checked.parameter;
    layer.info = checked.info;
    layer.residual = get<double>(network, "residual");
    return layer;
}

template <class T>
EnsembleSpec<T> spec_of(const py::dict& network, std::size_t samples) {
    const auto law = get<std::string>(network, "weight_law");
    const auto bias_law = get<std::string>(network, "bias_law");
    EnsembleSpec<T> spec{};
    spec.width = get<std::size_t>(network, "width");
    spec.depth = get<std::size_t>(network, "depth");
    spec.samples = samples;
    spec.law = law == "orthogonal" ? MatrixLaw::orthogonal : law == "normal" ? MatrixLaw::normal : MatrixLaw::uniform;
    spec.weight_factor = get<double>(network, "weight_factor");
    spec.bias_factor = get<double>(network, "bias_factor");
    spec.has_bias = spec.bias_factor != 0;
    spec.bias_law = bias_law == "normal" ? Law::normal : Law::uniform;
    spec.hidden = layer_of<T>(network, "activation");
    spec.hidden.normalised = get<bool>(network, "layer_norm");  // as layer_norm=True has it: not the last
    spec.output = layer_of<T>(network, "output_activation");
    return spec;
}

// Figures (N, rows, entries) by name, and how many networks were traced by StackTracer.
template <class T>
py::tuple trace(const py::dict& network, const std::vector<std::uint64_t>& seeds, std::size_t samples,
                const py::object& inputs, double similarity, const std::vector<std::string>& names,
                std::size_t keep_bytes) {
    EnsembleSpec<T> spec = spec_of<T>(network, samples);
    py::array_t<T, py::array::c_style> x;
    if (!inputs.is_none()) {
        x = py::cast<py::array_t<T, py::array::c_style>>(inputs);
        spec.inputs = x.data();
    }
    spec.similarity = similarity;
    py::dict figures;
    EnsembleOutputs out{};
    for (std::size_t f = 0; f < kEnsembleFigures; ++f) {
        const EnsembleFigureInfo& info = ensemble_figures()[f];
        if (std::find(names.begin(), names.end(), info.name) == names.end()) continue;
        py::array_t<double> figure =
            result_array({static_cast<py::ssize_t>(seeds.size()), static_cast<py::ssize_t>(spec.rows_of(info)),
                          static_cast<py::ssize_t>(spec.entries_of(info))});
        out[f] = figure.mutable_data();
        figures[info.name] = figure;
    }
    std::size_t exact = 0;
    const IsaKernels& isa = active_isa();
    run_op("width", "networks of " + std::to_string(spec.width) + " units",
           [&](Interrupt& interrupt) { exact = trace_ensemble(isa, spec, seeds, keep_bytes, out, interrupt); });
    return py::make_tuple(figures, exact);
}

// (samples, width) twice: what the network of this seed is traced with.
template <class T>
py::tuple inputs_of(std::uint64_t seed, std::size_t samples, std::size_t width, double similarity) {
    EnsembleSpec<T> spec{};
    spec.width = width;
    spec.samples = samples;
    spec.similarity = similarity;
    const std::vector<std::size_t> shape{samples, width};
    py::array_t<T> x(shape), cotangent(shape);
    draw_ensemble_inputs(active_isa(), spec, seed, x.mutable_data());
    draw_ensemble_cotangent(active_isa(), spec, seed, cotangent.mutable_data());
    return py::make_tuple(x, cotangent);
}

}  // namespace

void bind_ensemble(py::module_& module) {
    py::dict figures;
    for (const EnsembleFigureInfo& info : ensemble_figures()) {
        using Of = EnsembleFigureInfo::Of;
        using Entries = EnsembleFigureInfo::Entries;
        figures[info.name] = py::make_tuple(info.of == Of::sample ? "sample"
                                            : info.of == Of::pair ? "pair"
                                                                  : "network",
                                            info.entries == Entries::one      ? "one"
                                            : info.entries == Entries::values ? "values"
                                                                              : "layers");
    }
    module.attr("ENSEMBLE_FIGURES") = figures;
    module.def(
        "trace_ensemble",
        [](const py::dict& network, const std::vector<std::uint64_t>& seeds, std::size_t samples,
           const py::object& inputs, double similarity, const std::vector<std::string>& figures, bool float32,
           std::size_t keep_bytes) {
            return (float32 ? trace<float> : trace<double>)(network, seeds, samples, inputs, similarity, figures,
                                                            keep_bytes);
        },
        py::arg("network"), py::arg("seeds"), py::arg("samples"), py::arg("inputs"), py::arg("similarity"),
        py::arg("figures"), py::arg("float32"), py::arg("keep_bytes"),
        "Trace the networks of these seeds: figures by name, (networks, samples, entries), and how many of them the "
        "fast way could not.");
    module.def(
        "ensemble_inputs",
        [](std::uint64_t seed, std::size_t samples, std::size_t width, double similarity, bool float32) {
            return (float32 ? inputs_of<float> : inputs_of<double>)(seed, samples, width, similarity);
        },
        py::arg("seed"), py::arg("samples"), py::arg("width"), py::arg("similarity"), py::arg("float32"),
        "Inputs and output gradients, (samples, width) each, of the network of this seed.");
}

}  // namespace gt
