// The forward step of the few rows whose state leaves the format: h behind shut gates, states that decay, inputs and
// weights at the ends of the format. Sums of products come at exponents of their own; gated cells go on entry by entry.
#pragma once

#include <vector>

#include "core/wide.h"
#include "ops/recurrent_direction.h"
#include "ops/wide_rows.h"

namespace gt {

// One row of an LSTM and of a GRU: c and h in, the new ones out. `z` (row_blocks * hidden,): preactivations; null: of
// the candidate, where it stands in z.
template <class T>
void wide_lstm_step(std::size_t hidden, const T* z, const Wide* candidate, Wide* c, Wide* h);
template <class T>
void wide_gru_step(const CellShape& cell, std::size_t hidden, const T* z, const Wide* candidate, Wide* h);

// Rows [from, from + rows) of a step.
template <class T>
CellForward<T> some_rows(CellForward<T> s, std::size_t from, std::size_t rows, const CellShape& cell) {
    const std::size_t n = s.hidden;
    s.rows = rows;
    s.z += from * cell.row_blocks * n;
    s.h_previous += from * n;
    s.h += from * n;
    s.h_squares += from;
    if (cell.has_cell_state) {
        s.c_previous += from * n;
        s.c += from * n;
    }
    if (cell.gates) {
        s.gate_sums += from * 2 * cell.gates;
        s.carry_log2 += from;
        s.add_carry_log2_units += from * n;
    }
    return s;
}

template <class T>
class WideStep {
  public:
    // `fresh`: the cell's kernel has not seen the row.
    struct Row {
        std::size_t r;
        bool fresh;
    };

    // Slots [first, first + slots), from step `first_step` on.
    WideStep(const DirectionContext<T>& context, const CellWeights<T>& weights, const SequenceRows<T>& input,
             const DirectionState<T>& state, std::size_t first_step, std::size_t first, std::size_t slots);
    void save(WideCarry* to) const;  // of these slots; null: not wanted

    // Whether row r of step t enters it outside the format, and whether the kernel left it there.
    bool enters(std::size_t t, std::size_t r) const;
    bool any_enters(std::size_t t, std::size_t rows) const {
        if (huge_ || any_low_ || input_.exponent) return true;
        const double* exponent = state_.h_exponent + context_.previous_state(t, first_);
        bool any = false;
        for (std::size_t r = 0; r < rows; ++r) any |= exponent[r] != 0;
        return any;
    }
    bool left(std::size_t t, const CellForward<T>& s, std::size_t r) const {
        constexpr double kLow = sizeof(T) == 4 ? 0x1p-120 : 0x1p-1000, kHigh = 1 / kLow;  // squares of Range's
        return !(s.h_squares[r] >= kLow && s.h_squares[r] <= kHigh) && has_left(t, s, r);
    }
    // `projected`: z of all rows still holds W_ih x.
    void run(std::size_t t, const std::vector<Row>& rows, const CellForward<T>& s, bool projected);

  private:
    struct Sums {  // W_ih x * 2^ih_exponent, W_hh h * 2^hh_exponent
        const T *ih, *hh;
        double ih_exponent, hh_exponent;
    };

    bool has_left(std::size_t t, const CellForward<T>& s, std::size_t r) const;
    double input_exponent(std::size_t t, std::size_t r) const {
        return input_.exponent ? input_.exponent[context_.forward_row(t, first_ + r)] : 0;
    }
    void load_initial();
    void load_carried();
    void load_bias();
    bool is_zero(std::size_t t, const CellForward<T>& s, std::size_t r) const;
    void multiply(std::size_t t, const std::vector<Row>& rows, bool projected);
    Sums sums(std::size_t t, const CellForward<T>& s, std::size_t i, std::size_t r, bool projected) const;
    void run_plain_cell(std::size_t t, const CellForward<T>& s, std::size_t r, const Sums& sums);
    void run_gated_cell(std::size_t t, const CellForward<T>& s, Row row, const Sums& sums);
    void preactivations(const Sums& sums, T* z) const;
    Wide preactivation(const Sums& sums, std::size_t block, std::size_t u) const;
    void record(std::size_t row);
    void store_state(std::size_t t, const CellForward<T>& s, std::size_t r, const Wide* c, const Wide* h);

    const DirectionContext<T>& context_;
    const CellWeights<T>& weights_;
    const SequenceRows<T>& input_;
    const DirectionState<T>& state_;
    std::size_t first_, slots_, n_;
    std::vector<Wide> bias_;   // (row_blocks * hidden,)
    std::vector<T> bias_row_;  // the same, times 2^bias_exponent_: a cell of one block
    double bias_exponent_ = 0, bias_log2_ = kNegativeInfinity;
    bool driven_ = false;                  // by a bias: without input and state the next state is no zero
    std::vector<Wide> carried_;            // (slots, hidden): c, or h of a GRU, where it was computed here
    std::vector<std::size_t> carried_at_;  // (slots,): the state that this was
    std::vector<bool> low_;                // (slots,): c alone is outside the format
    bool huge_;                            // weights whose products overflow
    bool any_low_ = false;                 // some slot has been
    std::vector<Wide> candidate_, recurrent_, h_;
    std::vector<T> gathered_, no_bias_;
    AlignedBuffer<T> ih_product_, hh_product_;
    AlignedBuffer<unsigned char> product_scratch_;
};

}  // namespace gt
