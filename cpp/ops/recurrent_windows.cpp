// A recurrent network's steps in windows: the states before each are kept, and what the forward pass leaves of it is
// computed again before its backward pass. Also what is told of the forward pass, window by window from the last.
#include <algorithm>
#include <numeric>

#include "ops/recurrent_windows.h"

namespace gt {

template <class T>
std::size_t RecurrentTracer<T>::most_rows() const {
    std::size_t most = 0;
    for (std::size_t w = 0; w < windows(); ++w)
        most = std::max(most, sequence_.first_row(windows_[w + 1]) - sequence_.first_row(windows_[w]));
    return most;
}

// Lets the rows of the window stand in the trace's memory.
template <class T>
void RecurrentTracer<T>::open_window(std::size_t w) {
    const CellShape& cell = cell_shape(network_.kind);
    first_ = windows_[w];
    end_ = windows_[w + 1];
    states_ = memory_;
    if (w == 0) return;
    const std::size_t row = sequence_.first_row(first_),
                      state = sequence_.batch() + sequence_.first_row(first_ - 1);  // of the step before
    for (std::size_t k = 0; k < states_.size(); ++k) {
        DirectionState<T>& s = states_[k];
        s.z -= row * cell.row_blocks * hidden(k);
        s.h -= state * hidden(k);
        if (s.c) s.c -= state * hidden(k);
        s.h_exponent -= state;
        if (cell.gates == 0) continue;
        s.gate_sums -= row * 2 * cell.gates;
        s.carry_log2 -= row;
    }
}

template <class T>
void RecurrentTracer<T>::run_window(std::size_t w, bool again, Interrupt& interrupt) {
    const std::size_t batch = sequence_.batch(), row = sequence_.first_row(first_);
    load_input();
    if (carries_.empty()) carries_.resize(memory_.size());
    for (std::size_t k = 0; k < states_.size(); ++k) {
        DirectionState<T>& s = states_[k];
        if (w == 0)
            load_states(k, h0_, c0_);
        else
            restore_states(k, checkpoints_[w][k]);
        if (!wide_z_.empty()) {
            wide_z_[k].start(row, sequence_.first_row(end_) - row);
            s.wide_z = &wide_z_[k];
        }
        if (again) {  // what adds up over the steps has done so
            spare_units_.resize(batch * network_.widest());
            s.carry_log2_units = spare_units_.data();
        }
        if (windows() > 1) {
            if (w > 0) s.wide_before = &checkpoints_[w][k].wide;
            carries_[k] = {std::vector<Wide>(batch * hidden(k)),
                           std::vector<std::size_t>(batch, std::numeric_limits<std::size_t>::max()),
                           std::vector<std::uint8_t>(batch)};
            s.wide_after = &carries_[k];
        }
        direction_forward(context(k, interrupt), *weights_[k], layer_input(k / network_.directions), s, first_, end_);
        if (interrupt.stopped()) throw Interrupted{};
        find_nonfinite(k);
        if ((k + 1) % network_.directions == 0) join_directions(k / network_.directions);
    }
}

template <class T>
void RecurrentTracer<T>::save_states(std::size_t w) {
    const std::size_t rows = sequence_.active(end_ - 1), state = sequence_.batch() + sequence_.first_row(end_ - 1);
    for (std::size_t k = 0; k < states_.size(); ++k) {
        const std::size_t n = hidden(k);
        const DirectionState<T>& s = states_[k];
        StateRows to;
        to.h.assign(s.h + state * n, s.h + (state + rows) * n);
        if (s.c) to.c.assign(s.c + state * n, s.c + (state + rows) * n);
        to.exponent.assign(s.h_exponent + state, s.h_exponent + state + rows);
        const WideCarry& carry = carries_[k];
        if (std::count(carry.at.begin(), carry.at.end(), end_)) to.wide = carry;
        checkpoints_[w].push_back(std::move(to));
    }
}

template <class T>
void RecurrentTracer<T>::restore_states(std::size_t layer, const StateRows& from) {
    std::copy(from.h.begin(), from.h.end(), memory_[layer].h);
    if (memory_[layer].c) std::copy(from.c.begin(), from.c.end(), memory_[layer].c);
    std::copy(from.exponent.begin(), from.exponent.end(), memory_[layer].h_exponent);
}

// Of the slots that end in the window.
template <class T>
void RecurrentTracer<T>::collect_last() {
    const std::size_t batch = sequence_.batch();
    for (std::size_t k = 0; k < states_.size(); ++k) {
        const std::size_t n = hidden(k);
        const DirectionState<T>& s = states_[k];
        StateRows& to = last_[k];
        to.h.resize(batch * n);
        to.c.resize(s.c ? batch * n : 0);
        to.exponent.resize(batch);
        for (std::size_t slot = 0; slot < batch; ++slot) {
            const std::size_t length = sequence_.length(slot);
            if (length <= first_ || length > end_) continue;
            const std::size_t row = batch + sequence_.first_row(length - 1) + slot;
            std::copy_n(s.h + row * n, n, to.h.data() + slot * n);
            if (s.c) std::copy_n(s.c + row * n, n, to.c.data() + slot * n);
            to.exponent[slot] = s.h_exponent[row];
        }
    }
}

// Gates of the window's steps, and what forget gates keep of a state up to its slot's end: `kept` of the window behind.
template <class T>
void RecurrentTracer<T>::store_retention(std::size_t layer, const ForwardOutputs<T>& out,
                                         std::vector<double>* kept) const {
    const DirectionState<T>& s = states_[layer];
    const std::size_t n = hidden(layer), batch = sequence_.batch(), gates = cell_shape(network_.kind).gates;
    if (gates == 0) return;
    for (std::size_t step = first_; step < end_; ++step) {
        const double count = static_cast<double>(sequence_.active(step) * n);
        const auto mean_of = [&](std::size_t column) {
            double sum = 0;
            for (std::size_t slot = 0; slot < sequence_.active(step); ++slot)
                sum += s.gate_sums[(sequence_.first_row(step) + slot) * 2 * gates + column];
            return sum / count;
        };
        for (std::size_t g = 0; g < gates; ++g) {
            out.gate_mean[step * gates + g] = mean_of(g);
            out.gate_saturated[step * gates + g] = mean_of(gates + g);
        }
    }
    for (std::size_t slot = 0; slot < batch; ++slot) {
        double& sum = (*kept)[slot];
        const std::size_t sample = sequence_.sample(slot);
        for (std::size_t state = std::min(sequence_.length(slot), end_); state > first_; --state) {
            out.log2_retention[state * batch + sample] = sum;
            sum += s.carry_log2[sequence_.first_row(state - 1) + slot] / static_cast<double>(n);
        }
        if (first_ == 0) out.log2_retention[sample] = sum;
    }
}

template <class T>
void RecurrentTracer<T>::store_half_life(std::size_t layer, const ForwardOutputs<T>& out,
                                         const std::vector<double>& kept) const {
    if (cell_shape(network_.kind).gates == 0) return;
    const std::size_t n = hidden(layer);
    // A gate that never lets go has no half-life: infinity, not its negative.
    const auto half_life = [&](double sum) { return -static_cast<double>(sequence_.rows()) / (sum == 0 ? -0.0 : sum); };
    *out.forget_half_life = half_life(std::accumulate(kept.begin(), kept.end(), 0.0));
    for (std::size_t u = 0; u < n; ++u) {
        double sum = 0;
        for (std::size_t slot = 0; slot < sequence_.batch(); ++slot)
            sum += memory_[layer].carry_log2_units[slot * n + u];
        out.half_life_by_unit[u] = half_life(sum);
    }
}

template <class T>
WindowCosts window_costs(const RecurrentNetwork<T>& network, std::size_t steps, std::size_t batch) {
    const CellShape& cell = cell_shape(network.kind);
    WindowCosts costs{.steps = steps};
    // x, its norms and dL/dx.
    std::size_t widest = network.inputs;
    for (const RecurrentLayer<T>& layer : network.layers) {
        const std::size_t n = layer.hidden;
        costs.step = checked_add(costs.step, (cell.row_blocks + 1 + cell.has_cell_state) * n * sizeof(T) +
                                                 (2 * cell.gates + 3) * sizeof(double));
        costs.checkpoint = checked_add(costs.checkpoint, (1 + cell.has_cell_state) * n * sizeof(T) + sizeof(double));
        costs.fixed = checked_add(costs.fixed, 16 * cell.row_blocks * n * (n + layer.inputs) * sizeof(T));
        const std::size_t chunk = std::max<std::size_t>(1, (n < 256 ? 256 : 512) / batch);
        costs.multiple = std::lcm(costs.multiple, chunk);
        widest = std::max(widest, layer.inputs);
    }
    costs.step = checked_multiply(costs.step + (3 * widest) * sizeof(T) + 10 * sizeof(double), batch);
    costs.checkpoint = checked_multiply(costs.checkpoint, batch);
    return costs;
}

std::vector<std::size_t> WindowCosts::cut(std::size_t memory) const {
    const auto windows_of = [&](std::size_t length) {
        std::vector<std::size_t> starts{steps};
        while (starts.back() > length) starts.push_back(starts.back() - length);
        starts.push_back(0);
        std::reverse(starts.begin(), starts.end());
        return starts;
    };
    std::size_t least = whole(), best = steps;
    for (std::size_t length = multiple; length < steps; length += multiple) {
        const std::size_t bytes = bytes_of(length);
        if (bytes >= least) {
            if (length > 2 * best) break;
            continue;
        }
        least = bytes;
        best = length;
    }
    if (memory == 0) return windows_of(best);
    if (least > memory) throw MemoryTooSmall{least};
    // From the shortest windows that fit, longer ones while they do.
    std::size_t length = best;
    while (length + multiple < steps && bytes_of(length + multiple) <= memory) length += multiple;
    return windows_of(whole() <= memory ? steps : length);
}

#define GT_INSTANTIATE(T)                                                                                          \
    template WindowCosts window_costs<T>(const RecurrentNetwork<T>&, std::size_t, std::size_t);                    \
    template std::size_t RecurrentTracer<T>::most_rows() const;                                                    \
    template void RecurrentTracer<T>::open_window(std::size_t);                                                    \
    template void RecurrentTracer<T>::run_window(std::size_t, bool, Interrupt&);                                   \
    template void RecurrentTracer<T>::save_states(std::size_t);                                                    \
    template void RecurrentTracer<T>::restore_states(std::size_t, const StateRows&);                               \
    template void RecurrentTracer<T>::collect_last();                                                              \
    template void RecurrentTracer<T>::store_retention(std::size_t, const ForwardOutputs<T>&, std::vector<double>*) \
        const;                                                                                                     \
    template void RecurrentTracer<T>::store_half_life(std::size_t, const ForwardOutputs<T>&,                       \
                                                      const std::vector<double>&) const;
GT_INSTANTIATE(float)
GT_INSTANTIATE(double)
#undef GT_INSTANTIATE

}  // namespace gt
