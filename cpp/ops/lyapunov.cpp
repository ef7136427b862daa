// Directions are orthogonalised every few steps: as many as leave a product of Jacobians so well conditioned that QR
// loses no more than kBits of the 53. How many that are, the last product says; one that went further is done again in
// parts, from the steps that are still held. Where units are off a step ends the product, so that the rank is read from
// zeros, not from roundings.
#include "ops/lyapunov.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/scaled.h"
#include "core/shape.h"
#include "ops/qr.h"
#include "ops/recurrent_tangent.h"

namespace gt {
namespace {

constexpr std::size_t kMostSteps = 32;               // between two orthogonalisations
constexpr double kBits = 17, kMostBits = 21;         // of a product's condition: aimed at, and allowed
constexpr double kLow = 0x1p-300, kHigh = 0x1p+300;  // of a product's columns

// The directions of one sample, the columns of a tile, and what they were stretched by.
class Stretched {
  public:
    Stretched(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
              std::size_t sample, std::size_t directions)
        : isa_(&isa),
          network_(&network),
          driven_(&driven),
          sample_(sample),
          size_(state_size(network)),
          ld_(row_stride(directions)),
          tangent_(isa, network, std::min(ld_, kMaxColumns), kMostSteps),
          qr_(isa),
          kept_(directions),
          largest_(round_up(directions, kColumnMultiple)),
          bits_(directions) {
        for (AlignedBuffer<double>* tile : {&q_, &product_, &other_})
            *tile = AlignedBuffer<double>(checked_multiply(size_, ld_));
        std::iota(kept_.begin(), kept_.end(), std::size_t{0});
        std::fill_n(q_.data(), size_ * ld_, 0.0);
        for (std::size_t j = 0; j < directions; ++j) q_[j * ld_ + j] = 1;
        start_state(network, driven, sample, &tangent_);
    }

    // sums (parts, directions). Whether no direction was lost before a step that is not finite, which ends the run.
    bool run(std::size_t parts, const std::int64_t* edges, Interrupt& interrupt, std::size_t worker) {
        const std::size_t directions = kept_.size();
        sums_.assign(parts * directions, 0.0);
        first_unknown_ = parts;
        std::size_t t = 0;
        for (std::size_t part = 0; part <= parts; ++part)  // the first before all edges
            for (const auto end = static_cast<std::size_t>(edges[part]); t < end && !kept_.empty();) {
                if (interrupt.requested(worker)) throw Interrupted{};
                const std::size_t products = divide_up(end - t, steps_), held = hold(t, divide_up(end - t, products));
                if (!finite_) {
                    first_unknown_ = part == 0 ? 0 : part - 1;
                    return true;
                }
                stretch(held, part == 0 ? nullptr : sums_.data() + (part - 1) * directions);
                t += held;
            }
        return kept_.size() == directions;
    }

    // Of parts that are `stride` apart: the `count` directions of those that were kept that were stretched most in all,
    // in that order; -inf for what is missing, NaN from a step that is not finite on.
    void store(std::size_t parts, std::size_t count, std::size_t stride, double* to) const {
        const std::vector<std::size_t> order = largest_first(parts);
        for (std::size_t part = 0; part < parts; ++part, to += stride) {
            std::fill_n(to, count, part < first_unknown_ ? kNegativeInfinity : kNaN);
            for (std::size_t j = 0; j < std::min(count, order.size()) && part < first_unknown_; ++j)
                to[j] = sums_[part * bits_.size() + order[j]];
        }
    }

  private:
    static std::size_t row_stride(std::size_t n) { return n == 1 ? 1 : round_up(n, kColumnMultiple); }

    std::vector<std::size_t> largest_first(std::size_t parts) const {
        std::vector<double> total(bits_.size(), 0.0);
        for (std::size_t part = 0; part < parts; ++part)
            for (std::size_t j = 0; j < total.size(); ++j) total[j] += sums_[part * total.size() + j];
        std::vector<std::size_t> order = kept_;
        std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return total[a] > total[b]; });
        return order;
    }

    // Steps from t on, `most` of them, or until one leaves less of the state than there are directions.
    std::size_t hold(std::size_t t, std::size_t most) {
        for (std::size_t slot = 0; slot < most; ++slot) {
            tangent_.advance(driven_->input(*network_, t + slot, sample_), slot);
            finite_ = tangent_.finite(slot);
            if (!finite_ || tangent_.live(slot) < kept_.size()) return slot + 1;
        }
        return most;
    }

    void stretch(std::size_t held, double* sums) {
        for (std::size_t first = 0, steps = held; first < held && !kept_.empty();) {
            steps = std::min(steps, held - first);
            double* image = multiply(first, steps);
            if (steps > 1 && !in_range()) {
                steps = 1;
                continue;
            }
            if (steps == 1) leave_out([&](std::size_t j) { return largest_[j] == 0; }, image);
            qr_.run(size_, kept_.size(), ld_, image);
            const double condition = read_bits();
            if (steps > 1 && condition > kMostBits) {
                steps = std::clamp(static_cast<std::size_t>(static_cast<double>(steps) * kBits / condition),
                                   std::size_t{1}, steps - 1);
                continue;
            }
            const double most = static_cast<double>(steps) * kBits / std::max(condition, 1.0);
            steps_ = most >= 1 ? std::min(static_cast<std::size_t>(most), kMostSteps) : 1;
            for (std::size_t j = 0; j < kept_.size() && sums; ++j) sums[kept_[j]] += bits_[j];
            leave_out([&](std::size_t j) { return bits_[j] == kNegativeInfinity; }, image);
            std::swap(q_, image == product_.data() ? product_ : other_);
            first += steps;
        }
    }

    // J ... J q, some columns after the others, which stay near; sizes of its columns.
    double* multiply(std::size_t first, std::size_t steps) {
        double* last = nullptr;
        for (std::size_t column = 0; column < ld_; column += kMaxColumns) {
            const std::size_t columns = std::min(kMaxColumns, ld_ - column);
            const double* from = q_.data();
            double *to = product_.data(), *next = other_.data();
            for (std::size_t slot = first; slot < first + steps; ++slot) {
                tangent_.apply(slot, columns, ld_, from + column, to + column);
                from = to;
                std::swap(to, next);
            }
            last = next;
            isa_->get<double>().reduce->column_max(size_, columns, ld_, last + column, largest_.data() + column);
        }
        return last;
    }

    bool in_range() const {
        return std::all_of(largest_.begin(), largest_.begin() + static_cast<std::ptrdiff_t>(kept_.size()),
                           [](double x) { return x >= kLow && x <= kHigh; });
    }

    // log2 of the diagonal of R, and how far the product is from it at most.
    double read_bits() {
        constexpr double kSafe = 0x1p-400;
        const std::size_t n = kept_.size();
        double least = std::numeric_limits<double>::infinity(), most = 0;
        for (std::size_t j = 0; j < n; ++j) {
            bits_[j] = qr_.triangle(j)[j] * qr_.triangle(j)[j];
            least = std::min(least, bits_[j]);
            most = std::max(most, bits_[j]);
        }
        const bool safe = least > kSafe && most < 1 / kSafe;
        if (safe) isa_->get<double>().reduce->log2_norms(n, bits_.data(), bits_.data());
        least = std::numeric_limits<double>::infinity();
        for (std::size_t j = 0; j < n; ++j) {
            bits_[j] = (safe ? bits_[j] : std::log2(std::fabs(qr_.triangle(j)[j]))) + qr_.exponent();
            least = std::min(least, bits_[j]);
        }
        return std::log2(*std::max_element(largest_.data(), largest_.data() + n)) - least;
    }

    // Columns that are lost for good; the others move up.
    template <class Lost>
    void leave_out(Lost lost, double* tile) {
        std::vector<std::size_t> left;
        for (std::size_t j = 0; j < kept_.size(); ++j)
            if (!lost(j)) left.push_back(j);
        if (left.size() == kept_.size()) return;
        const std::size_t ld = row_stride(left.size());
        for (std::size_t i = 0; i < size_; ++i) {
            double* to = tile + i * ld;
            for (std::size_t j = 0; j < left.size(); ++j) to[j] = tile[i * ld_ + left[j]];
            std::fill(to + left.size(), to + ld, 0.0);
        }
        for (std::size_t j = 0; j < left.size(); ++j) {
            kept_[j] = kept_[left[j]];
            largest_[j] = largest_[left[j]];
            bits_[j] = bits_[left[j]];
        }
        kept_.resize(left.size());
        ld_ = ld;
    }

    const IsaKernels* isa_;
    const RecurrentNetwork<double>* network_;
    const DrivenSequences* driven_;
    std::size_t sample_, size_, ld_;
    RecurrentTangent tangent_;
    Qr qr_;
    std::size_t steps_ = 1, first_unknown_ = 0;
    bool finite_ = true;             // the last step's map
    std::vector<std::size_t> kept_;  // which direction a column is
    std::vector<double> largest_, bits_, sums_;
    AlignedBuffer<double> q_, product_, other_;
};

}  // namespace

void lyapunov_sums(const IsaKernels& isa, const RecurrentNetwork<double>& network, const DrivenSequences& driven,
                   std::size_t count, std::size_t parts, const std::int64_t* edges, double* sums,
                   Interrupt& interrupt) {
    const std::size_t size = state_size(network);
    const auto n = static_cast<double>(size);
    // Where not all units mix, the first unit vectors may never meet what is stretched most.
    const std::size_t fewest = weights_have_zeros(network) ? size : count;
    const Loop loop{driven.batch,
                    4 * n * n * static_cast<double>(fewest) * static_cast<double>(driven.steps * driven.batch)};
    parallel_for(loop, [&](std::size_t sample, std::size_t worker) {
        const std::int64_t* own = edges + sample * (parts + 1);
        const auto stretched = [&](std::size_t directions) {
            Stretched found(isa, network, driven, sample, directions);
            // Where one was lost, the others begin too few.
            const bool enough = found.run(parts, own, interrupt, worker) || directions == size;
            if (enough) found.store(parts, count, driven.batch * count, sums + sample * count);
            return enough;
        };
        if (!stretched(fewest)) stretched(size);
    });
}

}  // namespace gt
