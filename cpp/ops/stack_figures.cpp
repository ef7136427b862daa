// The figures of a stack's trace by name: of every sample, written while the passes run, and of all samples.
#include <algorithm>
#include <cmath>

#include "ops/stack_tracer.h"

namespace gt {

template <class T>
CallOutputs<T> StackTracer<T>::outputs(std::size_t batch, Figures<T>& figures) const {
    const std::size_t depth = network_.depth();
    CallOutputs<T> out;
    SampleOutputs& s = out.samples;
    s.stride = batch;
    s.log2_delta = figures.figure("log2_delta", {depth, batch});
    s.log2_delta_max = figures.figure("log2_delta_max", {depth, batch});
    s.activation_gain = figures.figure("activation_gain", {depth, batch});
    s.weight_gain = figures.figure("weight_gain", {depth, batch});
    s.log2_preactivation = figures.figure("log2_preactivation", {depth, batch});
    s.log2_activation = figures.figure("log2_activation", {depth + 1, batch});
    s.log2_grad_weight_sample = figures.figure("log2_grad_weight_sample", {depth, batch});
    s.log2_cotangent = figures.figure("log2_cotangent", {batch});
    s.log2_grad_input = figures.figure("log2_grad_input", {batch});
    bool normalised = false;
    for (std::size_t l = 0; l < depth; ++l) normalised |= network_.layer(l).normalised;
    if (normalised) {
        s.norm_gain = figures.figure("norm_gain", {depth, batch});
        if (s.norm_gain) std::fill_n(s.norm_gain, depth * batch, 0.0);  // written for normalised layers only
    }
    std::vector<Extents> units;
    for (std::size_t l = 0; l < depth; ++l) units.push_back({network_.units(l + 1)});
    const auto rows = [&](const char* name, std::vector<KeptRows<T>>* to) {
        if (options_.keeps(name)) *to = figures.kept_of_layers(name, {batch}, units);
    };
    rows("deltas", &out.deltas);
    rows("activations", &out.activations);
    rows("derivatives", &out.derivatives);
    if (options_.keeps("grad_input")) out.grad_input = figures.kept("grad_input", {batch}, {network_.units(0)});
    return out;
}

template <class T>
bool StackTracer<T>::results(Figures<T>& figures) const {
    const std::size_t depth = network_.depth();
    const auto column = [&](const char* name, auto&& value) {
        double* to = figures.figure(name, {depth});
        for (std::size_t l = 0; l < depth; ++l) to[l] = value(l);
    };
    using S = LayerStatistics;
    const auto plain = [&](const char* name, double S::* field) {
        column(name, [&](std::size_t l) { return statistics_[l].*field; });
    };
    const auto deviation = [&](const char* name, double S::* spread) {
        column(name, [&](std::size_t l) { return statistics_[l].*spread / std::sqrt(statistics_[l].count); });
    };
    column("log2_weight", [&](std::size_t l) { return network_.log2_weight(l); });
    column("log2_grad_weight", [&](std::size_t l) {
        const LayerGradient<T>& gradient = gradients_[l];
        return gradient.weight.kept() ? gradient.weight.log2_norm() : gradient.log2_weight;
    });
    column("log2_grad_bias", [&](std::size_t l) {
        const LayerGradient<T>& gradient = gradients_[l];
        return gradient.bias.kept() ? gradient.bias.log2_norm() : gradient.log2_bias;
    });
    plain("preactivation_mean", &S::z_mean);
    deviation("preactivation_std", &S::z_spread);
    plain("activation_mean", &S::a_mean);
    deviation("activation_std", &S::a_spread);
    column("saturated", [&](std::size_t l) { return statistics_[l].saturated / statistics_[l].count; });
    column("derivative_mean", [&](std::size_t l) {
        return statistics_[l].derivative / statistics_[l].count / network_.layer(l).info.derivative_sup;
    });
    column("similarity", [&](std::size_t l) { return directions_.similarity(l); });
    std::vector<double> dead, by_bias;
    count_dead(&dead, &by_bias);
    column("dead_units", [&](std::size_t l) { return dead[l]; });
    column("dead_by_bias", [&](std::size_t l) { return by_bias[l]; });
    column("dead_samples", [&](std::size_t l) { return statistics_[l].dead_samples / static_cast<double>(samples_); });
    return keep_gradients(figures);
}

// Shares of each layer's units: dead, and of these such as are on without their bias.
template <class T>
void StackTracer<T>::count_dead(std::vector<double>* dead, std::vector<double>* by_bias) const {
    std::size_t first = 0;
    for (std::size_t l = 0; l < network_.depth(); ++l) {
        const std::size_t units = network_.units(l + 1), end = first + units;
        std::size_t off = 0, without = 0;
        for (std::size_t u = first; network_.layer(l).info.can_die && u < end; ++u) {
            off += !(alive_[u] & kOn);
            without += alive_[u] == kOnWithoutBias;
        }
        dead->push_back(static_cast<double>(off) / static_cast<double>(units));
        by_bias->push_back(static_cast<double>(without) / static_cast<double>(units));
        first = end;
    }
}

template <class T>
bool StackTracer<T>::keep_gradients(Figures<T>& figures) const {
    bool fits = true;
    const auto each = [&](const char* name, auto&& shape_of, auto&& gradient_of) {
        if (!options_.keeps(name)) return;
        std::vector<Extents> shapes;
        for (std::size_t l = 0; l < network_.depth(); ++l) shapes.push_back(shape_of(network_.layer(l)));
        const std::vector<KeptRows<T>> to = figures.kept_of_layers(name, {}, shapes);
        for (std::size_t l = 0; l < network_.depth(); ++l)
            if (to[l]) fits &= keep_sum(gradient_of(gradients_[l]), to[l]);
    };
    using G = LayerGradient<T>;
    using L = DenseLayer<T>;
    each(
        "grad_weights", [](const L& layer) { return Extents{layer.outputs, layer.inputs}; },
        [](const G& gradient) -> const auto& { return gradient.weight; });
    each(
        "grad_biases", [](const L& layer) { return Extents{layer.outputs}; },
        [](const G& gradient) -> const auto& { return gradient.bias; });
    return fits;
}

template <class T>
CountedFigures<T> StackTracer<T>::memory(std::size_t batch) const {
    CountedFigures<T> counted;
    outputs(batch, counted);
    keep_gradients(counted);
    return counted;
}

template class StackTracer<float>;
template class StackTracer<double>;

}  // namespace gt
