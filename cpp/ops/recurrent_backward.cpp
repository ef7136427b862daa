// Backward pass of one direction: the time loop over packed slots, and the figures that it leaves.
#include <algorithm>
#include <cmath>

#include "ops/backward_step.h"

namespace gt {

// Slots [first, end) from the last step to the initial state.
template <class T>
class BackwardLoop {
  public:
    BackwardLoop(const DirectionContext<T>& context, const CellWeights<T>& weights, const Injection<T>& injection,
                 const DirectionState<T>& state, const DirectionFigures<T>& figures, std::size_t first, std::size_t end)
        : context_(context),
          sequence_(context.sequence),
          weights_(weights),
          injection_(injection),
          state_(state),
          figures_(figures),
          first_(first),
          end_(end),
          n_(context.hidden),
          wide_(context, state),
          step_(context.kernels(), context.cell_kernels(), context.kind, n_, end - first,
                BackwardStep<T>::Split::followed) {}

    void start_window(std::size_t first) { wide_.start_window(first); }

    void run(std::size_t first_step, std::size_t end_step, std::size_t worker) {
        for (std::size_t t = end_step; t-- > first_step;) {
            if (context_.interrupt.requested(worker)) return;
            const std::size_t rows = active(t);
            if (rows == 0) continue;
            if (joined_ < rows) join(joined_, rows);
            joined_ = rows;
            run_step(t, rows);
        }
    }

    bool finish() {
        initial_state(joined_);
        return fits_;
    }

  private:
    std::size_t active(std::size_t t) const { return std::min(end_, std::max(first_, sequence_.active(t))) - first_; }

    // Samples that end here bring what arrives at their last state.
    void join(std::size_t from, std::size_t to) {
        step_.p.clear(from, to, n_);
        if (!context_.cell().carries) return;
        for (ScaledBlock<T>* block : {&step_.carried, &step_.carried_direct, &step_.carried_gated})
            block->clear(from, to, n_);
        const LastRows<T>& dc = injection_.dc_last;
        if (dc.rows == nullptr) return;
        for (std::size_t r = from; r < to; ++r)
            for (ScaledBlock<T>* block : {&step_.carried, &step_.carried_direct})
                put_row(dc.rows + (first_ + r) * n_, dc.exponent[first_ + r], r, block);
    }

    void put_row(const T* row, double exponent, std::size_t r, ScaledBlock<T>* block) const {
        T* to = block->row.data() + r * n_;
        std::copy(row, row + n_, to);
        log2_row_norms(context_.kernels(), 1, n_, to, n_, &block->log2[r]);
        block->exponent[r] = exponent;
        block->log2[r] += exponent;
    }

    // u of step t; false when nothing arrives.
    bool inject(std::size_t t, std::size_t rows) {
        bool any = arrive(t, rows);
        if (injection_.dh_last.rows == nullptr) return any;
        for (std::size_t r = rows; r-- > 0 && sequence_.length(first_ + r) == t + 1;) {
            add_dh_last(r);
            any = true;
        }
        return any;
    }

    // Adds what is given of a last h to its u.
    void add_dh_last(std::size_t r) {
        ScaledBlock<T>& u = step_.u;
        const T* row = injection_.dh_last.rows + (first_ + r) * n_;
        double exponent = injection_.dh_last.exponent[first_ + r];
        if (u.log2[r] == kNegativeInfinity) return put_row(row, exponent, r, &u);
        std::vector<T> sum(n_);
        exponent = sum_of_rows<T>(n_, {{u.row.data() + r * n_, u.exponent[r]}, {row, exponent}}, sum.data());
        put_row(sum.data(), exponent, r, &u);
    }

    // What arrives at the outputs; false when nothing does, and u is 0.
    bool arrive(std::size_t t, std::size_t rows) {
        bool any = false;
        ScaledBlock<T>& u = step_.u;
        for (std::size_t r = 0; r < rows; ++r) {
            const std::size_t slot = first_ + r;
            T* to = u.row.data() + r * n_;
            if (!injection_.every_step && sequence_.length(slot) != t + 1) {
                if (u.log2[r] != kNegativeInfinity) u.clear(r, r + 1, n_);
                continue;
            }
            const std::size_t row = injection_.every_step ? context_.forward_row(t, slot) : slot;
            const T* from = injection_.rows + row * injection_.width + injection_.column;
            std::copy(from, from + n_, to);
            u.exponent[r] = injection_.exponent ? injection_.exponent[row] : 0;
            u.log2[r] = 0;
            any = true;
        }
        if (!any) return false;
        std::vector<double>& norm = norm_;
        norm.resize(rows);
        log2_row_norms(context_.kernels(), rows, n_, u.row.data(), n_, norm.data());
        for (std::size_t r = 0; r < rows; ++r) u.log2[r] = norm[r] + u.exponent[r];
        return true;
    }

    void run_step(std::size_t t, std::size_t rows) {
        const std::size_t row = sequence_.first_row(t) + first_, row_size = context_.row_size(),
                          before = context_.previous_state(t, first_), now = context_.state(t, first_);
        const bool has_c = context_.cell().has_cell_state;
        T* z = state_.z + row * row_size;
        const T* h = plain_rows(rows, n_, state_.h + before * n_, state_.h_exponent + before, &plain_h_);
        step_.take({z, h, has_c ? state_.c + before * n_ : nullptr, has_c ? state_.c + now * n_ : nullptr}, rows,
                   &wide_, t, first_);
        step_.run(rows, inject(t, rows));
        std::copy(step_.dz.data(), step_.dz.data() + rows * row_size, z);
        for (std::size_t r = 0; r < rows; ++r) {
            state_.dz_exponent[row + r] = step_.exponent(r, kDz);
            state_.dz_log2[row + r] = step_.log2(r, kDz);
        }
        if (state_.parted) part_rows(row, rows);
        record(t, rows);
        step_.propagate(rows, weights_.hh);
        record_weight_gain(t, rows);
        step_.advance(rows);
    }

    void part_rows(std::size_t row, std::size_t rows) {
        const std::size_t size = context_.cell().weight_blocks * n_;
        for (std::size_t r = 0; r < rows; ++r) {
            PartedRow<T>& to = state_.parted[row + r];
            to.dz.reset();
            state_.recurrent_log2[row + r] = step_.recurrent_log2(r);
            const T* parted = step_.parted(r);
            if (parted == nullptr) continue;
            to.dz = std::make_unique<T[]>(size);
            std::copy(parted, parted + size, to.dz.get());
            to.exponent = step_.parted_exponent(r);
        }
    }

    std::size_t sample(std::size_t r) const { return sequence_.sample(first_ + r); }

    void record(std::size_t t, std::size_t rows) {
        const std::size_t batch = sequence_.batch();
        for (std::size_t r = 0; r < rows; ++r) {
            const std::size_t at = (t + 1) * batch + sample(r), at_step = t * batch + sample(r);
            const auto put = [&](double* to, std::size_t i, CellSum which) {
                if (to) to[i] = step_.log2(r, which);
            };
            put(figures_.dh, at, kDh);
            put(figures_.dc, at, kDc);
            put(figures_.direct, at, kDirect);
            put(figures_.gated, at, kGated);
            put(figures_.dz, at_step, kDz);
            if (figures_.activation_gain)
                figures_.activation_gain[at_step] = (step_.mantissa_log2(r, kDz) - step_.mantissa_log2(r, kDh)) +
                                                    (step_.exponent(r, kDz) - step_.exponent(r, kDh));
            const auto keep_output = [&](const KeptRows<T>& to, const AlignedBuffer<T>& rows_of, CellSum which) {
                if (to) keep(to, at, rows_of.data() + r * n_, step_.exponent(r, which));
            };
            keep_output(figures_.kept_dh, step_.dh, kDh);
            keep_output(figures_.kept_dc, step_.dc, kDc);
            keep_output(figures_.kept_direct, step_.direct, kDirect);
            keep_output(figures_.kept_gated, step_.gated, kGated);
        }
    }

    void record_weight_gain(std::size_t t, std::size_t rows) {
        if (figures_.weight_gain == nullptr) return;
        for (std::size_t r = 0; r < rows; ++r)
            figures_.weight_gain[t * sequence_.batch() + sample(r)] =
                (step_.p_mantissa_log2(r) - step_.mantissa_log2(r, kDz)) + weights_.hh.exponent;
    }

    void keep(const KeptRows<T>& to, std::size_t at, const T* row, double exponent) {
        if (to) fits_ &= keep_row(n_, row, exponent, to.mantissa + at * n_, to.exponent + at);
    }

    // What reaches the initial state: through W_hh, and along the direct path.
    void initial_state(std::size_t rows) {
        const bool has_c = context_.cell().has_cell_state, carries = context_.cell().carries;
        std::vector<T> row(n_);
        const auto put = [&](double* to, const KeptRows<T>& kept, std::size_t r,
                             std::initializer_list<const ScaledBlock<T>*> blocks) {
            if (to == nullptr) return;
            std::vector<ScaledRow<T>> terms;
            for (const ScaledBlock<T>* block : blocks)
                terms.push_back({block->row.data() + r * n_, block->exponent[r]});
            double exponent = terms[0].exponent, norm = 0;
            if (terms.size() == 1)
                std::copy(terms[0].row, terms[0].row + n_, row.begin());
            else
                exponent = sum_of_rows(n_, terms, row.data());
            log2_row_norms(context_.kernels(), 1, n_, row.data(), n_, &norm);
            to[sample(r)] = norm + exponent;
            keep(kept, sample(r), row.data(), exponent);
        };
        for (std::size_t r = 0; r < rows; ++r) {
            if (has_c || !carries)
                put(figures_.dh, figures_.kept_dh, r, {&step_.p});
            else
                put(figures_.dh, figures_.kept_dh, r, {&step_.carried, &step_.p});
            put(figures_.dc, figures_.kept_dc, r, {&step_.carried});
            put(figures_.direct, figures_.kept_direct, r, {&step_.carried_direct});
            if (has_c)
                put(figures_.gated, figures_.kept_gated, r, {&step_.carried_gated});
            else
                put(figures_.gated, figures_.kept_gated, r, {&step_.carried_gated, &step_.p});
        }
    }

    const DirectionContext<T>& context_;
    const PackedSequence& sequence_;
    const CellWeights<T>& weights_;
    const Injection<T>& injection_;
    const DirectionState<T>& state_;
    const DirectionFigures<T>& figures_;
    std::size_t first_, end_, n_;
    WideStates<T> wide_;
    BackwardStep<T> step_;
    std::vector<double> norm_;
    std::vector<T> plain_h_;
    std::size_t joined_ = 0;  // rows that take part already: samples that end at a later step
    bool fits_ = true;
};

template <class T>
Loop loop_over_parts(const DirectionContext<T>& context, const CellWeights<T>& weights, std::size_t* part_slots) {
    const std::size_t batch = context.sequence.batch();
    const Loop slots{batch, 2.0 * static_cast<double>(context.sequence.rows()) *
                                static_cast<double>(weights.hh.inputs * weights.hh.outputs)};
    *part_slots = (batch + slots.workers() - 1) / slots.workers();
    return slots.of((batch + *part_slots - 1) / *part_slots);
}

template <class T>
DirectionBackward<T>::DirectionBackward(const DirectionContext<T>& context, const CellWeights<T>& weights,
                                        const Injection<T>& injection, const DirectionState<T>& state,
                                        const DirectionFigures<T>& figures)
    : loop_(1, 0) {
    std::size_t part_slots = 0;
    loop_ = loop_over_parts(context, weights, &part_slots);
    for (std::size_t i = 0; i < loop_.items(); ++i)
        parts_.push_back(std::make_unique<BackwardLoop<T>>(context, weights, injection, state, figures, i * part_slots,
                                                           std::min(context.sequence.batch(), (i + 1) * part_slots)));
}

template <class T>
DirectionBackward<T>::~DirectionBackward() = default;

template <class T>
void DirectionBackward<T>::start_window(std::size_t first) {
    for (const auto& part : parts_) part->start_window(first);
}

template <class T>
void DirectionBackward<T>::run(std::size_t first, std::size_t end) {
    parallel_for(loop_, [&](std::size_t i, std::size_t worker) { parts_[i]->run(first, end, worker); });
}

template <class T>
bool DirectionBackward<T>::finish() {
    bool fits = true;
    for (const auto& part : parts_) fits &= part->finish();
    return fits;
}

template Loop loop_over_parts<float>(const DirectionContext<float>&, const CellWeights<float>&, std::size_t*);
template Loop loop_over_parts<double>(const DirectionContext<double>&, const CellWeights<double>&, std::size_t*);
template class DirectionBackward<float>;
template class DirectionBackward<double>;

}  // namespace gt
