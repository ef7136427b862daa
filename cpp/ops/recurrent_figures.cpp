#include "ops/recurrent_figures.h"

#include <algorithm>

namespace gt {

template <class T>
RecurrentFigures<T>::RecurrentFigures(const RecurrentNetwork<T>& network, std::size_t steps, std::size_t batch,
                                      const Names& keep, Figures<T>& to)
    : directions(network.layers.size()),
      forwards(network.layers.size()),
      network_(network),
      cell_(cell_shape(network.kind)),
      steps_(steps),
      batch_(batch),
      keep_(keep),
      to_(to) {
    place_states();
    place_gates();
    place_steps();
    place_gradients();
    place_kept();
}

template <class T>
bool RecurrentFigures<T>::uniform() const {
    return std::all_of(network_.layers.begin(), network_.layers.end(),
                       [&](const RecurrentLayer<T>& layer) { return layer.hidden == hidden(0); });
}

template <class T>
double* RecurrentFigures<T>::blank(const char* name, const Extents& shape) {
    double* to = to_.figure(name, shape);
    if (to) std::fill_n(to, entries_of(shape), kNaN);
    return to;
}

// One array (layers, shape...), as each layer's own.
template <class T>
LayerArrays<double> RecurrentFigures<T>::of_layers(const char* name, const Extents& shape) {
    Extents all{layers()};
    all.insert(all.end(), shape.begin(), shape.end());
    double* to = blank(name, all);
    LayerArrays<double> each;
    for (std::size_t k = 0; k < layers(); ++k) each.push_back(to ? to + k * entries_of(shape) : nullptr);
    return each;
}

// (layers, hidden), or one (hidden,) each where the layers differ in width.
template <class T>
LayerArrays<double> RecurrentFigures<T>::of_units(const char* name) {
    if (uniform()) return of_layers(name, {hidden(0)});
    std::vector<Extents> shapes;
    for (std::size_t k = 0; k < layers(); ++k) shapes.push_back({hidden(k)});
    LayerArrays<double> each = to_.figure_of_layers(name, shapes);
    for (std::size_t k = 0; k < layers(); ++k)
        if (each[k]) std::fill_n(each[k], hidden(k), kNaN);
    return each;
}

template <class T>
static void fill_blank(const KeptRows<T>& rows, std::size_t count, std::size_t width) {
    if (!rows) return;
    std::fill_n(rows.mantissa, count * width, static_cast<T>(kNaN));
    std::fill_n(rows.exponent, count, std::int64_t{0});
}

// entries x batch rows of blocks * hidden of every layer: one array, or one each where the layers differ in width.
template <class T>
std::vector<KeptRows<T>> RecurrentFigures<T>::kept_layers(const char* name, std::size_t entries, std::size_t blocks) {
    std::vector<KeptRows<T>> each(layers());
    if (!keeps(name)) return each;
    const std::size_t count = entries * batch_;
    if (uniform()) {
        const std::size_t width = blocks * hidden(0);
        const KeptRows<T> all = to_.kept(name, {layers(), entries, batch_}, {width});
        for (std::size_t k = 0; all && k < layers(); ++k)
            each[k] = {all.mantissa + k * count * width, all.exponent + k * count};
    } else {
        std::vector<Extents> widths;
        for (std::size_t k = 0; k < layers(); ++k) widths.push_back({blocks * hidden(k)});
        each = to_.kept_of_layers(name, {entries, batch_}, widths);
    }
    for (std::size_t k = 0; k < layers(); ++k) fill_blank(each[k], count, blocks * hidden(k));
    return each;
}

template <class T>
void RecurrentFigures<T>::place_states() {
    const auto table = [&](const char* name, double* DirectionFigures<T>::* field) {
        const LayerArrays<double> each = of_layers(name, {steps_ + 1, batch_});
        for (std::size_t k = 0; k < layers(); ++k) directions[k].figures.*field = each[k];
    };
    using F = DirectionFigures<T>;
    table("log2_dh", &F::dh);
    if (cell_.has_cell_state) {
        table("log2_dc", &F::dc);
        table("log2_dc_direct", &F::direct);
        table("log2_dc_gated", &F::gated);
    } else if (cell_.carries) {
        table("log2_dh_direct", &F::direct);
        table("log2_dh_gated", &F::gated);
    }
}

template <class T>
void RecurrentFigures<T>::place_gates() {
    if (cell_.gates == 0) return;
    const auto table = [&](double* ForwardOutputs<T>::* field, const LayerArrays<double>& each) {
        for (std::size_t k = 0; k < layers(); ++k) forwards[k].*field = each[k];
    };
    using F = ForwardOutputs<T>;
    table(&F::gate_mean, of_layers("gate_mean", {steps_, cell_.gates}));
    table(&F::gate_saturated, of_layers("gate_saturated", {steps_, cell_.gates}));
    table(&F::log2_retention, of_layers("log2_retention", {steps_ + 1, batch_}));
    table(&F::forget_half_life, of_layers("forget_half_life", {}));
    table(&F::half_life_by_unit, of_units("forget_half_life_unit"));
}

template <class T>
void RecurrentFigures<T>::place_steps() {
    const auto table = [&](const char* name, double* StepNorms::* field) {
        const LayerArrays<double> each = of_layers(name, {steps_});
        for (std::size_t k = 0; k < layers(); ++k) directions[k].steps.*field = each[k];
    };
    table("log2_grad_weight_ih_step", &StepNorms::ih);
    table("log2_grad_weight_hh_step", &StepNorms::hh);
    table(cell_.separate_biases ? "log2_grad_bias_ih_step" : "log2_grad_bias_step", &StepNorms::bias_ih);
    if (cell_.separate_biases) table("log2_grad_bias_hh_step", &StepNorms::bias_hh);
    log2_dx = blank("log2_dx", {steps_, batch_});
    if (cell_.gates) return;
    const auto per_sample = [&](const char* name, double* DirectionFigures<T>::* field) {
        const LayerArrays<double> each = of_layers(name, {steps_, batch_});
        for (std::size_t k = 0; k < layers(); ++k) directions[k].figures.*field = each[k];
    };
    per_sample("log2_dz", &DirectionFigures<T>::dz);
    per_sample("activation_gain", &DirectionFigures<T>::activation_gain);
    per_sample("weight_gain", &DirectionFigures<T>::weight_gain);
}

template <class T>
void RecurrentFigures<T>::place_gradients() {
    const bool two = cell_.separate_biases;
    norm_ih_ = blank("log2_grad_weight_ih", {layers()});
    norm_hh_ = blank("log2_grad_weight_hh", {layers()});
    norm_bias_ih_ = blank(two ? "log2_grad_bias_ih" : "log2_grad_bias", {layers()});
    norm_bias_hh_ = two ? blank("log2_grad_bias_hh", {layers()}) : nullptr;
}

template <class T>
void RecurrentFigures<T>::place_kept() {
    const bool has_c = cell_.has_cell_state, carries = cell_.carries;
    const auto of_states = [&](const char* name) { return kept_layers(name, steps_ + 1, 1); };
    const auto of_steps = [&](const char* name) { return kept_layers(name, steps_, cell_.weight_blocks); };
    const auto dh = of_states("dh"), dc = of_states("dc"), direct = of_states(has_c ? "dc_direct" : "dh_direct"),
               gated = of_states(has_c ? "dc_gated" : "dh_gated"), dgates = of_steps(carries ? "dgates" : "dz"),
               gate_values = of_steps("gates"), h = of_states("h"), c = of_states("c");
    for (std::size_t k = 0; k < layers(); ++k) {
        DirectionFigures<T>& figures = directions[k].figures;
        figures.kept_dh = dh[k];
        figures.kept_dc = dc[k];
        figures.kept_direct = direct[k];
        figures.kept_gated = gated[k];
        directions[k].kept_dgates = dgates[k];
        forwards[k].kept_gates = gate_values[k];
        forwards[k].kept_h = h[k];
        forwards[k].kept_c = c[k];
    }
    if (!keeps("dx")) return;
    dx = to_.kept("dx", {steps_, batch_}, {network_.inputs});
    fill_blank(dx, steps_ * batch_, network_.inputs);
}

// The norm of every layer's gradient, and the gradients where they are kept.
template <class T>
template <class GradientOf, class ShapeOf>
bool RecurrentFigures<T>::write(double* norms, const char* name, GradientOf&& gradient_of, ShapeOf&& shape_of) {
    for (std::size_t k = 0; k < layers(); ++k) norms[k] = gradient_of(k).log2_norm;
    if (!keeps(name)) return true;
    std::vector<Extents> shapes;
    for (std::size_t k = 0; k < layers(); ++k) shapes.push_back(shape_of(k));
    const std::vector<KeptRows<T>> to = to_.kept_of_layers(name, {}, shapes);
    bool fits = true;
    for (std::size_t k = 0; k < layers(); ++k) fits &= keep_sum(gradient_of(k), to[k]);
    return fits;
}

template <class T>
bool RecurrentFigures<T>::write_gradients(const RecurrentTracer<T>& tracer) {
    const auto rows = [&](std::size_t k) { return cell_.weight_blocks * hidden(k); };
    const auto of = [&](auto field) {
        return [&tracer, field](std::size_t k) -> const auto& { return tracer.gradients(k).*field; };
    };
    const auto bias = [&](std::size_t k) { return Extents{rows(k)}; };
    using G = DirectionGradients<T>;
    const bool two = cell_.separate_biases;
    bool fits = write(norm_ih_, "grad_weight_ih", of(&G::ih),
                      [&](std::size_t k) { return Extents{rows(k), network_.layers[k].inputs}; });
    fits &= write(norm_hh_, "grad_weight_hh", of(&G::hh), [&](std::size_t k) { return Extents{rows(k), hidden(k)}; });
    fits &= write(norm_bias_ih_, two ? "grad_bias_ih" : "grad_bias", of(&G::bias_ih), bias);
    if (two) fits &= write(norm_bias_hh_, "grad_bias_hh", of(&G::bias_hh), bias);
    return fits;
}

template <class T>
std::size_t recurrent_state_bytes(const RecurrentNetwork<T>& network, std::size_t steps, std::size_t batch) {
    const CellShape& cell = cell_shape(network.kind);
    const std::size_t rows = checked_multiply(steps, batch), each = cell.row_blocks + 1 + cell.has_cell_state;
    std::size_t bytes = 0;
    for (const RecurrentLayer<T>& layer : network.layers)
        bytes = checked_add(bytes, checked_multiply(checked_multiply(rows, layer.hidden), each * sizeof(T)));
    return bytes;
}

template <class T>
CountedFigures<T> recurrent_memory(const RecurrentNetwork<T>& network, std::size_t steps, std::size_t batch,
                                   const Names& keep) {
    CountedFigures<T> counted;
    RecurrentFigures<T>(network, steps, batch, keep, counted);
    counted.figure_bytes = checked_add(counted.figure_bytes, recurrent_state_bytes(network, steps, batch));
    return counted;
}

std::size_t influence_bytes(const CellShape& cell, std::size_t steps, std::size_t batch) {
    const std::size_t pairs = checked_multiply(checked_multiply(steps + 1, steps + 1), batch);
    return checked_multiply(pairs, (1 + cell.has_cell_state) * sizeof(double));
}

template CountedFigures<float> recurrent_memory<float>(const RecurrentNetwork<float>&, std::size_t, std::size_t,
                                                       const Names&);
template CountedFigures<double> recurrent_memory<double>(const RecurrentNetwork<double>&, std::size_t, std::size_t,
                                                         const Names&);
template std::size_t recurrent_state_bytes<float>(const RecurrentNetwork<float>&, std::size_t, std::size_t);
template std::size_t recurrent_state_bytes<double>(const RecurrentNetwork<double>&, std::size_t, std::size_t);
template class RecurrentFigures<float>;
template class RecurrentFigures<double>;

}  // namespace gt
