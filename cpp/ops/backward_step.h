// One backward step of a cell for a set of rows, every quantity of every row with its own exponent. The trace's time
// loop and the influence map are built of these.
#pragma once

#include <vector>

#include "core/aligned_buffer.h"
#include "ops/recurrent_direction.h"
#include "ops/wide_backward.h"

namespace gt {

// Rows of one quantity: mantissas, exponents, and log2 of their norms, exponent included.
template <class T>
struct ScaledBlock {
    AlignedBuffer<T> row;
    std::vector<double> exponent, log2;

    void reserve(std::size_t rows, std::size_t n);
    void clear(std::size_t first, std::size_t end, std::size_t n);  // zero rows
};

// What the forward pass kept of one step, (rows, ...) each; rows r, r + period, ... of a backward step share row r.
template <class T>
struct StepValues {
    const T *z, *h_previous, *c_previous, *c;
};

template <class T>
class BackwardStep {
  public:
    enum class Split { followed, dropped };  // whether direct and gated parts have recursions of their own

    BackwardStep(const KernelTable<T>& kernels, const CellKernels<T>& cell_kernels, CellKind kind, std::size_t hidden,
                 std::size_t rows, Split split);

    ScaledBlock<T> u, p;                                    // in: from outside, and through W_hh
    ScaledBlock<T> carried, carried_direct, carried_gated;  // in; `advance` puts this step's carries there
    AlignedBuffer<T> dh, dc, direct, gated;                 // out (rows, hidden)
    AlignedBuffer<T> dz;                                    // out (rows, row_blocks * hidden)

    // The coefficients of `period` rows, which are step `step` of slots from `slot` on; `values` are read until `run`
    // returns.
    void take(const StepValues<T>& values, std::size_t period, WideStates<T>* wide, std::size_t step, std::size_t slot);
    void run(std::size_t rows, bool injected);
    void advance(std::size_t rows);
    void propagate(std::size_t rows, const PackedMatrix<T>& hh);  // p = the part of dz that W_hh feeds, times W_hh

    // log2 of the norm of an output's row, with and without its exponent.
    double log2(std::size_t r, CellSum which) const { return mantissa_log2(r, which) + exponent(r, which); }
    double mantissa_log2(std::size_t r, CellSum which) const { return log2_[r * kCellSums + which]; }
    double exponent(std::size_t r, CellSum which) const { return exponent_[r * kCellSums + which]; }
    double p_mantissa_log2(std::size_t r) const { return p_log2_[r]; }
    // The columns of dz that W_hh fed, at an exponent of their own, where they leave that of the row: a GRU whose
    // candidate alone is open. Null: they stand in dz.
    const T* parted(std::size_t r) const { return parted_[r] ? recurrent_dz_.data() + r * recurrent_size() : nullptr; }
    double parted_exponent(std::size_t r) const { return recurrent_exponent_[r]; }
    double recurrent_log2(std::size_t r) const {
        return recurrent_log2_[r] + (parted_[r] ? recurrent_exponent_[r] : exponent(r, kDz));
    }

  private:
    std::size_t recurrent_size() const { return cell_.weight_blocks * hidden_; }
    void plan(std::size_t r, bool injected);
    void take_recurrent_norms(std::size_t rows);
    bool lost(std::size_t r) const;
    bool cancelled(std::size_t r) const;
    void redo(std::size_t r, bool injected);
    void part_recurrent(std::size_t r, const Wide* dz_recurrent);

    const KernelTable<T>& kernels_;
    const CellKernels<T>& cell_kernels_;
    CellKind kind_;
    const CellShape& cell_;
    std::size_t hidden_, period_ = 1;
    bool split_;
    StepValues<T> values_{};
    WideStates<T>* wide_ = nullptr;
    std::size_t step_ = 0, slot_ = 0;    // of the rows under way
    PanelOrder order_ = PanelOrder::up;  // of the next propagation
    AlignedBuffer<T> coefficients_, carry_, carry_direct_, carry_gated_;
    std::vector<CellScale<T>> scale_;
    std::vector<double> log2_, exponent_, p_log2_;
    std::vector<double> recurrent_log2_;  // norms of the mantissas in the columns of dz that W_hh fed
    AlignedBuffer<T> recurrent_dz_;
    std::vector<double> recurrent_exponent_;
    std::vector<bool> parted_;
    // Rows whose carries an exponent for all units does not hold: numbers instead of `carried`, until it does.
    std::vector<bool> apart_;
    std::vector<WideCarries> carries_;  // (rows,) once there is one
    WideBackward<T> wide_backward_;
    AlignedBuffer<unsigned char> product_scratch_;
};

}  // namespace gt
