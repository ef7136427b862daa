// The figures of a stack's trace by name: of every sample, written while the passes run, and of all samples.
#include <algorithm>

#include "ops/stack_tracer.h"

namespace gt {

template <class T>
CallOutputs<T> AnyStackTracer<T>::outputs(std::size_t batch, Figures<T>& figures) const {
    const std::size_t layers = figures_.size();
    CallOutputs<T> out;
    SampleOutputs& s = out.samples;
    s.stride = batch;
    s.log2_delta = figures.figure("log2_delta", {layers, batch});
    s.log2_delta_max = figures.figure("log2_delta_max", {layers, batch});
    s.activation_gain = figures.figure("activation_gain", {layers, batch});
    s.weight_gain = figures.figure("weight_gain", {layers, batch});
    s.log2_preactivation = figures.figure("log2_preactivation", {layers, batch});
    s.log2_activation = figures.figure("log2_activation", {layers + 1, batch});
    s.log2_grad_weight_sample = figures.figure("log2_grad_weight_sample", {layers, batch});
    s.log2_cotangent = figures.figure("log2_cotangent", {batch});
    s.log2_grad_input = figures.figure("log2_grad_input", {batch});
    if (units_.normalised) {
        s.norm_gain = figures.figure("norm_gain", {layers, batch});
        if (s.norm_gain) std::fill_n(s.norm_gain, layers * batch, 0.0);  // written for normalised layers only
    }
    const auto rows = [&](const char* name, std::vector<KeptRows<T>>* to) {
        if (!options_.keeps(name)) return;
        std::vector<Extents> units;
        for (std::size_t l = 0; l < depth(); ++l) units.push_back({units_.sizes[l + 1]});
        *to = figures.kept_of_layers(name, {batch}, units);
    };
    rows("deltas", &out.deltas);
    rows("activations", &out.activations);
    rows("derivatives", &out.derivatives);
    if (options_.keeps("grad_input")) out.grad_input = figures.kept("grad_input", {batch}, {units_.sizes[0]});
    return out;
}

template <class T>
bool AnyStackTracer<T>::results(Figures<T>& figures) {
    conclude();
    for (const LayerFigure& figure : layer_figures()) {
        double* to = figures.figure(figure.name, {figures_.size()});
        for (std::size_t i = 0; i < figures_.size(); ++i) to[i] = figures_[i].*figure.field;
    }
    return keep_gradients(figures);
}

template <class T>
bool AnyStackTracer<T>::keep_gradients(Figures<T>& figures) const {
    bool fits = true;
    const auto each = [&](const char* name, auto&& shape_of, auto&& sum_of) {
        if (!options_.keeps(name)) return;
        std::vector<Extents> shapes;
        for (std::size_t l = 0; l < depth(); ++l) shapes.push_back(shape_of(l));
        const std::vector<KeptRows<T>> to = figures.kept_of_layers(name, {}, shapes);
        for (std::size_t l = 0; l < depth(); ++l)
            if (to[l]) fits &= keep_sum(sum_of(gradient(l)), to[l]);
    };
    using G = LayerGradient<T>;
    const std::vector<std::size_t>& n = units_.sizes;
    each(
        "grad_weights", [&](std::size_t l) { return Extents{n[l + 1], n[l]}; },
        [](const G& of) -> const auto& { return of.weight; });
    each(
        "grad_biases", [&](std::size_t l) { return Extents{n[l + 1]}; },
        [](const G& of) -> const auto& { return of.bias; });
    return fits;
}

template <class T>
CountedFigures<T> AnyStackTracer<T>::memory(std::size_t batch) const {
    CountedFigures<T> counted;
    outputs(batch, counted);
    keep_gradients(counted);
    return counted;
}

template CallOutputs<float> AnyStackTracer<float>::outputs(std::size_t, Figures<float>&) const;
template CallOutputs<double> AnyStackTracer<double>::outputs(std::size_t, Figures<double>&) const;
template bool AnyStackTracer<float>::results(Figures<float>&);
template bool AnyStackTracer<double>::results(Figures<double>&);
template CountedFigures<float> AnyStackTracer<float>::memory(std::size_t) const;
template CountedFigures<double> AnyStackTracer<double>::memory(std::size_t) const;

}  // namespace gt
