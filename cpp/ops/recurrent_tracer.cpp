#include "ops/recurrent_tracer.h"

#include <algorithm>
#include <cmath>

namespace gt {

template <class T>
RecurrentTracer<T>::RecurrentTracer(const IsaKernels& isa, RecurrentNetwork<T> network, std::size_t steps,
                                    std::size_t batch, const std::int64_t* lengths, Purpose purpose)
    : isa_(isa), network_(std::move(network)), sequence_(steps, batch, lengths) {
    plan(purpose);
}

// Every array of the trace in one arena, taken twice in the same order: for its size, and for its place.
template <class T>
void RecurrentTracer<T>::plan(Purpose purpose) {
    const CellShape& cell = cell_shape(network_.kind);
    const std::size_t rows = sequence_.rows(), batch = sequence_.batch(), n = network_.hidden;
    const std::size_t z = checked_multiply(rows, checked_multiply(cell.row_blocks, n)),
                      h = checked_multiply(checked_add(rows, batch), n), y = checked_multiply(rows, network_.outputs()),
                      x = checked_multiply(rows, network_.inputs);
    const bool shared = purpose == Purpose::forward;
    bool opened = false;
    const auto place = [&](auto& pointer, std::size_t count) {
        using V = std::remove_reference_t<decltype(*pointer)>;
        if (opened)
            pointer = arena_.take<V>(count);
        else
            arena_.plan<V>(count);
    };
    states_.resize(network_.layers.size());
    joined_.resize(network_.depth(), nullptr);
    for (int pass = 0; pass < 2; ++pass) {
        if (pass == 1) {
            arena_.open();
            opened = true;
        }
        if (!sequence_.plain()) place(packed_x_, x);
        for (std::size_t k = 0; k < states_.size(); ++k) {
            DirectionState<T>& s = states_[k];
            place(s.h, h);
            if (cell.has_cell_state) place(s.c, h);
            if (shared && k > 0) {  // one layer after the other
                s.z = states_[0].z;
                s.gate_sums = states_[0].gate_sums;
                s.carry_log2 = states_[0].carry_log2;
                s.carry_log2_units = states_[0].carry_log2_units;
                continue;
            }
            place(s.z, z);
            if (cell.gates == 0) continue;
            place(s.gate_sums, rows * 2 * cell.gates);
            place(s.carry_log2, rows);
            place(s.carry_log2_units, batch * n);
        }
        if (network_.directions == 2)
            for (T*& joined : joined_) place(joined, y);
    }
}

template <class T>
void RecurrentTracer<T>::load_states(std::size_t layer, const T* h0, const T* c0) {
    const std::size_t n = network_.hidden, batch = sequence_.batch();
    const auto load = [&](const T* from, T* to) {
        if (to == nullptr) return;
        for (std::size_t slot = 0; slot < batch; ++slot) {
            if (from == nullptr) {
                std::fill(to + slot * n, to + (slot + 1) * n, T(0));
            } else {
                const T* row = from + (layer * batch + sequence_.sample(slot)) * n;
                std::copy(row, row + n, to + slot * n);
            }
        }
    };
    load(h0, states_[layer].h);
    load(c0, states_[layer].c);
}

template <class T>
const T* RecurrentTracer<T>::layer_output(std::size_t stacked) const {
    if (network_.directions == 2) return joined_[stacked];
    return states_[stacked].h + sequence_.batch() * network_.hidden;
}

// h of both directions side by side, in the sequence's own order.
template <class T>
void RecurrentTracer<T>::join_directions(std::size_t stacked) {
    if (network_.directions == 1) return;
    const std::size_t n = network_.hidden, batch = sequence_.batch();
    for (std::size_t d = 0; d < 2; ++d) {
        const T* h = states_[2 * stacked + d].h + batch * n;
        for (std::size_t step = 0; step < sequence_.steps(); ++step)
            for (std::size_t slot = 0; slot < sequence_.active(step); ++slot) {
                const std::size_t from = sequence_.first_row(step) + slot;
                const std::size_t to = d == 0 ? from : sequence_.mirrored(step, slot);
                std::copy(h + from * n, h + (from + 1) * n, joined_[stacked] + to * 2 * n + d * n);
            }
    }
}

// A state with an infinite or NaN value has no gradient: its gates become NaN, and so does all that depends on them.
template <class T>
void RecurrentTracer<T>::find_nonfinite(std::size_t layer) {
    const std::size_t n = network_.hidden, row_size = cell_shape(network_.kind).row_blocks * n;
    const DirectionState<T>& s = states_[layer];
    const auto finite = [&](const T* x, std::size_t count) {  // squares may overflow where values do not
        double squares = 0;
        T largest = 0;
        isa_.get<T>().reduce->flat_squares(count, x, &squares, &largest);
        return std::isfinite(squares) || (!std::isnan(squares) && std::isfinite(largest));
    };
    const std::size_t all = (sequence_.batch() + sequence_.rows()) * n;
    if (finite(s.h, all) && (s.c == nullptr || finite(s.c, all))) return;
    for (std::size_t step = 0; step < sequence_.steps(); ++step)
        for (std::size_t slot = 0; slot < sequence_.active(step); ++slot) {
            const std::size_t row = sequence_.first_row(step) + slot, state = (sequence_.batch() + row) * n;
            if (finite(s.h + state, n) && (s.c == nullptr || finite(s.c + state, n))) continue;
            std::fill(s.z + row * row_size, s.z + (row + 1) * row_size, static_cast<T>(kNaN));
            if (first_nonfinite_ == 0 || step + 1 < first_nonfinite_) first_nonfinite_ = step + 1;
        }
}

template <class T>
void RecurrentTracer<T>::forward(const T* x, const T* h0, const T* c0, Interrupt& interrupt) {
    const SubnormalMode flush(Subnormals::flush);
    x_ = x;
    if (!sequence_.plain()) {
        sequence_.pack(x, network_.inputs, packed_x_);
        x_ = packed_x_;
    }
    weights_.clear();
    for (const RecurrentLayer<T>& layer : network_.layers)
        weights_.push_back(std::make_unique<CellWeights<T>>(isa_, cell_shape(network_.kind), network_.hidden, layer));
    for (std::size_t k = 0; k < states_.size(); ++k) {
        const std::size_t stacked = k / network_.directions, direction = k % network_.directions;
        load_states(k, h0, c0);
        direction_forward(context(direction, interrupt), *weights_[k], layer_input(stacked), states_[k]);
        if (interrupt.stopped()) throw Interrupted{};
        find_nonfinite(k);
        if (direction + 1 == network_.directions) join_directions(stacked);
    }
}

template <class T>
void RecurrentTracer<T>::store_output(T* y) const {
    const std::size_t outputs = network_.outputs();
    if (!sequence_.plain()) std::fill(y, y + sequence_.steps() * sequence_.batch() * outputs, T(0));
    sequence_.unpack(layer_output(network_.depth() - 1), outputs, y);
}

template <class T>
void RecurrentTracer<T>::store_final(T* h_n, T* c_n) const {
    const std::size_t n = network_.hidden, batch = sequence_.batch();
    for (std::size_t k = 0; k < states_.size(); ++k)
        for (std::size_t slot = 0; slot < batch; ++slot) {
            const std::size_t last = batch + sequence_.first_row(sequence_.length(slot) - 1) + slot,
                              to = (k * batch + sequence_.sample(slot)) * n;
            std::copy(states_[k].h + last * n, states_[k].h + (last + 1) * n, h_n + to);
            if (c_n) std::copy(states_[k].c + last * n, states_[k].c + (last + 1) * n, c_n + to);
        }
}

template <class T>
bool RecurrentTracer<T>::store_forward(std::size_t layer, const ForwardOutputs<T>& out) const {
    const CellShape& cell = cell_shape(network_.kind);
    const DirectionState<T>& s = states_[layer];
    const std::size_t n = network_.hidden, batch = sequence_.batch(), rows = sequence_.rows(), gates = cell.gates,
                      row_size = cell.row_blocks * n;
    bool fits = true;
    if (gates) {
        for (std::size_t step = 0; step < sequence_.steps(); ++step) {
            const double count = static_cast<double>(sequence_.active(step) * n);
            for (std::size_t g = 0; g < 2 * gates; ++g) {
                double sum = 0;
                for (std::size_t slot = 0; slot < sequence_.active(step); ++slot)
                    sum += s.gate_sums[(sequence_.first_row(step) + slot) * 2 * gates + g];
                (g < gates ? out.gate_mean : out.gate_saturated)[step * gates + g % gates] = sum / count;
            }
        }
        double total = 0;
        for (std::size_t slot = 0; slot < batch; ++slot) {
            double kept = 0;
            const std::size_t sample = sequence_.sample(slot);
            for (std::size_t step = sequence_.length(slot) + 1; step-- > 0;) {
                out.log2_retention[step * batch + sample] = kept;
                if (step > 0) kept += s.carry_log2[sequence_.first_row(step - 1) + slot] / static_cast<double>(n);
            }
            total += kept;
        }
        *out.forget_half_life = -static_cast<double>(rows) / total;
        for (std::size_t u = 0; u < n; ++u) {
            double sum = 0;
            for (std::size_t slot = 0; slot < batch; ++slot) sum += s.carry_log2_units[slot * n + u];
            out.half_life_by_unit[u] = -static_cast<double>(rows) / sum;
        }
    }
    // Kept rows, by (step, sample) of the caller's arrays.
    const auto keep_states = [&](const KeptRows<T>& to, const T* from) {
        if (!to) return;
        for (std::size_t slot = 0; slot < batch; ++slot)
            fits &= keep_row(n, from + slot * n, 0.0, to.mantissa + sequence_.sample(slot) * n,
                             to.exponent + sequence_.sample(slot));
        sequence_.for_each([&](std::size_t row, std::size_t source) {
            fits &= keep_row(n, from + (batch + row) * n, 0.0, to.mantissa + (batch + source) * n,
                             to.exponent + batch + source);
        });
    };
    keep_states(out.kept_h, s.h);
    keep_states(out.kept_c, s.c);
    if (out.kept_gates) {
        const ActivationKernels<T>& activation = *isa_.get<T>().activation;
        std::size_t sigmoid = 0, tanh = 0;
        for (std::size_t a = 0; a < activation.count; ++a) {
            if (std::string(activation.info[a].name) == "sigmoid") sigmoid = a;
            if (std::string(activation.info[a].name) == "tanh") tanh = a;
        }
        std::vector<T> values(gates * n), slope(n);
        sequence_.for_each([&](std::size_t row, std::size_t source) {
            for (std::size_t g = 0; g < gates; ++g) {
                const bool candidate = cell.gate_block[g] == cell.candidate_block;
                activation.evaluate[candidate ? tanh : sigmoid](n, s.z + row * row_size + cell.gate_block[g] * n,
                                                                values.data() + g * n, slope.data());
            }
            fits &= keep_row(gates * n, values.data(), 0.0, out.kept_gates.mantissa + source * gates * n,
                             out.kept_gates.exponent + source);
        });
    }
    return fits;
}

// dL/d(input of a layer), packed rows in the sequence's own order with an exponent each, or their norms alone.
template <class T>
struct RecurrentTracer<T>::InputGradient {
    std::size_t width = 0;
    AlignedBuffer<T> rows;  // (rows, width), or empty: only norms
    std::vector<double> exponent, log2;
    bool add = false;  // the other direction's is there already
};

template <class T>
void RecurrentTracer<T>::input_gradient(std::size_t layer, const DirectionContext<T>& context,
                                        InputGradient* out) const {
    const PackedMatrix<T>& ih = weights_[layer]->ih;
    const DirectionState<T>& s = states_[layer];
    const std::size_t width = ih.inputs, row_size = context.row_size(), per_chunk = steps_per_chunk(sequence_),
                      most = per_chunk * sequence_.batch();
    const Loop loop{(sequence_.steps() + per_chunk - 1) / per_chunk,
                    2.0 * static_cast<double>(sequence_.rows()) * static_cast<double>(ih.inputs * ih.outputs)};
    AlignedBuffer<T> scratch(checked_multiply(loop.workers(), checked_multiply(most, width)));
    parallel_for(loop, [&](std::size_t chunk, std::size_t worker) {
        if (context.interrupt.requested(worker)) return;
        const std::size_t first = chunk * per_chunk, end = std::min(first + per_chunk, sequence_.steps());
        const std::size_t row = sequence_.first_row(first), rows = sequence_.first_row(end) - row;
        T* dx = scratch.data() + worker * most * width;
        context.kernels().panel->multiply(rows, width, ih.outputs,
                                          s.z + row * row_size + context.cell().ih_first * context.hidden, row_size,
                                          ih.backward.data(), dx, width, false);
        std::vector<double> norm(rows);
        log2_row_norms(context.kernels(), rows, width, dx, width, norm.data());
        std::size_t r = 0;
        for (std::size_t step = first; step < end; ++step)
            for (std::size_t slot = 0; slot < sequence_.active(step); ++slot, ++r) {
                const std::size_t to = context.forward_row(step, slot);
                const double exponent = s.dz_exponent[row + r] + ih.exponent;
                if (!out->add) {
                    if (out->rows.size())
                        std::copy(dx + r * width, dx + (r + 1) * width, out->rows.data() + to * width);
                    out->exponent[to] = exponent;
                    out->log2[to] = norm[r] + exponent;
                    continue;
                }
                T* sum = out->rows.data() + to * width;
                const double common = common_exponent(std::max(out->log2[to], norm[r] + exponent));
                const T old = out->log2[to] == kNegativeInfinity ? T(0) : power_of_two<T>(out->exponent[to] - common),
                        more = norm[r] == kNegativeInfinity ? T(0) : power_of_two<T>(exponent - common);
                for (std::size_t i = 0; i < width; ++i) sum[i] = sum[i] * old + dx[r * width + i] * more;
                out->exponent[to] = common;
                log2_row_norms(context.kernels(), 1, width, sum, width, &out->log2[to]);
                out->log2[to] += common;
            }
    });
}

// Blocks of `hidden` rows from the core's order to PyTorch's.
template <class V>
static void to_torch_order(ParameterGradient<V>* gradient, const std::size_t* order, std::size_t blocks) {
    if (gradient->value.size() == 0 || std::is_sorted(order, order + blocks)) return;
    const std::size_t block = gradient->value.size() / blocks;
    AlignedBuffer<V> ordered(gradient->value.size());
    for (std::size_t i = 0; i < blocks; ++i) {
        const V* from = gradient->value.data() + i * block;
        std::copy(from, from + block, ordered.data() + order[i] * block);
    }
    gradient->value = std::move(ordered);
}

// The caller's cotangent in packed order or by slot, rows normalised: it may hold subnormals, which the passes flush.
template <class T>
struct RecurrentTracer<T>::PackedCotangent {
    AlignedBuffer<T> copy;
    std::vector<double> exponent;
    Injection<T> injection;
};

template <class T>
void RecurrentTracer<T>::pack_cotangent(const Cotangent& cotangent, PackedCotangent* out) const {
    const SubnormalMode keep(Subnormals::keep);
    const std::size_t width = network_.outputs(), batch = sequence_.batch(),
                      count = cotangent.every_step ? sequence_.rows() : batch;
    out->injection.width = width;
    out->injection.every_step = cotangent.every_step;
    if (cotangent.every_step && sequence_.plain() && cotangent.exponent == nullptr) {
        std::vector<double> norm(count);
        log2_row_norms(isa_.get<T>(), count, width, cotangent.rows, width, norm.data());
        const bool safe = std::all_of(norm.begin(), norm.end(), [](double norm_of_row) {
            return norm_of_row == kNegativeInfinity || norm_is_safe<T>(norm_of_row);
        });
        out->injection.rows = cotangent.rows;
        if (safe) return;
    }
    out->copy = AlignedBuffer<T>(checked_multiply(count, width));
    out->exponent.resize(count);
    const auto take = [&](std::size_t row, std::size_t source) {
        const double exponent = cotangent.exponent ? static_cast<double>(cotangent.exponent[source]) : 0.0;
        out->exponent[row] =
            normalise_row(width, cotangent.rows + source * width, exponent, out->copy.data() + row * width);
    };
    if (cotangent.every_step)
        sequence_.for_each(take);
    else
        for (std::size_t slot = 0; slot < batch; ++slot) take(slot, sequence_.sample(slot));
    out->injection.rows = out->copy.data();
    out->injection.exponent = out->exponent.data();
}

template <class T>
bool RecurrentTracer<T>::backward(const Cotangent& cotangent, const std::vector<DirectionOutputs<T>>& out,
                                  double* log2_dx, const KeptRows<T>& kept_dx, Interrupt& interrupt) {
    const CellShape& cell = cell_shape(network_.kind);
    const std::size_t n = network_.hidden, batch = sequence_.batch(), rows = sequence_.rows(),
                      directions = network_.directions, row_size = cell.row_blocks * n;
    const SubnormalMode flush(Subnormals::flush);
    bool fits = true;
    gradients_.clear();
    gradients_.resize(states_.size());
    std::vector<double> dz_exponent(rows), dz_log2(rows), dc_exponent(batch);
    AlignedBuffer<T> dc_last(cotangent.dc_last ? checked_multiply(batch, n) : 0);
    PackedCotangent arriving;
    pack_cotangent(cotangent, &arriving);
    InputGradient above, below;
    for (std::size_t stacked = network_.depth(); stacked-- > 0;) {
        below.width = network_.layers[stacked * directions].inputs;
        below.add = false;
        below.exponent.assign(rows, 0.0);
        below.log2.assign(rows, kNegativeInfinity);
        const bool needed = stacked > 0 || directions == 2 || kept_dx;
        if (needed && below.rows.size() != rows * below.width)
            below.rows = AlignedBuffer<T>(checked_multiply(rows, below.width));
        if (!needed) below.rows = AlignedBuffer<T>();
        for (std::size_t d = 0; d < directions; ++d) {
            const std::size_t k = stacked * directions + d;
            const DirectionContext<T> here = context(d, interrupt);
            DirectionState<T> state = states_[k];
            state.dz_exponent = dz_exponent.data();
            state.dz_log2 = dz_log2.data();
            states_[k] = state;
            Injection<T> injection = arriving.injection;
            if (stacked + 1 < network_.depth())
                injection = {above.rows.data(), above.exponent.data(), above.width, 0, true};
            injection.column = d * n;
            if (cotangent.dc_last) {
                const SubnormalMode keep(Subnormals::keep);
                for (std::size_t slot = 0; slot < batch; ++slot)
                    dc_exponent[slot] = normalise_row(n, cotangent.dc_last + (k * batch + sequence_.sample(slot)) * n,
                                                      0.0, dc_last.data() + slot * n);
            }
            fits &= direction_backward(here, *weights_[k], injection, cotangent.dc_last ? dc_last.data() : nullptr,
                                       dc_exponent.data(), state, out[k].figures);
            if (interrupt.stopped()) throw Interrupted{};
            direction_gradients(here, layer_input(stacked), below.width, state, &gradients_[k], out[k].steps);
            to_torch_order(&gradients_[k].ih, cell.ih_order, cell.weight_blocks);
            to_torch_order(&gradients_[k].hh, cell.hh_order, cell.weight_blocks);
            to_torch_order(&gradients_[k].bias_ih, cell.ih_order, cell.weight_blocks);
            to_torch_order(&gradients_[k].bias_hh, cell.hh_order, cell.weight_blocks);
            if (interrupt.stopped()) throw Interrupted{};
            input_gradient(k, here, &below);
            if (interrupt.stopped()) throw Interrupted{};
            below.add = true;
            if (out[k].kept_dgates) {
                const std::size_t width = cell.weight_blocks * n;
                std::vector<T> row_values(width);
                sequence_.for_each([&](std::size_t row, std::size_t source) {
                    for (std::size_t i = 0; i < cell.weight_blocks; ++i) {
                        const T* from = state.z + row * row_size + (cell.ih_first + i) * n;
                        std::copy(from, from + n,
                                  row_values.begin() + static_cast<std::ptrdiff_t>(cell.ih_order[i] * n));
                    }
                    fits &=
                        keep_row(width, row_values.data(), dz_exponent[row],
                                 out[k].kept_dgates.mantissa + source * width, out[k].kept_dgates.exponent + source);
                });
            }
        }
        std::swap(above, below);
    }
    sequence_.for_each([&](std::size_t row, std::size_t source) {
        log2_dx[source] = above.log2[row];
        if (kept_dx)
            fits &= keep_row(above.width, above.rows.data() + row * above.width, above.exponent[row],
                             kept_dx.mantissa + source * above.width, kept_dx.exponent + source);
    });
    return fits;
}

template class RecurrentTracer<float>;
template class RecurrentTracer<double>;

}  // namespace gt
