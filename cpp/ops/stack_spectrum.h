// Singular values of a stack's Jacobians.
#pragma once

#include <vector>

#include "ops/stack_tracer.h"

namespace gt {

// What a trace of the same batch kept of every layer.
struct StackJacobians {
    const double* x;  // (batch, n_0)
    std::size_t batch;
    std::vector<KeptRows<double>> activations, derivatives;
};

// log2 (batch, min(n_first, n_last)): of dz_last / da_first at every sample, layers from 1, a_0 = x. Throws
// Interrupted, std::bad_alloc.
void stack_spectrum(const IsaKernels& isa, const std::vector<DenseLayer<double>>& layers, const StackJacobians& at,
                    std::size_t first, std::size_t last, double* log2, Interrupt& interrupt);

}  // namespace gt
