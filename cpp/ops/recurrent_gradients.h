// Gradients of one direction's parameters: of the batch, as one product over all steps, and the norm of what each step
// adds. Both at the largest exponent of their terms.
#pragma once

#include <vector>

#include "ops/recurrent_layer.h"

namespace gt {

// value * 2^exponent; blocks in the core's order.
template <class V>
struct ParameterGradient {
    AlignedBuffer<V> value;
    double exponent = 0, log2_norm = kNegativeInfinity;
};

template <class T>
struct DirectionGradients {
    ParameterGradient<T> ih, hh;                // (weight_blocks * hidden, inputs or hidden)
    ParameterGradient<double> bias_ih, bias_hh;  // (weight_blocks * hidden,); equal but for the GRU
};

// log2 norms, (steps,) each; null: not wanted.
struct StepNorms {
    double *ih, *hh, *bias_ih, *bias_hh;
};

// From dz where `state.z` was, h, and the input in the sequence's own order.
template <class T>
void direction_gradients(const DirectionContext<T>& context, const T* input, std::size_t inputs,
                         const DirectionState<T>& state, DirectionGradients<T>* gradients, const StepNorms& steps);

}  // namespace gt
