// Forward pass of one direction: the input projections of all steps as one product, then step by step.
#include <algorithm>
#include <cmath>

#include "ops/recurrent_direction.h"
#include "ops/wide_step.h"

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
                const DirectionState<T>& state, std::size_t first_step, std::size_t first, std::size_t end)
        : context_(context),
          sequence_(context.sequence),
          weights_(weights),
          input_(input),
          state_(state),
          first_(first),
          end_(end),
          gathered_(context.reverse ? checked_multiply(steps_per_chunk(context) * sequence_.batch(), weights.ih.inputs)
                                    : std::size_t{0}),
          product_(weights.hh.exponent == 0 ? 0 : checked_multiply(end - first, weights.hh.outputs)),
          squares_(end - first),
          wide_(context, weights, input, state, first_step, first, end - first),
          product_scratch_(context.kernels().panel->scratch_bytes) {}

    void run(std::size_t first_step, std::size_t end_step, std::size_t worker) {
        const std::size_t per_chunk = steps_per_chunk(context_);
        for (std::size_t step = first_step; step < end_step && sequence_.active(step) > first_; step += per_chunk) {
            const std::size_t end = std::min(step + per_chunk, end_step);
            project(step, end);
            for (std::size_t t = step; t < end && sequence_.active(t) > first_; ++t) {
                if (context_.interrupt.requested(worker)) return;
                run_step(t);
            }
        }
        wide_.save(state_.wide_after);
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
                                           false, PanelOrder::up, ih.rows, product_scratch_.data());
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
                                  hh.rows, product_scratch_.data());
        panel.multiply(rows, hh.outputs, n, h, n, hh.forward.data(), product_.data(), hh.outputs, false, step_order(t),
                       hh.rows, product_scratch_.data());
        multiply_rows(rows, hh.outputs, product_.data(), hh.outputs, hh.exponent);
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t i = 0; i < hh.outputs; ++i) z[r * row_size + i] += product_[r * hh.outputs + i];
    }

    CellForward<T> cell_step(std::size_t t) {
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
        s.h_squares = squares_.data();
        if (cell.has_cell_state) {
            s.c_previous = state_.c + before * n;
            s.c = state_.c + now * n;
        }
        if (cell.gates) {
            s.gate_sums = state_.gate_sums + row * 2 * cell.gates;
            s.carry_log2 = state_.carry_log2 + row;
            s.add_carry_log2_units = state_.carry_log2_units + first_ * n;
        }
        return s;
    }

    // The kernel takes the rows that the format holds, before the step and after it, `wide_` the others.
    void run_step(std::size_t t) {
        const CellForward<T> s = cell_step(t);
        double* exponent = state_.h_exponent + context_.state(t, first_);
        std::fill(exponent, exponent + s.rows, 0.0);
        wide_rows_.clear();
        if (wide_.any_enters(t, s.rows))
            for (std::size_t r = 0; r < s.rows; ++r)
                if (wide_.enters(t, r)) wide_rows_.push_back({r, true});
        const bool projected = wide_rows_.size() == s.rows && weights_.ih.exponent == 0;
        if (wide_rows_.size() < s.rows) run_plain_rows(t, s);
        if (!wide_rows_.empty()) wide_.run(t, wide_rows_, s, projected);
        if (context_.kind == CellKind::rnn_relu) normalise(s, exponent);
    }

    void run_plain_rows(std::size_t t, const CellForward<T>& s) {
        recur(t, s.rows, s.h_previous, s.z + context_.cell().hh_first * context_.hidden);
        const std::size_t entered = wide_rows_.size();
        std::size_t from = 0;
        const auto run_until = [&](std::size_t end) {
            if (from < end) context_.cell_kernels().forward(some_rows(s, from, end - from, context_.cell()));
            for (; from < end; ++from)
                if (wide_.left(t, s, from)) wide_rows_.push_back({from, false});
        };
        for (std::size_t i = 0; i < entered; ++i) {
            run_until(wide_rows_[i].r);
            from = wide_rows_[i].r + 1;
        }
        run_until(s.rows);
    }

    // A ReLU's rows carry an exponent from 2^+-16 on: they have no other end.
    void normalise(const CellForward<T>& s, double* exponent) {
        constexpr double kLow = 0x1p-32, kHigh = 0x1p+32;
        const std::size_t n = context_.hidden;
        for (std::size_t r = 0; r < s.rows; ++r) {
            if ((squares_[r] >= kLow && squares_[r] <= kHigh) || std::isnan(squares_[r]) || exponent[r] != 0) continue;
            exponent[r] = normalise_row(n, s.h + r * n, 0.0, s.h + r * n);
        }
    }

    const DirectionContext<T>& context_;
    const PackedSequence& sequence_;
    const CellWeights<T>& weights_;
    const SequenceRows<T>& input_;
    const DirectionState<T>& state_;
    std::size_t first_, end_;
    AlignedBuffer<T> gathered_, product_;
    std::vector<double> squares_;  // of h, by row of the step under way
    WideStep<T> wide_;
    std::vector<typename WideStep<T>::Row> wide_rows_;
    AlignedBuffer<unsigned char> product_scratch_;
};

}  // namespace

template <class T>
void direction_forward(const DirectionContext<T>& context, const CellWeights<T>& weights, const SequenceRows<T>& input,
                       const DirectionState<T>& state, std::size_t first, std::size_t end) {
    const std::size_t batch = context.sequence.batch();
    if (context.cell().gates && first == 0)
        std::fill(state.carry_log2_units, state.carry_log2_units + batch * context.hidden, 0.0);
    std::size_t part_slots = 0;
    const Loop loop = loop_over_parts(context, weights, &part_slots);
    parallel_for(loop, [&](std::size_t i, std::size_t worker) {
        ForwardLoop<T>(context, weights, input, state, first, i * part_slots, std::min(batch, (i + 1) * part_slots))
            .run(first, end, worker);
    });
}

template const float* input_rows<float>(const DirectionContext<float>&, const float*, std::size_t, std::size_t,
                                        std::size_t, float*);
template const double* input_rows<double>(const DirectionContext<double>&, const double*, std::size_t, std::size_t,
                                          std::size_t, double*);
template void direction_forward<float>(const DirectionContext<float>&, const CellWeights<float>&,
                                       const SequenceRows<float>&, const DirectionState<float>&, std::size_t,
                                       std::size_t);
template void direction_forward<double>(const DirectionContext<double>&, const CellWeights<double>&,
                                        const SequenceRows<double>&, const DirectionState<double>&, std::size_t,
                                        std::size_t);

}  // namespace gt
