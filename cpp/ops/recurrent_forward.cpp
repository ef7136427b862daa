// Forward pass of one direction: the input projections of all steps as one product, then step by step.
#include <algorithm>
#include <cmath>

#include "ops/recurrent_direction.h"

namespace gt {

template <class T>
const T* input_rows(const DirectionContext<T>& context, const T* rows, std::size_t width, std::size_t first,
                    std::size_t end, T* scratch) {
    const PackedSequence& sequence = context.sequence;
    if (!context.reverse) return rows + sequence.first_row(first) * width;
    T* to = scratch;
    for (std::size_t step = first; step < end; ++step)
        for (std::size_t slot = 0; slot < sequence.active(step); ++slot, to += width) {
            const T* from = rows + sequence.mirrored(step, slot) * width;
            std::copy(from, from + width, to);
        }
    return scratch;
}

namespace {

template <class T>
void multiply_rows(std::size_t rows, std::size_t n, T* x, std::size_t ld, double exponent) {
    if (exponent == 0) return;
    for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t i = 0; i < n; ++i)
            x[r * ld + i] = static_cast<T>(scale_by(static_cast<double>(x[r * ld + i]), exponent));
}

// Slots [first, end) through all steps: the input projections of a chunk of steps, then step by step.
template <class T>
class ForwardLoop {
  public:
    ForwardLoop(const DirectionContext<T>& context, const CellWeights<T>& weights, const SequenceRows<T>& input,
                const DirectionState<T>& state, std::size_t first, std::size_t end)
        : context_(context),
          sequence_(context.sequence),
          weights_(weights),
          input_(input),
          state_(state),
          first_(first),
          end_(end),
          gathered_(context.reverse ? checked_multiply(steps_per_chunk(context) * sequence_.batch(), weights.ih.inputs)
                                    : std::size_t{0}),
          product_(weights.hh.exponent == 0 ? 0 : checked_multiply(end - first, weights.hh.outputs)) {}

    void run(std::size_t worker) {
        const std::size_t per_chunk = steps_per_chunk(context_);
        for (std::size_t step = 0; step < sequence_.steps() && sequence_.active(step) > first_; step += per_chunk) {
            const std::size_t end = std::min(step + per_chunk, sequence_.steps());
            project(step, end);
            for (std::size_t t = step; t < end && sequence_.active(t) > first_; ++t) {
                if (context_.interrupt.requested(worker)) return;
                run_step(t);
            }
        }
    }

  private:
    std::size_t rows_of(std::size_t t) const { return std::max(first_, std::min(end_, sequence_.active(t))) - first_; }

    // z = W_ih x; blocks that W_ih does not feed start from zero.
    void project(std::size_t first_step, std::size_t end_step) {
        const T* x = input_rows(context_, input_.rows, weights_.ih.inputs, first_step, end_step, gathered_.data());
        const std::size_t start = sequence_.first_row(first_step);
        if (first_ == 0 && end_ >= sequence_.active(first_step))  // all rows, one product
            return project_rows(start, sequence_.first_row(end_step) - start, x);
        for (std::size_t t = first_step; t < end_step; ++t) {
            const std::size_t row = sequence_.first_row(t) + first_;
            project_rows(row, rows_of(t), x + (row - start) * weights_.ih.inputs);
        }
    }

    void project_rows(std::size_t row, std::size_t rows, const T* x) {
        const PackedMatrix<T>& ih = weights_.ih;
        const std::size_t row_size = context_.row_size();
        T *z = state_.z + row * row_size, *to = z + context_.cell().ih_first * context_.hidden;
        context_.kernels().panel->multiply(rows, ih.outputs, ih.inputs, x, ih.inputs, ih.forward.data(), to, row_size,
                                           false, PanelOrder::up, ih.rows);
        multiply_rows(rows, ih.outputs, to, row_size, ih.exponent);
        if (ih.outputs == row_size) return;
        for (std::size_t r = 0; r < rows; ++r) std::fill(z + r * row_size + ih.outputs, z + (r + 1) * row_size, T(0));
    }

    // z += W_hh h
    void recur(std::size_t t, std::size_t rows, const T* h, T* z) {
        const PackedMatrix<T>& hh = weights_.hh;
        const std::size_t n = context_.hidden, row_size = context_.row_size();
        const PanelKernels<T>& panel = *context_.kernels().panel;
        if (hh.exponent == 0)
            return panel.multiply(rows, hh.outputs, n, h, n, hh.forward.data(), z, row_size, true, step_order(t),
                                  hh.rows);
        panel.multiply(rows, hh.outputs, n, h, n, hh.forward.data(), product_.data(), hh.outputs, false, step_order(t),
                       hh.rows);
        multiply_rows(rows, hh.outputs, product_.data(), hh.outputs, hh.exponent);
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t i = 0; i < hh.outputs; ++i) z[r * row_size + i] += product_[r * hh.outputs + i];
    }

    void run_step(std::size_t t) {
        const CellShape& cell = context_.cell();
        const std::size_t n = context_.hidden, row = sequence_.first_row(t) + first_,
                          before = context_.previous_state(t, first_), now = context_.state(t, first_);
        CellForward<T> s{};
        s.rows = rows_of(t);
        s.hidden = n;
        s.z = state_.z + row * context_.row_size();
        s.bias = weights_.bias.data();
        s.h_previous = state_.h + before * n;
        s.h = state_.h + now * n;
        if (cell.has_cell_state) {
            s.c_previous = state_.c + before * n;
            s.c = state_.c + now * n;
        }
        if (cell.gates) {
            s.gate_sums = state_.gate_sums + row * 2 * cell.gates;
            s.carry_log2 = state_.carry_log2 + row;
            s.add_carry_log2_units = state_.carry_log2_units + first_ * n;
        }
        if (state_.h_exponent) return run_scaled(t, s, state_.h_exponent + before, state_.h_exponent + now);
        recur(t, s.rows, s.h_previous, s.z + cell.hh_first * n);
        context_.cell_kernels().forward(s);
    }

    // A step of a ReLU, phi(2^e z) = 2^e phi(z): every row at an exponent of its own, so that h neither overflows nor
    // vanishes. Rows within 2^+-16 keep the exponent 0.
    void run_scaled(std::size_t t, CellForward<T>& s, const double* before, double* now) {
        const std::size_t n = context_.hidden;
        bool plain = input_.exponent == nullptr;
        for (std::size_t r = 0; r < s.rows; ++r) plain &= before[r] == 0;
        std::fill(now, now + s.rows, 0.0);
        if (plain) {
            recur(t, s.rows, s.h_previous, s.z);
        } else {
            scaled_h_.resize((end_ - first_) * n);
            for (std::size_t r = 0; r < s.rows; ++r) {
                const std::size_t row = context_.forward_row(t, first_ + r);
                now[r] = bring_together(s, r, input_.exponent ? input_.exponent[row] : 0.0, before[r]);
            }
            no_bias_.assign(n, T(0));
            s.bias = no_bias_.data();
            recur(t, s.rows, scaled_h_.data(), s.z);
        }
        context_.cell_kernels().forward(s);
        std::vector<double> norm(s.rows);
        log2_row_norms(context_.kernels(), s.rows, n, s.h, n, norm.data());
        for (std::size_t r = 0; r < s.rows; ++r)
            if (std::fabs(norm[r]) > kKeepBits && std::isfinite(norm[r]))
                now[r] = normalise_row(n, s.h + r * n, now[r], s.h + r * n);
    }

    // Projection with its bias, and h of the step before, at the exponent of the largest of the three, which is
    // returned.
    double bring_together(const CellForward<T>& s, std::size_t r, double input_exponent, double h_exponent) {
        const std::size_t n = context_.hidden;
        T* z = s.z + r * n;
        const T* h = s.h_previous + r * n;
        const auto norm_of = [&](const T* x) {
            double norm = 0;
            log2_row_norms(context_.kernels(), 1, n, x, n, &norm);
            return norm;
        };
        const double exponent = common_exponent(
            std::max({norm_of(z) + input_exponent, norm_of(h) + h_exponent, norm_of(weights_.bias.data())}));
        const T of_input = power_of_two<T>(input_exponent - exponent), of_bias = power_of_two<T>(-exponent),
                of_h = power_of_two<T>(h_exponent - exponent);
        for (std::size_t u = 0; u < n; ++u) {
            z[u] = z[u] * of_input + weights_.bias[u] * of_bias;
            scaled_h_[r * n + u] = h[u] * of_h;
        }
        return exponent;
    }

    const DirectionContext<T>& context_;
    const PackedSequence& sequence_;
    const CellWeights<T>& weights_;
    const SequenceRows<T>& input_;
    const DirectionState<T>& state_;
    std::size_t first_, end_;
    AlignedBuffer<T> gathered_, product_;
    std::vector<T> scaled_h_, no_bias_;
};

}  // namespace

template <class T>
void direction_forward(const DirectionContext<T>& context, const CellWeights<T>& weights, const SequenceRows<T>& input,
                       const DirectionState<T>& state) {
    const std::size_t batch = context.sequence.batch();
    if (context.cell().gates) std::fill(state.carry_log2_units, state.carry_log2_units + batch * context.hidden, 0.0);
    std::size_t share = 0;
    const Loop loop = loop_over_slots(context, weights, &share);
    parallel_for(loop, [&](std::size_t i, std::size_t worker) {
        ForwardLoop<T>(context, weights, input, state, i * share, std::min(batch, (i + 1) * share)).run(worker);
    });
}

template const float* input_rows<float>(const DirectionContext<float>&, const float*, std::size_t, std::size_t,
                                        std::size_t, float*);
template const double* input_rows<double>(const DirectionContext<double>&, const double*, std::size_t, std::size_t,
                                          std::size_t, double*);
template void direction_forward<float>(const DirectionContext<float>&, const CellWeights<float>&,
                                       const SequenceRows<float>&, const DirectionState<float>&);
template void direction_forward<double>(const DirectionContext<double>&, const CellWeights<double>&,
                                        const SequenceRows<double>&, const DirectionState<double>&);

}  // namespace gt
