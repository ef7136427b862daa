#include "ops/recurrent_tracer.h"

#include <algorithm>
#include <cmath>

namespace gt {

template <class T>
RecurrentTracer<T>::RecurrentTracer(const IsaKernels& isa, RecurrentNetwork<T> network, std::size_t steps,
                                    std::size_t batch, const std::int64_t* lengths, Purpose purpose,
                                    std::vector<std::size_t> windows)
    : isa_(isa), network_(std::move(network)), sequence_(steps, batch, lengths), windows_(std::move(windows)) {
    if (windows_.empty()) windows_ = {0, steps};
    plan(purpose);
}

// Every array of the trace in one arena, taken twice in the same order: for its size, and for its place.
template <class T>
void RecurrentTracer<T>::plan(Purpose purpose) {
    const CellShape& cell = cell_shape(network_.kind);
    const std::size_t rows = most_rows(), batch = sequence_.batch(), x = checked_multiply(rows, network_.inputs);
    const bool shared = purpose == Purpose::forward;
    bool opened = false;
    const auto place = [&](auto& pointer, std::size_t count) {
        using V = std::remove_reference_t<decltype(*pointer)>;
        if (opened)
            pointer = arena_.take<V>(count);
        else
            arena_.plan<V>(count);
    };
    memory_.resize(network_.layers.size());
    joined_.resize(network_.depth(), nullptr);
    joined_exponent_.resize(network_.depth(), nullptr);
    if (!shared && cell.gates) wide_z_ = std::vector<WideRows>(memory_.size());
    for (int pass = 0; pass < 2; ++pass) {
        if (pass == 1) {
            arena_.open();
            opened = true;
        }
        if (!sequence_.plain()) place(packed_x_, x);
        for (std::size_t k = 0; k < memory_.size(); ++k) {
            DirectionState<T>& s = memory_[k];
            const std::size_t n = shared ? network_.widest() : hidden(k),
                              h = checked_multiply(checked_add(rows, batch), hidden(k));
            place(s.h, h);
            if (cell.has_cell_state) place(s.c, h);
            place(s.h_exponent, rows + batch);
            if (shared && k > 0) {  // one layer after the other
                s.z = memory_[0].z;
                s.gate_sums = memory_[0].gate_sums;
                s.carry_log2 = memory_[0].carry_log2;
                s.carry_log2_units = memory_[0].carry_log2_units;
                continue;
            }
            place(s.z, checked_multiply(rows, checked_multiply(cell.row_blocks, n)));
            if (cell.gates == 0) continue;
            place(s.gate_sums, rows * 2 * cell.gates);
            place(s.carry_log2, rows);
            place(s.carry_log2_units, batch * n);
        }
        if (network_.directions == 1) continue;
        for (std::size_t l = 0; l < joined_.size(); ++l) {
            place(joined_[l], checked_multiply(rows, network_.outputs(l)));
            place(joined_exponent_[l], rows);
        }
    }
}

// The caller's rows may be subnormal, which the passes flush, or too large for a product: such a row of h carries an
// exponent; c is read again where it counts.
template <class T>
void RecurrentTracer<T>::load_states(std::size_t layer, const LayerArrays<const T>& h0,
                                     const LayerArrays<const T>& c0) {
    const SubnormalMode keep(Subnormals::keep);
    const std::size_t n = hidden(layer), batch = sequence_.batch();
    const auto load = [&](const LayerArrays<const T>& from, T* to) {
        if (to == nullptr) return;
        for (std::size_t slot = 0; slot < batch; ++slot) {
            if (from.empty()) {
                std::fill(to + slot * n, to + (slot + 1) * n, T(0));
            } else {
                const T* row = from[layer] + sequence_.sample(slot) * n;
                std::copy(row, row + n, to + slot * n);
            }
        }
    };
    DirectionState<T>& s = states_[layer];
    load(h0, s.h);
    load(c0, s.c);
    std::fill(s.h_exponent, s.h_exponent + batch, 0.0);
    if (h0.empty()) return;
    std::vector<double> norm(batch);
    log2_row_norms(isa_.get<T>(), batch, n, s.h, n, norm.data());
    carry_exponents(batch, n, s.h, s.h_exponent, norm.data());
}

// Rows that a product cannot take as they are.
template <class T>
bool RecurrentTracer<T>::leaves_format(double log2_norm) {
    return std::isfinite(log2_norm) && (log2_norm < Range<T>::input_low || log2_norm > Range<T>::input_high);
}

// Norms of rows, without the exponents that those get which leave the format.
template <class T>
void RecurrentTracer<T>::carry_exponents(std::size_t rows, std::size_t n, T* x, double* exponent, double* log2) const {
    for (std::size_t r = 0; r < rows; ++r) {
        if (!leaves_format(log2[r])) continue;
        exponent[r] = normalise_row(n, x + r * n, 0.0, x + r * n);
        log2[r] -= exponent[r];
    }
}

// x of the window in packed order; where a row leaves the format, all of it as a copy with exponents.
template <class T>
void RecurrentTracer<T>::load_input() {
    const SubnormalMode keep(Subnormals::keep);
    const std::size_t n = network_.inputs, batch = sequence_.batch(), before = sequence_.first_row(first_),
                      rows = sequence_.first_row(end_) - before;
    const T* from = nullptr;  // of step first_
    if (input_.read) {
        read_x_.reserve(checked_multiply(checked_multiply(end_ - first_, batch), n));
        input_.read(first_, end_, read_x_.data());
        from = read_x_.data();
    } else {
        from = input_.whole + first_ * batch * n;
    }
    T* own = nullptr;
    if (!sequence_.plain()) {
        own = packed_x_;
        for (std::size_t step = first_; step < end_; ++step)
            for (std::size_t slot = 0; slot < sequence_.active(step); ++slot)
                std::copy_n(from + ((step - first_) * batch + sequence_.sample(slot)) * n, n,
                            own + (sequence_.first_row(step) - before + slot) * n);
        from = own;
    }
    x_log2_.resize(rows);
    log2_row_norms(isa_.get<T>(), rows, n, from, n, x_log2_.data());
    x_exponent_.clear();
    if (std::any_of(x_log2_.begin(), x_log2_.end(), leaves_format)) {
        if (own == nullptr) {
            scaled_x_.reserve(checked_multiply(rows, n));
            std::copy(from, from + rows * n, scaled_x_.data());
            from = own = scaled_x_.data();
        }
        x_exponent_.assign(rows, 0.0);
        carry_exponents(rows, n, own, x_exponent_.data(), x_log2_.data());
    }
    x_ = from - before * n;
}

template <class T>
SequenceRows<T> RecurrentTracer<T>::layer_output(std::size_t stacked) const {
    if (network_.directions == 2) return {joined_[stacked], joined_exponent_[stacked]};
    const DirectionState<T>& s = states_[stacked];
    const std::size_t batch = sequence_.batch();
    return {s.h + batch * hidden(stacked), s.h_exponent + batch};
}

// Two rows beside each other at the exponent of the larger, which is returned; `exponent` of each.
template <class T>
static double side_by_side(std::size_t n, const T* const* halves, const double* exponent, T* to) {
    double common = exponent[0];
    if (exponent[0] != exponent[1]) {
        double top = kNegativeInfinity;
        for (std::size_t half = 0; half < 2; ++half)
            for (std::size_t u = 0; u < n; ++u)
                if (halves[half][u] != 0)
                    top = std::max(top, exponent_of(std::fabs(static_cast<double>(halves[half][u]))) + exponent[half]);
        common = std::isfinite(top) ? top : 0;
        if (std::fabs(common) <= kKeepBits) common = 0;
    }
    for (std::size_t half = 0; half < 2; ++half)
        for (std::size_t u = 0; u < n; ++u)
            to[half * n + u] =
                exponent[half] == common
                    ? halves[half][u]
                    : static_cast<T>(scale_by(static_cast<double>(halves[half][u]), exponent[half] - common));
    return common;
}

// h of both directions side by side, in the sequence's own order.
template <class T>
void RecurrentTracer<T>::join_directions(std::size_t stacked) {
    if (network_.directions == 1) return;
    const std::size_t n = hidden(2 * stacked), batch = sequence_.batch();
    const DirectionState<T>&forward = states_[2 * stacked], &reverse = states_[2 * stacked + 1];
    for (std::size_t step = 0; step < sequence_.steps(); ++step)
        for (std::size_t slot = 0; slot < sequence_.active(step); ++slot) {
            const std::size_t row = sequence_.first_row(step) + slot, there = sequence_.mirrored(step, slot);
            T* to = joined_[stacked] + row * 2 * n;
            const T* halves[] = {forward.h + (batch + row) * n, reverse.h + (batch + there) * n};
            const double exponent[] = {forward.h_exponent[batch + row], reverse.h_exponent[batch + there]};
            joined_exponent_[stacked][row] = side_by_side(n, halves, exponent, to);
        }
}

// A state with an infinite or NaN value has no gradient: its gates become NaN, and so does all that depends on them.
template <class T>
void RecurrentTracer<T>::find_nonfinite(std::size_t layer) {
    const std::size_t n = hidden(layer), row_size = cell_shape(network_.kind).row_blocks * n, batch = sequence_.batch();
    const DirectionState<T>& s = states_[layer];
    const auto finite = [&](const T* x, std::size_t count) { return isa_.get<T>().reduce->all_finite(count, x); };
    const std::size_t from = first_ ? batch + sequence_.first_row(first_) : 0,
                      all = (batch + sequence_.first_row(end_) - from) * n;
    if (finite(s.h + from * n, all) && (s.c == nullptr || finite(s.c + from * n, all))) return;
    for (std::size_t step = first_; step < end_; ++step)
        for (std::size_t slot = 0; slot < sequence_.active(step); ++slot) {
            const std::size_t row = sequence_.first_row(step) + slot, state = (batch + row) * n;
            if (finite(s.h + state, n) && (s.c == nullptr || finite(s.c + state, n))) continue;
            std::fill(s.z + row * row_size, s.z + (row + 1) * row_size, static_cast<T>(kNaN));
            if (first_nonfinite_ == 0 || step + 1 < first_nonfinite_) first_nonfinite_ = step + 1;
        }
}

template <class T>
void RecurrentTracer<T>::forward(const RecurrentInput<T>& x, const LayerArrays<const T>& h0,
                                 const LayerArrays<const T>& c0, Interrupt& interrupt) {
    const SubnormalMode flush(Subnormals::flush);
    first_nonfinite_ = 0;
    input_ = x;
    h0_ = h0;
    c0_ = c0;
    weights_.clear();
    for (const RecurrentLayer<T>& layer : network_.layers)
        weights_.push_back(std::make_unique<CellWeights<T>>(isa_, cell_shape(network_.kind), layer, sequence_.batch()));
    checkpoints_.assign(windows(), {});
    last_.assign(memory_.size(), {});
    for (std::size_t w = 0; w < windows(); ++w) {
        open_window(w);
        run_window(w, false, interrupt);
        collect_last();
        if (w + 1 < windows()) save_states(w + 1);
    }
}

// Times 2^exponent, to 0 or infinity where T ends.
template <class T>
static void scale_plainly(std::size_t count, double exponent, T* x) {
    for (std::size_t i = 0; exponent != 0 && i < count; ++i)
        x[i] = static_cast<T>(scale_by(static_cast<double>(x[i]), exponent));
}

template <class T>
void RecurrentTracer<T>::store_output(T* y) const {
    const std::size_t outputs = network_.outputs();
    if (!sequence_.plain()) std::fill(y, y + sequence_.steps() * sequence_.batch() * outputs, T(0));
    const SequenceRows<T> last = layer_output(network_.depth() - 1);
    sequence_.unpack(last.rows, outputs, y);
    sequence_.for_each(
        [&](std::size_t row, std::size_t source) { scale_plainly(outputs, last.exponent[row], y + source * outputs); });
}

template <class T>
void RecurrentTracer<T>::store_final(const LayerArrays<T>& h_n, const LayerArrays<T>& c_n) const {
    for (std::size_t k = 0; k < last_.size(); ++k)
        for (std::size_t slot = 0; slot < sequence_.batch(); ++slot) {
            const std::size_t n = hidden(k), to = sequence_.sample(slot) * n;
            std::copy_n(last_[k].h.data() + slot * n, n, h_n[k] + to);
            scale_plainly(n, last_[k].exponent[slot], h_n[k] + to);
            if (!c_n.empty()) std::copy_n(last_[k].c.data() + slot * n, n, c_n[k] + to);
        }
}

template <class T>
bool RecurrentTracer<T>::store_forward(std::size_t layer, const ForwardOutputs<T>& out) const {
    std::vector<double> kept(sequence_.batch(), 0.0);
    store_retention(layer, out, &kept);
    store_half_life(layer, out, kept);
    return keep_states(layer, out);
}

template class RecurrentTracer<float>;
template class RecurrentTracer<double>;

}  // namespace gt
