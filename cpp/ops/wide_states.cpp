#include "ops/wide_states.h"

#include <algorithm>
#include <cmath>

#include "ops/subnormals.h"
#include "ops/wide_step.h"

namespace gt {
namespace {

// tanh(a) - tanh(b), which does not cancel where both round to 1 or to each other.
Wide difference_of_tanh(Wide a, Wide b) {
    constexpr double kClose = 1, kLinear = -30;
    const Wide d = a - b;
    if (d.m == 0 || !d.finite()) return d;
    const double x = plain(a), y = plain(b);
    if (std::fabs(plain(d)) < kClose) {  // sinh(a - b) / (cosh a cosh b)
        const auto sech = [](double v) { return wide(2) * wide_exp(-std::fabs(v)) * wide_sigmoid(2 * std::fabs(v)); };
        return (d.e < kLinear ? d : wide(std::sinh(plain(d)))) * sech(x) * sech(y);
    }
    const bool up = x + y > 0;  // 1 - tanh v = 2 sigma(-2 v)
    const auto left = [&](double v) { return wide(2) * wide_sigmoid(up ? -2 * v : 2 * v); };
    return up ? left(y) - left(x) : left(x) - left(y);
}

// h - tanh(in) of one unit along time, by two ways, each with a bound on what rounding did; the better one counts.
//
//   from the one before:  h_t - n_{t+1} = z_t (h_{t-1} - n_t) + (n_t - n_{t+1})
//   from the gap to +-1:  1 -+ h_t = (1 - z_t) (1 -+ n_t) + z_t (1 -+ h_{t-1}),  all terms positive
class Difference {
  public:
    explicit Difference(Wide h) : up_(wide(1) - h), down_(wide(1) + h), h_(h) {}

    // Of the step with candidate tanh(in) and update gate sigma(z), then the state moves on.
    Wide next(Wide in, double z) {
        const double x = plain(in);
        const Wide n = wide_tanh(in), n_up = wide(2) * wide_sigmoid(-2 * x), n_down = wide(2) * wide_sigmoid(2 * x);
        if (first_) {
            const Guess only = from_gap(n, n_up, n_down);
            value_ = only.value;
            error_ = only.error;
            first_ = false;
        } else {
            const Wide kept = keep_ * value_, moved = difference_of_tanh(in_, in);
            const Guess step{kept + moved, keep_ * error_ + rounding(absolute(kept) + absolute(moved))},
                gap = from_gap(n, n_up, n_down);
            const bool better = step.error < gap.error;
            value_ = better ? step.value : gap.value;
            error_ = better ? step.error : gap.error;
        }
        in_ = in;
        keep_ = wide_sigmoid(z);
        const Wide take = wide_sigmoid(-z);
        up_ = take * n_up + keep_ * up_;
        down_ = take * n_down + keep_ * down_;
        h_ = take * n + keep_ * h_;
        return value_;
    }

  private:
    struct Guess {
        Wide value, error;
    };

    static Wide rounding(Wide size) { return {size.m, size.e - 50}; }
    static Guess difference(Wide a, Wide b) { return {a - b, rounding(absolute(a) + absolute(b))}; }
    Guess from_gap(Wide n, Wide n_up, Wide n_down) const {
        Guess best = difference(h_, n);
        for (const Guess& other : {difference(n_up, up_), difference(down_, n_down)})
            if (other.error < best.error) best = other;
        return best;
    }

    Wide up_, down_, h_, value_, error_, in_, keep_;
    bool first_ = true;
};

}  // namespace

template <class T>
WideStates<T>::WideStates(const DirectionContext<T>& context, const DirectionState<T>& state)
    : context_(context), state_(state), n_(context.hidden) {}

template <class T>
const Wide* WideStates<T>::record(std::size_t step, std::size_t slot) const {
    return state_.wide_z ? (*state_.wide_z)[context_.sequence.first_row(step) + slot].get() : nullptr;
}

template <class T>
Wide WideStates<T>::initial(const T* rows, double exponent, std::size_t slot, std::size_t u) const {
    const SubnormalMode keep(Subnormals::keep);
    return wide(static_cast<double>(rows[slot * n_ + u]), exponent);
}

// An LSTM's c before the window's first step, which is not the sequence's.
template <class T>
Wide WideStates<T>::carried(std::size_t slot, std::size_t u) const {
    const WideCarry& before = *state_.wide_before;
    if (before.any() && before.at[slot] == first_) return before.rows[slot * n_ + u];
    return wide(static_cast<double>(state_.c[context_.previous_state(first_, slot) * n_ + u]));
}

template <class T>
void WideStates<T>::start_window(std::size_t first) {
    first_ = first;
    histories_.clear();
}

template <class T>
void WideStates<T>::run_lstm(std::size_t steps, std::size_t slot, History* out) const {
    out->rows.resize((steps - first_ + 1) * n_);
    for (std::size_t u = 0; u < n_; ++u) out->rows[u] = first_ ? carried(slot, u) : initial(state_.c, 0, slot, u);
    for (std::size_t t = first_; t < steps; ++t) {
        Wide* c = out->rows.data() + (t - first_ + 1) * n_;
        std::copy(c - n_, c, c);
        wide_lstm_step(n_, z(t, slot), record(t, slot), c, nullptr);
    }
}

template <class T>
void WideStates<T>::run_gru(std::size_t steps, std::size_t slot, History* out) const {
    const CellShape& cell = context_.cell();
    if (first_) throw HistoryLost{};
    out->rows.resize(steps * n_);
    for (std::size_t u = 0; u < n_; ++u) {
        Difference difference(initial(state_.h, state_.h_exponent[slot], slot, u));
        for (std::size_t t = 0; t < steps; ++t) {
            const T* row = z(t, slot);
            const Wide* wide_row = record(t, slot);
            const Wide in = wide_row ? wide_row[u] : wide(static_cast<double>(row[cell.candidate_block * n_ + u]));
            out->rows[t * n_ + u] = difference.next(in, static_cast<double>(row[cell.carry_block() * n_ + u]));
        }
    }
}

template <class T>
const typename WideStates<T>::History& WideStates<T>::history(std::size_t step, std::size_t slot) {
    History& of_slot = histories_[slot];
    if (of_slot.steps > step) return of_slot;
    of_slot.steps = step + 1;
    if (context_.cell().has_cell_state)
        run_lstm(of_slot.steps, slot, &of_slot);
    else
        run_gru(of_slot.steps, slot, &of_slot);
    return of_slot;
}

template <class T>
const Wide* WideStates<T>::c(std::size_t state, std::size_t slot) {
    return history(state == 0 ? 0 : state - 1, slot).rows.data() + (state - first_) * n_;
}

template <class T>
WideFactors WideStates<T>::factors(std::size_t step, std::size_t slot) {
    WideFactors out;
    const CellShape& cell = context_.cell();
    if (cell.gates == 0) return out;
    const Wide* kept = record(step, slot);
    const std::size_t block = cell.has_cell_state ? cell.candidate_block : cell.recurrent_block();
    if (kept == nullptr && block < cell.row_blocks) {
        from_z_.resize(n_);
        for (std::size_t u = 0; u < n_; ++u) from_z_[u] = wide(static_cast<double>(z(step, slot)[block * n_ + u]));
    }
    if (cell.has_cell_state) {
        out.candidate = kept ? kept : from_z_.data();
        out.c_previous = history(step, slot).rows.data() + (step - first_) * n_;
        out.c = out.c_previous + n_;
    } else {
        if (cell.has_recurrent_block()) out.recurrent = kept ? kept + n_ : from_z_.data();
        out.difference = history(step, slot).rows.data() + step * n_;
    }
    return out;
}

template class WideStates<float>;
template class WideStates<double>;

}  // namespace gt
