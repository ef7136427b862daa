// Influence of every state on every later one: as many backward passes as there are steps, carried side by side, since
// a step's coefficients are the same for all of them.
#include <algorithm>

#include "ops/backward_step.h"
#include "ops/recurrent_tracer.h"

namespace gt {
namespace {

constexpr std::size_t kRowsTogether = 256;  // pairs (s, sample) in one product

// The passes that start at states (first, last]: rows by falling s, every sample in each.
template <class T>
class InfluencePasses {
  public:
    InfluencePasses(const DirectionContext<T>& context, const CellWeights<T>& weights, const DirectionState<T>& state,
                    std::size_t first, std::size_t last)
        : context_(context),
          sequence_(context.sequence),
          weights_(weights),
          state_(state),
          first_(first),
          last_(last),
          batch_(sequence_.batch()),
          n_(context.hidden),
          wide_(context, state),
          step_(context.kernels(), context.cell_kernels(), context.kind, n_, (last - first) * batch_,
                BackwardStep<T>::Split::dropped),
          z_(batch_ * context.row_size()),
          before_(batch_ * n_),
          c_before_(batch_ * n_),
          c_(batch_ * n_) {}

    void run(const T* u, double* log2_dh, double* log2_dc, std::size_t worker) {
        log2_dh_ = log2_dh;
        log2_dc_ = log2_dc;
        for (std::size_t t = last_; t > 0; --t) {
            if (context_.interrupt.requested(worker)) return;
            const std::size_t passes = last_ - std::max(t, first_ + 1) + 1, rows = passes * batch_;
            const bool starts = t > first_;
            if (starts) start(t, u);
            step_.take(values(t - 1), batch_, &wide_, t - 1, 0);
            step_.run(rows, starts);
            for (std::size_t r = 0; r < rows; ++r)
                record(r, t, step_.log2(r, kDh), log2_dc_ ? step_.log2(r, kDc) : 0.0);
            step_.propagate(rows, weights_.hh);
            step_.advance(rows);
            if (starts) step_.u.clear(rows - batch_, rows, n_);
        }
        initial_state();
    }

  private:
    void start(std::size_t t, const T* u) {
        const std::size_t from = (last_ - t) * batch_;
        step_.p.clear(from, from + batch_, n_);
        if (context_.cell().carries) step_.carried.clear(from, from + batch_, n_);
        for (std::size_t slot = 0; slot < batch_; ++slot) {
            if (sequence_.length(slot) < t) continue;
            const T* row = u + sequence_.sample(slot) * n_;
            T* to = step_.u.row.data() + (from + slot) * n_;
            step_.u.exponent[from + slot] = normalise_row(n_, row, 0.0, to);
            log2_row_norms(context_.kernels(), 1, n_, to, n_, &step_.u.log2[from + slot]);
            step_.u.log2[from + slot] += step_.u.exponent[from + slot];
        }
    }

    // What the forward pass kept of a step, zeros for samples that have ended.
    StepValues<T> values(std::size_t step) {
        const std::size_t active = sequence_.active(step), row_size = context_.row_size();
        const auto load = [&](const T* from, std::size_t width, AlignedBuffer<T>& to) -> const T* {
            if (from == nullptr) return nullptr;
            std::fill(std::copy(from, from + active * width, to.data()), to.data() + batch_ * width, T(0));
            return to.data();
        };
        const std::size_t before = context_.previous_state(step, 0) * n_, now = context_.state(step, 0) * n_;
        const T *c_before = state_.c ? state_.c + before : nullptr, *c = state_.c ? state_.c + now : nullptr;
        const T* h =
            plain_rows(active, n_, state_.h + before, state_.h_exponent + context_.previous_state(step, 0), &plain_h_);
        return {.z = load(state_.z + sequence_.first_row(step) * row_size, row_size, z_),
                .h_previous = load(h, n_, before_),
                .c_previous = load(c_before, n_, c_before_),
                .c = load(c, n_, c_)};
    }

    void record(std::size_t r, std::size_t t, double dh, double dc) {
        const std::size_t s = last_ - r / batch_, slot = r % batch_, states = sequence_.steps() + 1;
        if (sequence_.length(slot) < s) return;
        const std::size_t at = (s * states + t) * batch_ + sequence_.sample(slot);
        log2_dh_[at] = dh;
        if (log2_dc_) log2_dc_[at] = dc;
    }

    void initial_state() {
        const bool has_c = context_.cell().has_cell_state, joined = context_.cell().carries && !has_c;
        std::vector<T> sum(n_);
        for (std::size_t r = 0; r < (last_ - first_) * batch_; ++r) {
            double dh = step_.p.log2[r];
            if (joined) {
                const double exponent = sum_of_rows<T>(n_,
                                                       {{step_.carried.row.data() + r * n_, step_.carried.exponent[r]},
                                                        {step_.p.row.data() + r * n_, step_.p.exponent[r]}},
                                                       sum.data());
                log2_row_norms(context_.kernels(), 1, n_, sum.data(), n_, &dh);
                dh += exponent;
            }
            record(r, 0, dh, has_c ? step_.carried.log2[r] : 0.0);
        }
    }

    const DirectionContext<T>& context_;
    const PackedSequence& sequence_;
    const CellWeights<T>& weights_;
    const DirectionState<T>& state_;
    std::size_t first_, last_, batch_, n_;
    WideStates<T> wide_;
    BackwardStep<T> step_;
    std::vector<T> plain_h_;
    AlignedBuffer<T> z_, before_, c_before_, c_;
    double *log2_dh_ = nullptr, *log2_dc_ = nullptr;
};

}  // namespace

template <class T>
void RecurrentTracer<T>::influence(std::size_t layer, const T* u, double* log2_dh, double* log2_dc,
                                   Interrupt& interrupt) const {
    const DirectionContext<T> here = context(layer, interrupt);
    const std::size_t steps = sequence_.steps(), batch = sequence_.batch(), n = hidden(layer);
    const std::size_t together = std::max<std::size_t>(1, kRowsTogether / batch);
    const PackedMatrix<T>& hh = weights_[layer]->hh;
    const double pairs = 0.5 * static_cast<double>(steps) * static_cast<double>(steps) * static_cast<double>(batch);
    const Loop loop{(steps + together - 1) / together, 2 * pairs * static_cast<double>(hh.inputs * hh.outputs)};
    parallel_for(loop, [&](std::size_t i, std::size_t worker) {
        const std::size_t last = steps - i * together, first = last < together ? 0 : last - together;  // longest first
        InfluencePasses<T>(here, *weights_[layer], states_[layer], first, last).run(u, log2_dh, log2_dc, worker);
    });
    if (interrupt.stopped()) throw Interrupted{};
    std::vector<double> norm(batch);
    {
        const SubnormalMode keep(Subnormals::keep);
        log2_row_norms(isa_.get<T>(), batch, n, u, n, norm.data());
    }
    for (std::size_t b = 0; b < batch; ++b) {
        log2_dh[b] = norm[b];
        if (log2_dc) log2_dc[b] = kNegativeInfinity;  // h_0 is given: it does not depend on c_0
    }
}

template void RecurrentTracer<float>::influence(std::size_t, const float*, double*, double*, Interrupt&) const;
template void RecurrentTracer<double>::influence(std::size_t, const double*, double*, double*, Interrupt&) const;

}  // namespace gt
