// Random recurrent networks of one law: the arrays of one, and the figures of many.
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "bindings/bind.h"
#include "bindings/checked_recurrent.h"
#include "bindings/result_array.h"
#include "bindings/run_op.h"
#include "ops/recurrent_ensemble.h"

namespace gt {
namespace {

using NamedLaw = std::pair<std::string, double>;
using Size = py::ssize_t;

BlockLaw block_law(const NamedLaw& law) {
    const std::pair<const char*, BlockLaw::Kind> kinds[] = {{"normal", BlockLaw::Kind::normal},
                                                            {"uniform", BlockLaw::Kind::uniform},
                                                            {"orthogonal", BlockLaw::Kind::orthogonal}};
    for (const auto& [name, kind] : kinds)
        if (law.first == name) return {kind, law.second};
    fail_value("law", "'normal', 'uniform' or 'orthogonal'", shortened(law.first));
}

RecurrentLaw make_law(const std::string& kind, std::size_t inputs, std::size_t hidden, std::size_t depth,
                      std::size_t directions, const NamedLaw& first_ih, const NamedLaw& ih, const NamedLaw& hh,
                      double bias_limit, const std::string& forget, double forget_number, std::size_t forget_block,
                      std::size_t input_block) {
    const ForgetBias::Kind forget_kind = forget == "value"    ? ForgetBias::Kind::value
                                         : forget == "chrono" ? ForgetBias::Kind::chrono
                                                              : ForgetBias::Kind::left;
    return {cell_kind(kind), inputs,
            hidden,          depth,
            directions,      block_law(first_ih),
            block_law(ih),   block_law(hh),
            bias_limit,      {forget_kind, forget_number, {forget_block, input_block}}};
}

// (n, m) or, without m, (n,).
template <class T>
T* append(py::list* list, std::size_t n, std::size_t m = 0) {
    std::vector<Size> shape{static_cast<Size>(n)};
    if (m) shape.push_back(static_cast<Size>(m));
    py::array_t<T> array(shape);
    list->append(array);
    return array.mutable_data();
}

template <class T>
py::dict draw(const RecurrentLaw& law, std::uint64_t seed) {
    py::list weight_ih, weight_hh, bias_ih, bias_hh;
    std::vector<LayerParameters<T>> layers;
    for (std::size_t k = 0; k < law.layers(); ++k)
        layers.push_back({append<T>(&weight_ih, law.rows(), law.inputs_of(k)),
                          append<T>(&weight_hh, law.rows(), law.hidden), append<T>(&bias_ih, law.rows()),
                          append<T>(&bias_hh, law.rows())});
    run_op("hidden_size", "a layer of " + std::to_string(law.hidden) + " units", [&](Interrupt& interrupt) {
        for (std::size_t k = 0; k < layers.size(); ++k)
            draw_recurrent_layer(active_isa(), law, seed, k, layers[k], interrupt);
    });
    py::dict arrays;
    arrays["weight_ih"] = weight_ih;
    arrays["weight_hh"] = weight_hh;
    arrays["bias_ih"] = bias_ih;
    arrays["bias_hh"] = bias_hh;
    return arrays;
}

// `array` of the networks' dtype and finite, or null where there is none.
template <class T>
const T* checked_given(const py::object& array, const std::string& name, const std::vector<Size>& shape,
                       const std::string& expected) {
    if (array.is_none()) return nullptr;
    const py::array given = checked_array<T>(array, name, " (the networks')");
    require_shape(given, name, shape, expected);
    require_finite<T>(given, name);
    return static_cast<const T*>(given.data());
}

std::string sizes_text(const std::vector<Size>& sizes) {
    std::string text;
    for (const Size size : sizes) text += (text.empty() ? "(" : ", ") + std::to_string(size);
    return text + ")";
}

// Those of `names`, in that order.
std::vector<EnsembleFigure> named_figures(const std::vector<EnsembleFigure>& all, const std::vector<std::string>& names,
                                          const char* cell) {
    std::vector<EnsembleFigure> figures;
    for (const std::string& name : names) {
        const auto found =
            std::find_if(all.begin(), all.end(), [&](const EnsembleFigure& figure) { return figure.name == name; });
        if (found == all.end())
            fail_value("figures", std::string("figures of the cell ") + cell, shortened(py::str(name)));
        figures.push_back(*found);
    }
    return figures;
}

template <class T>
py::dict trace_networks(const RecurrentLaw& law, const py::object& seeds, std::size_t steps, std::size_t samples,
                        const py::object& x, const py::object& cotangent, bool every_step,
                        const std::vector<std::string>& names) {
    if (steps == 0) fail_value("steps", "at least 1", "0");
    if (samples == 0) fail_value("samples", "at least 1", "0");
    const py::array given = checked_array<std::uint64_t>(seeds, "seeds", "");
    require_shape(given, "seeds", {-1}, "(networks,)");
    const auto* first = static_cast<const std::uint64_t*>(given.data());
    const std::vector<std::uint64_t> own_seeds(first, first + given.size());

    RecurrentEnsemble<T> ensemble{law, steps, samples, nullptr, nullptr, every_step};
    const auto t = static_cast<Size>(steps), b = static_cast<Size>(samples);
    const std::vector<Size> of_x{t, b, static_cast<Size>(law.inputs)};
    std::vector<Size> of_cotangent{b, static_cast<Size>(ensemble.outputs())};
    if (every_step) of_cotangent.insert(of_cotangent.begin(), t);
    ensemble.x = checked_given<T>(x, "x", of_x, sizes_text(of_x));
    ensemble.cotangent = checked_given<T>(cotangent, "cotangent", of_cotangent, sizes_text(of_cotangent));

    const std::vector<EnsembleFigure> figures =
        named_figures(ensemble_figures(ensemble), names, cell_shape(law.kind).name);
    std::size_t need = trace_bytes(ensemble);
    for (const EnsembleFigure& figure : figures)
        need = checked_add(need, checked_multiply(checked_multiply(own_seeds.size(), figure.size()), sizeof(double)));
    if (need > physical_memory_bytes())
        fail_memory("seeds, steps, samples", "the figures and a trace need " + std::to_string(need) + " bytes",
                    "use fewer at a time");
    py::dict result;
    std::vector<double*> out;
    for (const EnsembleFigure& figure : figures) {
        std::vector<Size> shape{given.size()};
        shape.insert(shape.end(), figure.shape.begin(), figure.shape.end());
        py::array_t<double> array = result_array(shape);
        out.push_back(array.mutable_data());
        result[figure.name.c_str()] = array;
    }
    run_op("steps", std::to_string(samples) + " sequences of " + std::to_string(steps) + " steps",
           [&](Interrupt& interrupt) {
               trace_recurrent_ensemble(active_isa(), ensemble, own_seeds, figures, out, interrupt);
           });
    return result;
}

}  // namespace

void bind_recurrent_ensemble(py::module_& module) {
    py::class_<RecurrentLaw>(module, "RecurrentLaw")
        .def(py::init(&make_law), py::arg("kind"), py::arg("inputs"), py::arg("hidden"), py::arg("depth"),
             py::arg("directions"), py::arg("first_ih"), py::arg("ih"), py::arg("hh"), py::arg("bias_limit"),
             py::arg("forget"), py::arg("forget_number"), py::arg("forget_block"), py::arg("input_block"))
        .def(
            "draw",
            [](const RecurrentLaw& law, std::uint64_t seed, bool is_float32) {
                return is_float32 ? draw<float>(law, seed) : draw<double>(law, seed);
            },
            py::arg("seed"), py::arg("is_float32"));
    module.def(
        "trace_recurrent_ensemble",
        [](const RecurrentLaw& law, const py::object& seeds, std::size_t steps, std::size_t samples,
           const py::object& x, const py::object& cotangent, bool every_step, bool is_float32,
           const std::vector<std::string>& figures) {
            return is_float32 ? trace_networks<float>(law, seeds, steps, samples, x, cotangent, every_step, figures)
                              : trace_networks<double>(law, seeds, steps, samples, x, cotangent, every_step, figures);
        },
        py::arg("law"), py::arg("seeds"), py::arg("steps"), py::arg("samples"), py::arg("x"), py::arg("cotangent"),
        py::arg("every_step"), py::arg("is_float32"), py::arg("figures"));
}

}  // namespace gt
