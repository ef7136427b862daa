// Singular values and Lyapunov exponents of a recurrent network's state, driven by its inputs: h of all stacked layers,
// in an LSTM c behind each. In float64; one direction.
#pragma once

#include <vector>

#include "ops/recurrent_tracer.h"

namespace gt {

struct DrivenSequences {
    const double* x;  // (steps, batch, inputs)
    std::size_t steps, batch;
    LayerArrays<const double> h0, c0;  // empty: 0
};

std::size_t state_size(const RecurrentNetwork<double>& network);

// log2 (batch, state size): of the Jacobian of the state after `last` steps in that after `first`. Throws Interrupted.
void recurrent_spectrum(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                        std::size_t first, std::size_t last, double* log2, Interrupt& interrupt);

// sums (edges - 1, batch, count): log2 of what the first `count` directions were stretched by, orthogonalised at every
// step from the unit vectors on (Benettin et al. 1980), over steps edges[i] to edges[i + 1]. Throws Interrupted.
void lyapunov_sums(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                   std::size_t count, const std::vector<std::size_t>& edges, double* sums, Interrupt& interrupt);

}  // namespace gt
