// The arrays of a recurrent trace's figures: allocated by name, filled by the op, handed to Python as one dict.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "bindings/checked_recurrent.h"
#include "bindings/result_array.h"

namespace gt {

template <class T>
class RecurrentFigures {
  public:
    using Size = py::ssize_t;

    RecurrentFigures(const RecurrentParameters& net, std::size_t steps, std::size_t batch,
                     const std::vector<std::string>& keep)
        : directions(net.layers()),
          forwards(net.layers()),
          net_(net),
          steps_(steps),
          batch_(batch),
          keep_(keep.begin(), keep.end()) {}

    std::vector<DirectionOutputs<T>> directions;
    std::vector<ForwardOutputs<T>> forwards;

    void allocate() {
        allocate_states();
        allocate_gates();
        allocate_steps();
        allocate_kept();
    }

    // An array of NaN under `name`; what is never written is past a sample's end.
    double* nan_array(const char* name, const std::vector<Size>& shape) {
        py::array_t<double> array = result_array(shape);
        std::fill(array.mutable_data(), array.mutable_data() + array.size(), kNaN);
        figures_[name] = array;
        return array.mutable_data();
    }

    // Scaled rows under `name` where they are to be kept, NaN until written.
    KeptRows<T> kept(const char* name, std::vector<Size> shape, std::size_t width) {
        if (!keep_.count(name)) return {};
        py::array_t<std::int64_t> exponent(shape);
        shape.push_back(static_cast<Size>(width));
        py::array_t<T> mantissa(shape);
        std::fill(mantissa.mutable_data(), mantissa.mutable_data() + mantissa.size(), static_cast<T>(kNaN));
        std::fill(exponent.mutable_data(), exponent.mutable_data() + exponent.size(), std::int64_t{0});
        figures_[name] = py::make_tuple(mantissa, exponent);
        return {mantissa.mutable_data(), exponent.mutable_data()};
    }

    void collect_gradients(const RecurrentTracer<T>& tracer) {
        const auto collect = [&](const char* figure, const char* name, auto&& gradient_of, auto&& columns_of) {
            double* norms = nan_array(figure, {layers()});
            py::list list;
            for (std::size_t k = 0; k < net_.layers(); ++k) {
                const auto& gradient = gradient_of(tracer.gradients(k));
                norms[k] = gradient.log2_norm;
                if (!keep_.count(name)) continue;
                const std::size_t columns = columns_of(k);
                std::vector<Size> shape{static_cast<Size>(net_.cell().weight_blocks * net_.hidden(k))};
                if (columns) shape.push_back(static_cast<Size>(columns));
                py::array_t<T> mantissa(shape);
                std::vector<T> plain(gradient.value.data(), gradient.value.data() + gradient.value.size());
                std::int64_t exponent = 0;
                if (!keep_row(plain.size(), plain.data(), gradient.exponent, mantissa.mutable_data(), &exponent))
                    fail_overflow("keep", "exponents within int64", "one beyond");
                list.append(py::make_tuple(mantissa, exponent));
            }
            if (keep_.count(name)) figures_[name] = list;
        };
        using G = DirectionGradients<T>;
        const auto inputs = [&](std::size_t k) { return static_cast<std::size_t>(net_.weight_ih[k].shape(1)); };
        const auto hidden = [&](std::size_t k) { return net_.hidden(k); };
        const auto none = [](std::size_t) { return std::size_t{0}; };
        const bool two_biases = net_.cell().separate_biases;
        collect("log2_grad_weight_ih", "grad_weight_ih", [](const G& g) -> const auto& { return g.ih; }, inputs);
        collect("log2_grad_weight_hh", "grad_weight_hh", [](const G& g) -> const auto& { return g.hh; }, hidden);
        collect(
            two_biases ? "log2_grad_bias_ih" : "log2_grad_bias", two_biases ? "grad_bias_ih" : "grad_bias",
            [](const G& g) -> const auto& { return g.bias_ih; }, none);
        if (two_biases)
            collect("log2_grad_bias_hh", "grad_bias_hh", [](const G& g) -> const auto& { return g.bias_hh; }, none);
    }

    py::dict result() const { return figures_; }

  private:
    Size steps() const { return static_cast<Size>(steps_); }
    Size batch() const { return static_cast<Size>(batch_); }
    Size layers() const { return static_cast<Size>(net_.layers()); }

    // Of every layer, entries x batch rows of blocks * hidden: one pair of arrays, or a list of pairs where the layers
    // differ in width.
    std::vector<KeptRows<T>> kept_layers(const char* name, Size entries, std::size_t blocks) {
        std::vector<KeptRows<T>> rows(net_.layers());
        if (!keep_.count(name)) return rows;
        if (net_.uniform()) {
            const std::size_t width = blocks * net_.hidden(0), each = static_cast<std::size_t>(entries) * batch_;
            const KeptRows<T> all = kept(name, {layers(), entries, batch()}, width);
            for (std::size_t k = 0; k < rows.size(); ++k)
                rows[k] = {all.mantissa + k * each * width, all.exponent + k * each};
            return rows;
        }
        py::list list;
        for (std::size_t k = 0; k < rows.size(); ++k) {
            rows[k] = kept(name, {entries, batch()}, blocks * net_.hidden(k));
            list.append(figures_[name]);
        }
        figures_[name] = list;
        return rows;
    }

    void allocate_states() {
        const std::size_t each = (steps_ + 1) * batch_;
        const auto table = [&](const char* name, double* DirectionFigures<T>::* field) {
            double* to = nan_array(name, {layers(), steps() + 1, batch()});
            for (std::size_t k = 0; k < net_.layers(); ++k) directions[k].figures.*field = to + k * each;
        };
        using F = DirectionFigures<T>;
        table("log2_dh", &F::dh);
        if (net_.cell().has_cell_state) {
            table("log2_dc", &F::dc);
            table("log2_dc_direct", &F::direct);
            table("log2_dc_gated", &F::gated);
        } else if (net_.cell().carries) {
            table("log2_dh_direct", &F::direct);
            table("log2_dh_gated", &F::gated);
        }
    }

    void allocate_gates() {
        const std::size_t gates = net_.cell().gates, per_step = steps_ * gates;
        if (gates == 0) return;
        const auto g = static_cast<Size>(gates);
        double *mean = nan_array("gate_mean", {layers(), steps(), g}),
               *saturated = nan_array("gate_saturated", {layers(), steps(), g}),
               *retention = nan_array("log2_retention", {layers(), steps() + 1, batch()}),
               *half_life = nan_array("forget_half_life", {layers()});
        LayerArrays<double> by_unit;
        allocate_units("forget_half_life_unit", &by_unit);
        for (std::size_t k = 0; k < net_.layers(); ++k) {
            ForwardOutputs<T>& o = forwards[k];
            o.gate_mean = mean + k * per_step;
            o.gate_saturated = saturated + k * per_step;
            o.log2_retention = retention + k * (steps_ + 1) * batch_;
            o.forget_half_life = half_life + k;
            o.half_life_by_unit = by_unit[k];
        }
    }

    // (layers, hidden), or a list of (hidden,) where the layers differ in width.
    void allocate_units(const char* name, LayerArrays<double>* to) {
        if (net_.uniform()) {
            double* all = nan_array(name, {layers(), static_cast<Size>(net_.hidden(0))});
            for (std::size_t k = 0; k < net_.layers(); ++k) to->push_back(all + k * net_.hidden(0));
            return;
        }
        py::list list;
        for (std::size_t k = 0; k < net_.layers(); ++k) {
            to->push_back(nan_array(name, {static_cast<Size>(net_.hidden(k))}));
            list.append(figures_[name]);
        }
        figures_[name] = list;
    }

    void allocate_steps() {
        const auto table = [&](const char* name, double* StepNorms::* field) {
            double* to = nan_array(name, {layers(), steps()});
            for (std::size_t k = 0; k < net_.layers(); ++k) directions[k].steps.*field = to + k * steps_;
        };
        const bool two_biases = net_.cell().separate_biases;
        table("log2_grad_weight_ih_step", &StepNorms::ih);
        table("log2_grad_weight_hh_step", &StepNorms::hh);
        table(two_biases ? "log2_grad_bias_ih_step" : "log2_grad_bias_step", &StepNorms::bias_ih);
        if (two_biases) table("log2_grad_bias_hh_step", &StepNorms::bias_hh);
        if (net_.cell().gates) return;
        const std::size_t each = steps_ * batch_;
        const auto per_sample = [&](const char* name, double* DirectionFigures<T>::* field) {
            double* to = nan_array(name, {layers(), steps(), batch()});
            for (std::size_t k = 0; k < net_.layers(); ++k) directions[k].figures.*field = to + k * each;
        };
        per_sample("log2_dz", &DirectionFigures<T>::dz);
        per_sample("activation_gain", &DirectionFigures<T>::activation_gain);
        per_sample("weight_gain", &DirectionFigures<T>::weight_gain);
    }

    void allocate_kept() {
        const bool has_c = net_.cell().has_cell_state, carries = net_.cell().carries;
        const auto of_states = [&](const char* name) { return kept_layers(name, steps() + 1, 1); };
        const auto of_steps = [&](const char* name) { return kept_layers(name, steps(), net_.cell().weight_blocks); };
        const auto dh = of_states("dh"), dc = of_states("dc"), direct = of_states(has_c ? "dc_direct" : "dh_direct"),
                   gated = of_states(has_c ? "dc_gated" : "dh_gated"), dgates = of_steps(carries ? "dgates" : "dz"),
                   gate_values = of_steps("gates"), h = of_states("h"), c = of_states("c");
        for (std::size_t k = 0; k < net_.layers(); ++k) {
            directions[k].figures.kept_dh = dh[k];
            directions[k].figures.kept_dc = dc[k];
            directions[k].figures.kept_direct = direct[k];
            directions[k].figures.kept_gated = gated[k];
            directions[k].kept_dgates = dgates[k];
            forwards[k].kept_gates = gate_values[k];
            forwards[k].kept_h = h[k];
            forwards[k].kept_c = c[k];
        }
    }

    const RecurrentParameters& net_;
    std::size_t steps_, batch_;
    std::set<std::string> keep_;
    py::dict figures_;
};

}  // namespace gt
