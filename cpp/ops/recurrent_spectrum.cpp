#include "ops/recurrent_spectrum.h"

#include <algorithm>

#include "core/scaled.h"
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

namespace {

bool has_zeros(std::size_t count, const double* x) { return std::find(x, x + count, 0.0) != x + count; }

}  // namespace

bool weights_have_zeros(const RecurrentNetwork<double>& network) {
    const std::size_t blocks = cell_shape(network.kind).weight_blocks;
    bool zeros = false;
    for (std::size_t k = 0; k < network.layers.size(); ++k) {
        const RecurrentLayer<double>& layer = network.layers[k];
        const std::size_t rows = blocks * layer.hidden;
        zeros |= has_zeros(rows * layer.hidden, layer.weight_hh);
        zeros |= k > 0 && has_zeros(rows * layer.inputs, layer.weight_ih);
    }
    return zeros;
}

namespace {

// Steps as they are held in a tangent, slot by slot.
class HeldSteps final : public Factors {
  public:
    HeldSteps(RecurrentTangent* tangent, std::size_t size, std::size_t count)
        : tangent_(tangent), size_(size), count_(count) {}
    std::size_t count() const override { return count_; }
    std::size_t rows(std::size_t) const override { return size_; }
    std::size_t columns(std::size_t) const override { return size_; }
    void multiply(std::size_t k, bool transposed, const Matrix& q, Matrix* y) override {
        const double* from = q.x.data();
        double* to = y->x.data();
        transposed ? tangent_->apply_transposed(k, q.ld, q.ld, from, to) : tangent_->apply(k, q.ld, q.ld, from, to);
        y->exponent = q.exponent;
    }

  private:
    RecurrentTangent* tangent_;
    std::size_t size_, count_;
};

// The Jacobians themselves, whose zeros are looked at.
std::vector<Matrix> jacobians(RecurrentTangent* tangent, std::size_t size, std::size_t count) {
    const Matrix one = Matrix::identity(size);
    std::vector<Matrix> chain;
    for (std::size_t k = 0; k < count; ++k) {
        chain.emplace_back(size, size);
        tangent->apply(k, one.ld, one.ld, one.x.data(), chain.back().x.data());
    }
    return chain;
}

}  // namespace

void recurrent_spectrum(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                        const std::int64_t* spans, double* log2, Interrupt& interrupt) {
    const std::size_t size = state_size(network);
    const auto n = static_cast<double>(size);
    const bool full = !weights_have_zeros(network);
    const Loop loop{driven.batch, 30 * n * n * n * static_cast<double>(driven.batch * driven.steps)};
    parallel_for(loop, [&](std::size_t sample, std::size_t worker) {
        const auto first = static_cast<std::size_t>(spans[2 * sample]),
                   last = static_cast<std::size_t>(spans[2 * sample + 1]), count = last - first;
        double* to = log2 + sample * size;
        if (count == 0) return void(std::fill_n(to, size, kNaN));
        RecurrentTangent tangent(isa, network, round_up(size, kColumnMultiple), count);
        start_state(network, driven, sample, &tangent);
        bool finite = true, live = full;
        for (std::size_t t = 0; t < last; ++t) {
            if (interrupt.requested(worker)) throw Interrupted{};
            const std::size_t slot = t < first ? 0 : t - first;
            tangent.advance(driven.input(network, t, sample), slot);
            finite &= t < first || tangent.finite(slot);
            live &= t < first || tangent.live(slot) == size;
        }
        if (!finite) return void(std::fill_n(to, size, kNaN));
        if (live) {
            HeldSteps steps(&tangent, size, count);
            return log2_singular_values(isa, steps, to, interrupt, worker);
        }
        std::vector<Matrix> chain = jacobians(&tangent, size, count);
        log2_singular_values(isa, &chain, to, interrupt, worker);
    });
}

}  // namespace gt
