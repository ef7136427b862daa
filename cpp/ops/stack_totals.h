// What a stack's trace sums over its samples, layer by layer, and the figures that come of it.
#pragma once

#include <vector>

#include "ops/dense_gradients.h"
#include "ops/dense_stack.h"
#include "ops/directions.h"

namespace gt {

// The figures of one layer, over all samples.
struct LayerFigures {
    double log2_weight, log2_grad_weight, log2_grad_bias;
    double preactivation_mean, preactivation_std, activation_mean, activation_std;
    double saturated, derivative_mean, similarity;
    double dead_units, dead_by_bias, dead_samples;
};

struct LayerFigure {
    const char* name;
    double LayerFigures::* field;
};
const std::vector<LayerFigure>& layer_figures();

// Of the layers of a network; chunks are added in the order of the samples, so that the sums do not depend on who
// computed what when. `has_input`: its first layer is the stack's.
template <class T>
class StackTotals {
  public:
    StackTotals(const StackNetwork<T>& network, bool has_input);

    // Gives the sums of gradients a size: they add up over chunks, or are kept.
    void sum_gradients(const StackNetwork<T>& network, bool weights, bool biases);
    // What a layer adds, after its backward pass; one worker a layer. `alone`: a single sample, of whose directions
    // only its features' shares are asked for.
    void add_layer(const IsaKernels& isa, const StackNetwork<T>& network, std::size_t l,
                   const std::vector<StackBlock<T>>& blocks, std::size_t count, const SampleOutputs& samples,
                   bool alone, GradientScratch<T>& scratch);
    void add_statistics(const std::vector<StackBlock<T>>& blocks, std::size_t count);

    LayerFigures figures(const StackNetwork<T>& network, std::size_t l, std::size_t samples) const;
    const LayerGradient<T>& gradient(std::size_t l) const { return gradients_[l]; }
    double feature_share() const { return directions_.feature_share(); }

  private:
    void count_dead(const StackNetwork<T>& network, std::size_t l, LayerFigures* out) const;

    bool has_input_;
    std::vector<LayerGradient<T>> gradients_;
    std::vector<LayerStatistics> statistics_;
    Directions<T> directions_;
    std::vector<std::size_t> first_unit_;  // of each layer's outputs in `alive_`
    std::vector<std::uint8_t> alive_;      // UnitLife flags
};

}  // namespace gt
