// One network of an ensemble by StackTracer, as Stack.trace has it: slower, and right wherever a trace is.
#include <algorithm>
#include <map>
#include <string>

#include "ops/ensemble.h"
#include "ops/stack_tracer.h"

namespace gt {
namespace {

// Figures and kept rows in memory of our own.
template <class T>
class HeldFigures final : public Figures<T> {
  public:
    double* figure(const char* name, const Extents& shape) override {
        return (figures[name] = std::vector<double>(entries_of(shape))).data();
    }
    std::vector<double*> figure_of_layers(const char*, const std::vector<Extents>& shapes) override {
        return std::vector<double*>(shapes.size());
    }
    KeptRows<T> kept(const char*, const Extents&, const Extents&) override { return {}; }
    std::vector<KeptRows<T>> kept_of_layers(const char* name, const Extents& leading,
                                            const std::vector<Extents>& rows) override {
        std::vector<KeptRows<T>> all;
        std::vector<Held>& held = rows_of[name];
        for (const Extents& row : rows) {
            held.push_back(
                {std::vector<T>(entries_of(leading) * entries_of(row)), std::vector<double>(entries_of(leading))});
            all.push_back({held.back().mantissa.data(), nullptr, held.back().exponent.data()});
        }
        return all;
    }

    struct Held {
        std::vector<T> mantissa;
        std::vector<double> exponent;  // beyond int64, too
    };
    std::map<std::string, std::vector<double>> figures;
    std::map<std::string, std::vector<Held>> rows_of;
};

template <class T>
struct DrawnNetwork {
    std::vector<std::vector<T>> weights, biases;
    std::vector<DenseLayer<T>> layers;

    DrawnNetwork(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed,
                 const std::function<bool()>& stopped) {
        const std::size_t n = spec.width;
        std::vector<T> spare(kEnsembleRows * n);
        for (std::size_t l = 0; l < spec.depth; ++l) {
            if (stopped()) throw Interrupted{};
            std::vector<T>& w = weights.emplace_back(checked_multiply(n, n));
            Interrupt nobody(nullptr);
            if (spec.law == MatrixLaw::orthogonal)
                fill_orthogonal(isa, seed, static_cast<std::uint32_t>(l), spec.weight_factor, n, n, w.data(), nobody);
            else
                draw_ensemble_rows(isa, spec, seed, l, 0, n, n, spare.data(), w.data());
            std::vector<T>& bias = biases.emplace_back(spec.has_bias ? n : 0);
            if (spec.has_bias) draw_ensemble_bias(isa, spec, seed, l, bias.data());
            DenseLayer<T>& layer = layers.emplace_back(spec.layer(l));
            layer.inputs = layer.outputs = n;
            layer.weight = w.data();
            layer.bias = spec.has_bias ? bias.data() : nullptr;
            layer.norm_weight = layer.norm_bias = nullptr;
        }
    }
};

double cosine(std::size_t n, const double* x, const double* y) {
    double xx = 0, yy = 0, xy = 0;
    for (std::size_t u = 0; u < n; ++u) {
        xx += x[u] * x[u];
        yy += y[u] * y[u];
        xy += x[u] * y[u];
    }
    return xy / std::sqrt(xx * yy);
}

template <class T>
void put_delta_similarity(const EnsembleSpec<T>& spec, const HeldFigures<T>& held, double* to) {
    const std::size_t n = spec.width;
    for (std::size_t l = 0; l < spec.depth; ++l) {
        const std::vector<T>& rows = held.rows_of.at("deltas")[l].mantissa;
        const std::vector<double> delta(rows.begin(), rows.end());
        for (std::size_t pair = 0; pair < spec.samples / 2; ++pair)
            to[pair * spec.depth + l] = cosine(n, &delta[2 * pair * n], &delta[(2 * pair + 1) * n]);
    }
}

// z of a layer from its kept input, at an exponent that W and the bias share.
template <class T>
std::vector<double> preactivation(const DenseLayer<T>& layer, const T* row, double exponent) {
    const std::size_t n = layer.outputs;
    const double common = layer.bias ? std::max(0.0, exponent) : exponent;
    std::vector<double> z(n);
    double mean = 0;
    for (std::size_t u = 0; u < n; ++u) {
        double product = 0;
        for (std::size_t k = 0; k < layer.inputs; ++k)
            product += static_cast<double>(layer.weight[u * layer.inputs + k]) * static_cast<double>(row[k]);
        z[u] = scale_by(product, exponent - common);
        if (layer.bias) z[u] += scale_by(static_cast<double>(layer.bias[u]), -common);
        mean += z[u] / static_cast<double>(n);
    }
    if (layer.normalised)
        for (double& value : z) value -= mean;
    return z;
}

template <class T>
void put_similarity(const EnsembleSpec<T>& spec, const DrawnNetwork<T>& network, const HeldFigures<T>& held, const T* x,
                    double* to) {
    const std::size_t n = spec.width;
    for (std::size_t l = 0; l < spec.depth; ++l) {
        const auto z = [&](std::size_t b) {
            if (l == 0) return preactivation(network.layers[0], x + b * n, 0);
            const auto& input = held.rows_of.at("activations")[l - 1];
            return preactivation(network.layers[l], &input.mantissa[b * n], input.exponent[b]);
        };
        for (std::size_t pair = 0; pair < spec.samples / 2; ++pair)
            to[pair * spec.depth + l] = cosine(n, z(2 * pair).data(), z(2 * pair + 1).data());
    }
}

}  // namespace

template <class T>
void trace_network_exactly(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, std::size_t network,
                           const EnsembleOutputs& out, const std::function<bool()>& stopped) {
    using F = EnsembleFigure;
    const auto asked = [&](F f) { return out[static_cast<std::size_t>(f)]; };
    const DrawnNetwork<T> drawn(isa, spec, seed, stopped);
    std::vector<T> x(spec.samples * spec.width), cotangent(x.size());
    draw_ensemble_inputs(isa, spec, seed, x.data());
    draw_ensemble_cotangent(isa, spec, seed, cotangent.data());
    TraceOptions options;
    if (asked(F::similarity)) options.keep.insert("activations");
    if (asked(F::delta_similarity)) options.keep.insert("deltas");
    StackTracer<T> tracer(isa, drawn.layers, options);
    HeldFigures<T> held;
    const CallOutputs<T> to = tracer.outputs(spec.samples, held);
    Interrupt nobody(nullptr);
    tracer.add(x.data(), spec.samples, {.kind = CotangentKind::given, .rows = cotangent.data()}, to, nobody);
    tracer.results(held);
    for (std::size_t f = 0; f < kEnsembleFigures; ++f) {
        const EnsembleFigureInfo& info = ensemble_figures()[f];
        if (!out[f]) continue;
        const std::size_t rows = spec.rows_of(info), entries = spec.entries_of(info);
        double* figure = out[f] + network * rows * entries;
        if (info.of == EnsembleFigureInfo::Of::pair) {
            if (static_cast<F>(f) == F::similarity) put_similarity(spec, drawn, held, x.data(), figure);
            if (static_cast<F>(f) == F::delta_similarity) put_delta_similarity(spec, held, figure);
            continue;
        }
        const std::vector<double>& from = held.figures.at(info.name);  // (entries, samples), or (entries,)
        for (std::size_t b = 0; b < rows; ++b)
            for (std::size_t l = 0; l < entries; ++l) figure[b * entries + l] = from[l * rows + b];
    }
}

template void trace_network_exactly<float>(const IsaKernels&, const EnsembleSpec<float>&, std::uint64_t, std::size_t,
                                           const EnsembleOutputs&, const std::function<bool()>&);
template void trace_network_exactly<double>(const IsaKernels&, const EnsembleSpec<double>&, std::uint64_t, std::size_t,
                                            const EnsembleOutputs&, const std::function<bool()>&);

}  // namespace gt
