// Lyapunov exponents of a recurrent network's state along the trajectory that its inputs drive.
#pragma once

#include <vector>

#include "ops/recurrent_spectrum.h"

namespace gt {

// sums (parts, batch, count): log2 of what directions, unit vectors at the beginning, were stretched by in a sample's
// part i, its steps edges[i] to edges[i + 1] (Benettin et al. 1980), those that were stretched most in all its parts
// first; NaN from a step on whose map is not finite. edges (batch, parts + 1). Throws Interrupted.
void lyapunov_sums(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                   std::size_t count, std::size_t parts, const std::int64_t* edges, double* sums, Interrupt& interrupt);

}  // namespace gt
