#include "ops/backward_step.h"

#include <algorithm>
#include <cmath>

namespace gt {
namespace {

// The power of two that brings mantissas from one exponent to another; 0 for a zero row, whose exponent says nothing.
template <class T>
T factor(double exponent, double log2, double to) {
    return log2 == kNegativeInfinity ? T(0) : power_of_two<T>(exponent - to);
}

}  // namespace

template <class T>
void ScaledBlock<T>::reserve(std::size_t rows, std::size_t n) {
    row = AlignedBuffer<T>(checked_multiply(rows, n));
    exponent.resize(rows);
    log2.resize(rows);
    clear(0, rows, n);
}

template <class T>
void ScaledBlock<T>::clear(std::size_t first, std::size_t end, std::size_t n) {
    std::fill(row.data() + first * n, row.data() + end * n, T(0));
    std::fill(exponent.begin() + static_cast<std::ptrdiff_t>(first),
              exponent.begin() + static_cast<std::ptrdiff_t>(end), 0.0);
    std::fill(log2.begin() + static_cast<std::ptrdiff_t>(first), log2.begin() + static_cast<std::ptrdiff_t>(end),
              kNegativeInfinity);
}

template <class T>
BackwardStep<T>::BackwardStep(const KernelTable<T>& kernels, const CellKernels<T>& cell_kernels, CellKind kind,
                              std::size_t hidden, std::size_t rows, Split split)
    : kernels_(kernels),
      cell_kernels_(cell_kernels),
      kind_(kind),
      cell_(cell_shape(kind)),
      hidden_(hidden),
      split_(split == Split::followed && cell_.carries),
      scale_(rows),
      log2_(rows * kCellSums),
      exponent_(rows * kCellSums),
      p_log2_(rows, kNegativeInfinity),
      recurrent_log2_(rows, kNegativeInfinity),
      recurrent_exponent_(rows, 0.0),
      parted_(rows, false),
      apart_(rows, false),
      wide_backward_(kind, hidden),
      product_scratch_(kernels.panel->scratch_bytes) {
    const std::size_t size = checked_multiply(rows, hidden);
    u.reserve(rows, hidden);
    p.reserve(rows, hidden);
    dh = AlignedBuffer<T>(size);
    dz = AlignedBuffer<T>(checked_multiply(size, cell_.row_blocks));
    if (cell_.has_cell_state) dc = AlignedBuffer<T>(size);
    if (!cell_.carries) return;
    carried.reserve(rows, hidden);
    carry_ = AlignedBuffer<T>(size);
    if (!split_) return;
    for (ScaledBlock<T>* block : {&carried_direct, &carried_gated}) block->reserve(rows, hidden);
    for (AlignedBuffer<T>* rows_of : {&direct, &gated, &carry_direct_, &carry_gated_})
        *rows_of = AlignedBuffer<T>(size);
}

template <class T>
void BackwardStep<T>::take(const StepValues<T>& values, std::size_t period, WideStates<T>* wide, std::size_t step,
                           std::size_t slot) {
    values_ = values;
    wide_ = wide;
    step_ = step;
    slot_ = slot;
    period_ = period;
    const std::size_t size = period * cell_.coefficient_blocks * hidden_;
    if (coefficients_.size() < size) coefficients_ = AlignedBuffer<T>(size);
    cell_kernels_.coefficients(
        {period, hidden_, values.z, values.h_previous, values.c_previous, values.c, coefficients_.data()});
}

// The exponents of row r's outputs: those of the larger of the terms, gates taken as 1.
template <class T>
void BackwardStep<T>::plan(std::size_t r, bool injected) {
    const double u_log2 = injected ? u.log2[r] : kNegativeInfinity, p_log2 = p.log2[r];
    const double arriving = std::max(u_log2, p_log2);
    double* e = exponent_.data() + r * kCellSums;
    CellScale<T>& s = scale_[r];
    if (cell_.has_cell_state) {
        e[kDh] = common_exponent(arriving);
        e[kDc] = common_exponent(std::max(carried.log2[r], arriving));
        s.carried = factor<T>(carried.exponent[r], carried.log2[r], e[kDc]);
        s.dh_dc = s.dh_dz = factor<T>(e[kDh], arriving, e[kDc]);
        e[kDz] = e[kCarry] = e[kDc];
    } else {
        e[kDh] = common_exponent(cell_.carries ? std::max(carried.log2[r], arriving) : arriving);
        if (cell_.carries) s.carried = factor<T>(carried.exponent[r], carried.log2[r], e[kDh]);
        e[kDz] = e[kCarry] = e[kDh];
    }
    s.u_dh = factor<T>(u.exponent[r], u_log2, e[kDh]);
    s.p_dh = factor<T>(p.exponent[r], p_log2, e[kDh]);
    if (!split_) return;
    e[kDirect] = e[kCarryDirect] = common_exponent(std::max(carried_direct.log2[r], u_log2));
    s.carried_direct = factor<T>(carried_direct.exponent[r], carried_direct.log2[r], e[kDirect]);
    s.u_direct = factor<T>(u.exponent[r], u_log2, e[kDirect]);
    e[kGated] = e[kCarryGated] = common_exponent(std::max(carried_gated.log2[r], p_log2));
    s.carried_gated = factor<T>(carried_gated.exponent[r], carried_gated.log2[r], e[kGated]);
    s.p_gated = factor<T>(p.exponent[r], p_log2, e[kGated]);
}

template <class T>
void BackwardStep<T>::run(std::size_t rows, bool injected) {
    for (std::size_t r = 0; r < rows; ++r) plan(r, injected);
    CellBackward<T> s{};
    s.rows = rows;
    s.hidden = hidden_;
    s.period = period_;
    s.coefficients = coefficients_.data();
    s.scale = scale_.data();
    s.u = injected ? u.row.data() : nullptr;
    s.p = p.row.data();
    s.carried = carried.row.data();
    s.dh = dh.data();
    s.dc = dc.data();
    s.carry = carry_.data();
    if (split_) {
        s.carried_direct = carried_direct.row.data();
        s.carried_gated = carried_gated.row.data();
        s.direct = direct.data();
        s.gated = gated.data();
        s.carry_direct = carry_direct_.data();
        s.carry_gated = carry_gated_.data();
    }
    s.dz = dz.data();
    s.squares = log2_.data();
    cell_kernels_.backward(s);
    kernels_.reduce->log2_norms(rows * kCellSums, log2_.data(), log2_.data());
    take_recurrent_norms(rows);
    for (std::size_t r = 0; r < rows; ++r)
        if (apart_[r] || lost(r) || cancelled(r)) redo(r, injected);
}

template <class T>
void BackwardStep<T>::take_recurrent_norms(std::size_t rows) {
    if (recurrent_size() == cell_.row_blocks * hidden_) return;  // all of dz
    kernels_.rows->squares(rows, recurrent_size(), dz.data() + cell_.hh_first * hidden_, cell_.row_blocks * hidden_,
                           recurrent_log2_.data());
    kernels_.reduce->log2_norms(rows, recurrent_log2_.data(), recurrent_log2_.data());
    std::fill(parted_.begin(), parted_.begin() + static_cast<std::ptrdiff_t>(rows), false);
}

// Whether a gate may have taken an output of row r out of its format: its norm says so, and its inputs are not zero.
template <class T>
bool BackwardStep<T>::lost(std::size_t r) const {
    const auto unsafe = [](double norm) { return !norm_is_safe<T>(norm) && !std::isnan(norm); };
    const auto out_of_range = [&](CellSum which) { return unsafe(mantissa_log2(r, which)); };
    const bool dh_alive = mantissa_log2(r, kDh) != kNegativeInfinity;
    if (kind_ == CellKind::rnn_relu) return false;  // derivatives 0 and 1
    if (!cell_.carries) return dh_alive && out_of_range(kDz);
    const bool alive = dh_alive || carried.log2[r] != kNegativeInfinity;
    if (alive && (out_of_range(kDz) || out_of_range(kCarry) || (cell_.has_cell_state && out_of_range(kDc))))
        return true;
    if (alive && !cell_.has_cell_state && unsafe(recurrent_log2_[r])) return true;
    if (!split_) return false;
    const bool direct_alive = scale_[r].carried_direct != T(0) || scale_[r].u_direct != T(0);
    const bool gated_alive = scale_[r].carried_gated != T(0) || scale_[r].p_gated != T(0);
    return (direct_alive && (out_of_range(kDirect) || out_of_range(kCarryDirect))) ||
           (gated_alive && (out_of_range(kGated) || out_of_range(kCarryGated)));
}

// Whether what a GRU's update gate gets, dh (h - n) z', may be the rounding of h and n: both saturate, or h has
// settled.
template <class T>
bool BackwardStep<T>::cancelled(std::size_t r) const {
    constexpr double kLeast = -10, kTrusted = -8;  // bits; z' is 1/4 at most, and the rounding of h u
    if (kind_ != CellKind::gru || !(recurrent_log2_[r] < mantissa_log2(r, kDh) + kLeast)) return false;
    const T *z = values_.z + (r % period_ * cell_.row_blocks + GruBlock::update) * hidden_,
            *rows = dh.data() + r * hidden_;
    double squares = 0;
    for (std::size_t u = 0; u < hidden_; ++u) {
        const double gate = 1 / (1 + std::exp(std::fabs(static_cast<double>(z[u])))),
                     term = static_cast<double>(rows[u]) * gate * (1 - gate);
        squares += term * term;
    }
    return recurrent_log2_[r] < 0.5 * std::log2(squares) + kTrusted;
}

template <class T>
void BackwardStep<T>::redo(std::size_t r, bool injected) {
    const std::size_t n = hidden_, from = r * n, shared = r % period_;
    if (carries_.empty()) carries_.resize(apart_.size());
    WideCarries& carries = carries_[r];
    const auto load = [&](const ScaledBlock<T>& block, std::vector<Wide>* to) {
        const ScaledRow<T> row{block.row.data() + from, block.exponent[r]};
        to->resize(n);
        for (std::size_t i = 0; i < n; ++i) (*to)[i] = row[i];
    };
    if (cell_.carries && !apart_[r]) {
        load(carried, &carries.whole);
        if (split_) load(carried_direct, &carries.direct);
        if (split_) load(carried_gated, &carries.gated);
    }
    const ScaledRow<T> u_row{u.row.data() + from, u.exponent[r]}, p_row{p.row.data() + from, p.exponent[r]};
    const WideOutputs& out =
        wide_backward_.run(values_.z + shared * cell_.row_blocks * n, wide_->factors(step_, slot_ + shared),
                           {injected ? &u_row : nullptr, &p_row, &carries}, split_);
    const auto put = [&](CellSum which, const std::vector<Wide>& x, AlignedBuffer<T>& to) {
        T* row = to.data() + r * x.size();
        exponent_[r * kCellSums + which] = to_row(x.size(), x.data(), row);
        log2_row_norms(kernels_, 1, x.size(), row, x.size(), &log2_[r * kCellSums + which]);
    };
    put(kDh, out.dh, dh);
    if (cell_.has_cell_state) put(kDc, out.dc, dc);
    put(kDz, out.dz, dz);
    if (cell_.carries) put(kCarry, carries.whole, carry_);
    if (split_) {
        put(kDirect, out.direct, direct);
        put(kGated, out.gated, gated);
        put(kCarryDirect, carries.direct, carry_direct_);
        put(kCarryGated, carries.gated, carry_gated_);
    }
    apart_[r] = cell_.carries && !rows_hold<T>(carries);
    if (recurrent_size() < cell_.row_blocks * n) part_recurrent(r, out.dz.data() + cell_.hh_first * n);
}

template <class T>
void BackwardStep<T>::part_recurrent(std::size_t r, const Wide* dz_recurrent) {
    const auto norm_of = [&](const T* row) {
        log2_row_norms(kernels_, 1, recurrent_size(), row, recurrent_size(), &recurrent_log2_[r]);
    };
    norm_of(dz.data() + (r * cell_.row_blocks + cell_.hh_first) * hidden_);
    if (norm_is_safe<T>(recurrent_log2_[r]) || std::isnan(recurrent_log2_[r])) return;
    if (recurrent_dz_.size() == 0) recurrent_dz_ = AlignedBuffer<T>(parted_.size() * recurrent_size());
    T* to = recurrent_dz_.data() + r * recurrent_size();
    recurrent_exponent_[r] = to_row(recurrent_size(), dz_recurrent, to);
    norm_of(to);
    parted_[r] = true;
}

template <class T>
void BackwardStep<T>::advance(std::size_t rows) {
    if (!cell_.carries) return;
    const auto move = [&](AlignedBuffer<T>& carry, CellSum which, ScaledBlock<T>& to) {
        std::swap(carry, to.row);
        for (std::size_t r = 0; r < rows; ++r) {
            to.exponent[r] = exponent(r, which);
            to.log2[r] = log2(r, which);
        }
    };
    move(carry_, kCarry, carried);
    if (!split_) return;
    move(carry_direct_, kCarryDirect, carried_direct);
    move(carry_gated_, kCarryGated, carried_gated);
}

template <class T>
void BackwardStep<T>::propagate(std::size_t rows, const PackedMatrix<T>& hh) {
    const std::size_t row_size = cell_.row_blocks * hidden_;
    kernels_.panel->multiply(rows, hidden_, hh.outputs, dz.data() + cell_.hh_first * hidden_, row_size,
                             hh.backward.data(), p.row.data(), hidden_, false, order_, hh.rows,
                             product_scratch_.data());
    for (std::size_t r = 0; r < rows; ++r)
        if (parted(r))
            kernels_.panel->multiply(1, hidden_, hh.outputs, parted(r), recurrent_size(), hh.backward.data(),
                                     p.row.data() + r * hidden_, hidden_, false, order_, hh.rows,
                                     product_scratch_.data());
    order_ = order_ == PanelOrder::up ? PanelOrder::down : PanelOrder::up;
    log2_row_norms(kernels_, rows, hidden_, p.row.data(), hidden_, p_log2_.data());
    for (std::size_t r = 0; r < rows; ++r) {
        p.exponent[r] = (parted(r) ? recurrent_exponent_[r] : exponent(r, kDz)) + hh.exponent;
        p.log2[r] = p_log2_[r] + p.exponent[r];
        // A step's growth is less than the last digit of such an exponent, and would stay in the mantissas for good.
        if (std::fabs(p.exponent[r]) > kWholeAnyway) {
            T* row = p.row.data() + r * hidden_;
            normalise_row(hidden_, row, 0.0, row);
        }
    }
}

template struct ScaledBlock<float>;
template struct ScaledBlock<double>;
template class BackwardStep<float>;
template class BackwardStep<double>;

}  // namespace gt
