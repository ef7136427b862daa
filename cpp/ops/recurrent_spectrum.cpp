#include "ops/recurrent_spectrum.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/scaled.h"
#include "core/shape.h"
#include "ops/recurrent_tangent.h"
#include "ops/spectrum.h"

namespace gt {
namespace {

// One sample on its way, with directions as the columns of a tile.
class Driven {
  public:
    Driven(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
           std::size_t sample, std::size_t directions)
        : driven_(&driven),
          sample_(sample),
          inputs_(network.inputs),
          size_(state_size(network)),
          directions_(directions),
          ld_(round_up(directions, kColumnMultiple)),
          tangent_(isa, network, ld_),
          before_(checked_multiply(size_, ld_)),
          after_(checked_multiply(size_, ld_)) {
        for (std::size_t k = 0; k < network.layers.size(); ++k) {
            const std::size_t at = sample * network.layers[k].hidden;
            tangent_.start(k, driven.h0.empty() ? nullptr : driven.h0[k] + at,
                           driven.c0.empty() ? nullptr : driven.c0[k] + at);
        }
        set_directions(Matrix::identity(size_));
    }

    // Of q (state size, directions or more).
    void set_directions(const Matrix& q) {
        std::fill_n(before_.data(), size_ * ld_, 0.0);
        for (std::size_t i = 0; i < size_; ++i) std::copy_n(q.row(i), directions_, before_.data() + i * ld_);
    }
    // Of the columns of q in these places; nothing elsewhere.
    void set_directions(const Matrix& q, const std::vector<std::size_t>& places) {
        std::fill_n(before_.data(), size_ * ld_, 0.0);
        for (std::size_t i = 0; i < size_; ++i)
            for (std::size_t j = 0; j < places.size(); ++j) before_[i * ld_ + places[j]] = q.row(i)[j];
    }
    void advance(std::size_t step) { tangent_.advance(driven_->x + (step * driven_->batch + sample_) * inputs_); }
    // What the last step made of directions that are not lost: those with an image of 0 leave `places`.
    Matrix take_kept(std::vector<std::size_t>* places) {
        tangent_.apply(before_.data(), after_.data());
        std::erase_if(*places, [&](std::size_t j) {
            for (std::size_t i = 0; i < size_; ++i)
                if (after_[i * ld_ + j] != 0) return false;
            return true;
        });
        Matrix kept(size_, places->size());
        for (std::size_t i = 0; i < size_; ++i)
            for (std::size_t j = 0; j < places->size(); ++j) kept.row(i)[j] = after_[i * ld_ + (*places)[j]];
        return kept;
    }
    // What it made of all.
    void take(Matrix* to) {
        tangent_.apply(before_.data(), after_.data());
        for (std::size_t i = 0; i < size_; ++i) std::copy_n(after_.data() + i * ld_, directions_, to->row(i));
    }

  private:
    const DrivenSequences* driven_;
    std::size_t sample_, inputs_, size_, directions_, ld_;
    RecurrentTangent tangent_;
    AlignedBuffer<double> before_, after_;
};

// The directions of one sample, and what they were stretched by.
class Stretched {
  public:
    Stretched(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
              std::size_t sample, std::size_t directions)
        : state_(isa, network, driven, sample, directions), directions_(directions), kept_(directions) {
        std::iota(kept_.begin(), kept_.end(), std::size_t{0});
    }

    // Whether no direction was lost.
    bool run(const std::vector<std::size_t>& edges, Interrupt& interrupt, std::size_t worker) {
        sums_.assign((edges.size() - 1) * directions_, 0.0);
        std::size_t part = 0;
        Qr qr;
        for (std::size_t t = 0; t < edges.back() && !kept_.empty(); ++t) {
            if (interrupt.requested(worker)) throw Interrupted{};
            state_.advance(t);
            Matrix q = state_.take_kept(&kept_), r(kept_.size(), kept_.size());
            qr.run(&q, &r);
            state_.set_directions(q, kept_);
            if (t < edges[0]) continue;
            while (t >= edges[part + 1]) ++part;
            for (std::size_t j = 0; j < kept_.size(); ++j)
                sums_[part * directions_ + kept_[j]] += std::log2(std::fabs(r.row(j)[j]));
        }
        return kept_.size() == directions_;
    }

    // Of a part: the first `count` of those that were kept, -inf for what is missing.
    void store(std::size_t part, std::size_t count, double* to) const {
        std::fill_n(to, count, kNegativeInfinity);
        for (std::size_t j = 0; j < std::min(count, kept_.size()); ++j) to[j] = sums_[part * directions_ + kept_[j]];
    }

  private:
    Driven state_;
    std::size_t directions_;
    std::vector<std::size_t> kept_;
    std::vector<double> sums_;
};

Loop loop_over_samples(const DrivenSequences& driven, double steps, double size, double count) {
    return {driven.batch, 10 * size * size * count * steps * static_cast<double>(driven.batch)};
}

}  // namespace

std::size_t state_size(const RecurrentNetwork<double>& network) {
    std::size_t units = 0;
    for (const RecurrentLayer<double>& layer : network.layers) units += layer.hidden;
    return units * (cell_shape(network.kind).has_cell_state ? 2 : 1);
}

void recurrent_spectrum(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                        std::size_t first, std::size_t last, double* log2, Interrupt& interrupt) {
    const std::size_t size = state_size(network);
    const auto n = static_cast<double>(size);
    parallel_for(loop_over_samples(driven, static_cast<double>(last - first), n, n),
                 [&](std::size_t sample, std::size_t worker) {
                     Driven state(isa, network, driven, sample, size);
                     std::vector<Matrix> chain;
                     for (std::size_t t = 0; t < last; ++t) {
                         if (interrupt.requested(worker)) throw Interrupted{};
                         state.advance(t);
                         if (t < first) continue;
                         chain.emplace_back(size, size);
                         state.take(&chain.back());
                     }
                     log2_singular_values(&chain, log2 + sample * size, interrupt, worker);
                 });
}

void lyapunov_sums(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                   std::size_t count, const std::vector<std::size_t>& edges, double* sums, Interrupt& interrupt) {
    const std::size_t size = state_size(network), parts = edges.size() - 1;
    const auto n = static_cast<double>(size);
    parallel_for(loop_over_samples(driven, static_cast<double>(edges.back()), n, static_cast<double>(count)),
                 [&](std::size_t sample, std::size_t worker) {
                     Stretched stretched(isa, network, driven, sample, count);
                     // Where one was lost, the others begin too few.
                     if (!stretched.run(edges, interrupt, worker) && count < size) {
                         stretched = Stretched(isa, network, driven, sample, size);
                         stretched.run(edges, interrupt, worker);
                     }
                     for (std::size_t part = 0; part < parts; ++part)
                         stretched.store(part, count, sums + (part * driven.batch + sample) * count);
                 });
}

}  // namespace gt
