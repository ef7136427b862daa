// Singular values of the Jacobian of a recurrent network's state, driven by its inputs: h of all stacked layers, in an
// LSTM c behind each. In float64; one direction.
#pragma once

#include <vector>

#include "ops/recurrent_tracer.h"

namespace gt {

class RecurrentTangent;

struct DrivenSequences {
    const double* input(const RecurrentNetwork<double>& network, std::size_t step, std::size_t sample) const {
        return x + (step * batch + sample) * network.inputs;
    }

    const double* x;  // (steps, batch, inputs)
    std::size_t steps, batch;
    LayerArrays<const double> h0, c0;  // empty: 0
};

std::size_t state_size(const RecurrentNetwork<double>& network);
// Whether weights that are zero may take rank from a step, or keep units apart.
bool weights_have_zeros(const RecurrentNetwork<double>& network);
// The initial state of one sample.
void start_state(const RecurrentNetwork<double>& network, const DrivenSequences& driven, std::size_t sample,
                 RecurrentTangent* tangent);

// log2 (batch, state size): of the Jacobian of the state after spans[sample, 1] steps in that after spans[sample, 0].
// What a step holds is a few numbers a unit, but where units are off: then its whole Jacobian. Throws Interrupted.
void recurrent_spectrum(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                        const std::int64_t* spans, double* log2, Interrupt& interrupt);

}  // namespace gt
