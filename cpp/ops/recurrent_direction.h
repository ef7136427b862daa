// One direction of one recurrent layer: forward over all steps, backward with the range scheme along time.
//
// Rows are packed (ops/packed_sequence.h) in this direction's processing order: step t, slot s. States have one entry
// more than steps: entry 0 is the initial state, entry t + 1 the state after step t.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "core/cells.h"
#include "core/wide.h"
#include "ops/cell_weights.h"
#include "ops/packed_sequence.h"
#include "ops/parallel.h"
#include "ops/scaled_rows.h"

namespace gt {

// What every op of one direction works on.
template <class T>
struct DirectionContext {
    const IsaKernels& isa;
    CellKind kind;
    std::size_t hidden;
    const PackedSequence& sequence;
    bool reverse;
    Interrupt& interrupt;

    const KernelTable<T>& kernels() const { return isa.get<T>(); }
    const CellShape& cell() const { return cell_shape(kind); }
    const CellKernels<T>& cell_kernels() const { return *kernels().cells[static_cast<std::size_t>(kind)]; }
    std::size_t row_size() const { return cell().row_blocks * hidden; }
    // The packed row of a step and slot in the order of the sequence itself.
    std::size_t forward_row(std::size_t step, std::size_t slot) const {
        return reverse ? sequence.mirrored(step, slot) : sequence.first_row(step) + slot;
    }
    // The state before (step, slot): a row of DirectionState::h and c.
    std::size_t previous_state(std::size_t step, std::size_t slot) const {
        return step == 0 ? slot : sequence.batch() + sequence.first_row(step - 1) + slot;
    }
    std::size_t state(std::size_t step, std::size_t slot) const {
        return sequence.batch() + sequence.first_row(step) + slot;
    }
};

// Rows in the sequence's own order, as values * 2^exponent of each row; exponent null: 0. `log2`: norms of the values,
// where they are known.
template <class T>
struct SequenceRows {
    const T* rows;
    const double* exponent;
    const double* log2 = nullptr;
};

// By packed row, where T does not hold them: the candidate's preactivations (hidden,), then a GRU's recurrent block.
class WideRows {
  public:
    void start(std::size_t first_row, std::size_t rows) {
        first_ = first_row;
        rows_.clear();
        rows_.resize(rows);
    }
    std::unique_ptr<Wide[]>& operator[](std::size_t row) { return rows_[row - first_]; }

  private:
    std::size_t first_ = 0;
    std::vector<std::unique_ptr<Wide[]>> rows_;
};

// Between two windows of steps, what the forward pass of one direction holds beside its states in T; by slot.
struct WideCarry {
    std::vector<Wide> rows;         // (batch, hidden): c, or h of a GRU, where it is outside the format; or empty
    std::vector<std::size_t> at;    // (batch,): the state that this is
    std::vector<std::uint8_t> low;  // (batch,): c alone is outside the format
    bool any() const { return !rows.empty(); }
};

// Columns of a row of dz that W_hh fed, (weight_blocks * hidden,) * 2^exponent, where they part from the row's.
template <class T>
struct PartedRow {
    std::unique_ptr<T[]> dz;
    double exponent = 0;
};

// Everything that the forward pass leaves for the backward pass; borrowed memory. Where that is a window of steps
// alone, pointers are moved back by what lies before it: row r of the sequence stands at r all the same.
template <class T>
struct DirectionState {
    T* z;                           // (rows, row_blocks * hidden): preactivations; the backward pass leaves dz here
    T *h, *c;                       // (batch + rows, hidden): initial states first; c null without a cell state
    double* h_exponent;             // (batch + rows,): of the rows of h; 0 but for those that would leave T
    WideRows* wide_z;               // null: not wanted
    double* gate_sums;              // (rows, 2 * gates)
    double* carry_log2;             // (rows,): sum over units
    double* carry_log2_units;       // (batch, hidden): sums over steps
    double *dz_exponent, *dz_log2;  // (rows,): of the rows of dz, and their norms, exponent included
    // A cell whose W_ih and W_hh fed different columns: rows where these part, and norms of the latter's, exponent
    // included.
    PartedRow<T>* parted = nullptr;          // (rows,)
    double* recurrent_log2 = nullptr;        // (rows,)
    const WideCarry* wide_before = nullptr;  // at the window's first step; null: that is the sequence's
    WideCarry* wide_after = nullptr;         // at its end; null: not wanted
};

// Rows in the sequence's own order as the direction meets them: steps [first, end), copied to `scratch` where needed.
template <class T>
const T* input_rows(const DirectionContext<T>& context, const T* rows, std::size_t width, std::size_t first,
                    std::size_t end, T* scratch);

// Steps whose rows wait in the cache together: what follows a pass over them reads them there.
template <class T>
std::size_t steps_per_chunk(const DirectionContext<T>& context) {
    const std::size_t rows = context.hidden < 256 ? 256 : 512;  // wide layers write a large weight gradient every time
    return std::max<std::size_t>(1, rows / context.sequence.batch());
}

inline PanelOrder step_order(std::size_t step) { return step % 2 ? PanelOrder::down : PanelOrder::up; }

// recurrent_forward.cpp. Steps [first, end); `input` (rows, inputs).
template <class T>
void direction_forward(const DirectionContext<T>& context, const CellWeights<T>& weights, const SequenceRows<T>& input,
                       const DirectionState<T>& state, std::size_t first, std::size_t end);

// A gradient at the last states of a direction, by slot at its end; null: none.
template <class T>
struct LastRows {
    const T* rows = nullptr;           // (batch, hidden)
    const double* exponent = nullptr;  // of each row
};

// Gradients that arrive from outside: at h a row for every packed row, or one for each slot at its end, and what is
// given of each slot's last h and c.
template <class T>
struct Injection {
    const T* rows = nullptr;            // (rows or batch, width), the sequence's own order
    const double* exponent = nullptr;   // of each row; null: 0
    std::size_t width = 0, column = 0;  // this direction's columns are [column, column + hidden)
    bool every_step = false;
    LastRows<T> dh_last, dc_last;
};

// Rows (rows, n) with exponents as T holds them: themselves, or a copy in `scratch`.
template <class T>
const T* plain_rows(std::size_t rows, std::size_t n, const T* x, const double* exponent, std::vector<T>* scratch) {
    if (std::all_of(exponent, exponent + rows, [](double e) { return e == 0; })) return x;
    scratch->resize(rows * n);
    for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t i = r * n; i < (r + 1) * n; ++i)
            (*scratch)[i] = static_cast<T>(scale_by(static_cast<double>(x[i]), exponent[r]));
    return scratch->data();
}

// Where the figures of one direction go; sample b of entry t at [t * batch + b]. Null: not wanted.
template <class T>
struct DirectionFigures {
    double *dh, *dc, *direct, *gated;                       // (steps + 1, batch)
    double *dz, *activation_gain, *weight_gain;             // (steps, batch)
    KeptRows<T> kept_dh, kept_dc, kept_direct, kept_gated;  // (steps + 1, batch, hidden)
};

template <class T>
class BackwardLoop;  // recurrent_backward.cpp

// The backward pass of one direction, steps [first, end) at a time from the last to the first.
template <class T>
class DirectionBackward {
  public:
    DirectionBackward(const DirectionContext<T>& context, const CellWeights<T>& weights, const Injection<T>& injection,
                      const DirectionState<T>& state, const DirectionFigures<T>& figures);
    ~DirectionBackward();
    void start_window(std::size_t first);  // of the steps whose state is there now
    void run(std::size_t first, std::size_t end);
    bool finish();  // the initial state; false where a kept exponent is beyond int64

  private:
    Loop loop_;  // over parts
    std::vector<std::unique_ptr<BackwardLoop<T>>> parts_;
};

// Slots cut into parts of so many, one for each worker of a pass over all steps.
template <class T>
Loop loop_over_parts(const DirectionContext<T>& context, const CellWeights<T>& weights, std::size_t* part_slots);

}  // namespace gt
