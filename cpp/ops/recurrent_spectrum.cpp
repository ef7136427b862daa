#include "ops/recurrent_spectrum.h"

#include <algorithm>

#include "core/shape.h"
#include "ops/recurrent_tangent.h"
#include "ops/spectrum.h"

namespace gt {

std::size_t state_size(const RecurrentNetwork<double>& network) {
    std::size_t units = 0;
    for (const RecurrentLayer<double>& layer : network.layers) units += layer.hidden;
    return units * (cell_shape(network.kind).has_cell_state ? 2 : 1);
}

void start_state(const RecurrentNetwork<double>& network, const DrivenSequences& driven, std::size_t sample,
                 RecurrentTangent* tangent) {
    for (std::size_t k = 0; k < network.layers.size(); ++k) {
        const std::size_t at = sample * network.layers[k].hidden;
        tangent->start(k, driven.h0.empty() ? nullptr : driven.h0[k] + at,
                       driven.c0.empty() ? nullptr : driven.c0[k] + at);
    }
}

void recurrent_spectrum(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                        std::size_t first, std::size_t last, double* log2, Interrupt& interrupt) {
    const std::size_t size = state_size(network);
    const auto n = static_cast<double>(size);
    const Loop loop{driven.batch, 30 * n * n * n * static_cast<double>(driven.batch * (last - first))};
    parallel_for(loop, [&](std::size_t sample, std::size_t worker) {
        const Matrix one = Matrix::identity(size);
        RecurrentTangent tangent(isa, network, one.ld, 1);
        start_state(network, driven, sample, &tangent);
        std::vector<Matrix> chain;
        for (std::size_t t = 0; t < last; ++t) {
            if (interrupt.requested(worker)) throw Interrupted{};
            tangent.advance(driven.input(network, t, sample), 0);
            if (t < first) continue;
            chain.emplace_back(size, size);
            tangent.apply(0, one.ld, one.ld, one.x.data(), chain.back().x.data());
        }
        log2_singular_values(isa, &chain, log2 + sample * size, interrupt, worker);
    });
}

}  // namespace gt
