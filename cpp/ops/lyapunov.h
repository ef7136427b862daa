// Lyapunov exponents of a recurrent network's state along the trajectory that its inputs drive.
#pragma once

#include <vector>

#include "ops/recurrent_spectrum.h"

namespace gt {

// sums (parts, batch, count): log2 of what the first `count` directions, the unit vectors at the beginning, were
// stretched by in a sample's part i, its steps edges[i] to edges[i + 1] (Benettin et al. 1980); edges (batch, parts +
// 1). Throws Interrupted.
void lyapunov_sums(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                   std::size_t count, std::size_t parts, const std::int64_t* edges, double* sums, Interrupt& interrupt);

}  // namespace gt
