#include "ops/stack_totals.h"

#include <cmath>

namespace gt {

const std::vector<LayerFigure>& layer_figures() {
    using F = LayerFigures;
    static const std::vector<LayerFigure> all{{"log2_weight", &F::log2_weight},
                                              {"log2_grad_weight", &F::log2_grad_weight},
                                              {"log2_grad_bias", &F::log2_grad_bias},
                                              {"preactivation_mean", &F::preactivation_mean},
                                              {"preactivation_std", &F::preactivation_std},
                                              {"activation_mean", &F::activation_mean},
                                              {"activation_std", &F::activation_std},
                                              {"saturated", &F::saturated},
                                              {"derivative_mean", &F::derivative_mean},
                                              {"similarity", &F::similarity},
                                              {"dead_units", &F::dead_units},
                                              {"dead_by_bias", &F::dead_by_bias},
                                              {"dead_samples", &F::dead_samples}};
    return all;
}

template <class T>
StackTotals<T>::StackTotals(const StackNetwork<T>& network, bool has_input)
    : has_input_(has_input),
      gradients_(network.depth()),
      statistics_(network.depth()),
      directions_(network, has_input),
      alive_(network.total_units(), 0) {
    std::size_t first = 0;
    for (std::size_t l = 0; l < network.depth(); ++l) {
        first_unit_.push_back(first);
        first += network.units(l + 1);
    }
}

template <class T>
void StackTotals<T>::sum_gradients(const StackNetwork<T>& network, bool weights, bool biases) {
    for (std::size_t l = 0; l < network.depth(); ++l) {
        const DenseLayer<T>& layer = network.layer(l);
        if (weights && !gradients_[l].weight.kept())
            gradients_[l].weight.reset(checked_multiply(layer.inputs, layer.outputs));
        if (biases && !gradients_[l].bias.kept()) gradients_[l].bias.reset(layer.outputs);
    }
}

template <class T>
void StackTotals<T>::add_layer(const IsaKernels& isa, const StackNetwork<T>& network, std::size_t l,
                               const std::vector<StackBlock<T>>& blocks, std::size_t count,
                               const SampleOutputs& samples, bool alone, GradientScratch<T>& scratch) {
    const std::size_t at = l * samples.stride + blocks[0].first;
    layer_gradient(isa.get<T>(), network, l, blocks, count, samples.log2_delta + at, samples.log2_activation + at,
                   scratch, gradients_[l]);
    if (!alone || (l == 0 && has_input_))
        directions_.add(isa.get<T>(), l, blocks, count, samples.log2_activation + at, scratch.row.data());
}

template <class T>
void StackTotals<T>::add_statistics(const std::vector<StackBlock<T>>& blocks, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        const StackBlock<T>& block = blocks[i];
        for (std::size_t q = 0; q < block.quanta(); ++q) {
            for (std::size_t l = 0; l < block.depth(); ++l)
                statistics_[l].merge(block.statistics[q * block.depth() + l]);
            for (std::size_t u = 0; block.may_die && u < block.total_units; ++u)
                alive_[u] |= block.alive[q * block.total_units + u];
        }
    }
}

template <class T>
LayerFigures StackTotals<T>::figures(const StackNetwork<T>& network, std::size_t l, std::size_t samples) const {
    const LayerGradient<T>& gradient = gradients_[l];
    const LayerStatistics& s = statistics_[l];
    const double root = std::sqrt(s.count);
    LayerFigures out{};
    out.log2_weight = network.log2_weight(l);
    out.log2_grad_weight = gradient.weight.kept() ? gradient.weight.log2_norm() : gradient.log2_weight;
    out.log2_grad_bias = gradient.bias.kept() ? gradient.bias.log2_norm() : gradient.log2_bias;
    out.preactivation_mean = s.z_mean;
    out.preactivation_std = s.z_spread / root;
    out.activation_mean = s.a_mean;
    out.activation_std = s.a_spread / root;
    out.saturated = s.saturated / s.count;
    out.derivative_mean = s.derivative / s.count / network.layer(l).info.derivative_sup;
    out.similarity = directions_.similarity(l);
    out.dead_samples = s.dead_samples / static_cast<double>(samples);
    count_dead(network, l, &out);
    return out;
}

// Shares of a layer's units: dead, and of these such as are on without their bias.
template <class T>
void StackTotals<T>::count_dead(const StackNetwork<T>& network, std::size_t l, LayerFigures* out) const {
    const std::size_t units = network.units(l + 1), first = first_unit_[l];
    std::size_t off = 0, without = 0;
    for (std::size_t u = first; network.layer(l).info.can_die && u < first + units; ++u) {
        off += !(alive_[u] & kOn);
        without += alive_[u] == kOnWithoutBias;
    }
    out->dead_units = static_cast<double>(off) / static_cast<double>(units);
    out->dead_by_bias = static_cast<double>(without) / static_cast<double>(units);
}

template class StackTotals<float>;
template class StackTotals<double>;

}  // namespace gt
