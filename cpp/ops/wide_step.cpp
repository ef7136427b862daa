#include "ops/wide_step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/subnormals.h"

namespace gt {
namespace {

constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();  // as an empty carry has it

template <class T>
bool all_zero(std::size_t n, const T* x) {
    return std::all_of(x, x + n, [](T v) { return v == 0; });
}

template <class T>
double log2_norm_of(const KernelTable<T>& kernels, std::size_t n, const T* x) {
    double norm = 0;
    log2_row_norms(kernels, 1, n, x, n, &norm);
    return norm;
}

template <class T>
bool outside(double top) {
    return std::isfinite(top) && (top < Range<T>::state_low || top > Range<T>::state_high);
}

// A preactivation or a state in T. Far beyond where anything saturates, a factor below T's largest number: its
// logarithm of a gate is then a number, too.
template <class T>
T to_plain(Wide x) {
    constexpr double kMost = std::numeric_limits<T>::max() / 4;
    const double value = plain(x);
    return static_cast<T>(x.finite() ? std::clamp(value, -kMost, kMost) : value);
}

}  // namespace

template <class T>
void wide_lstm_step(std::size_t hidden, const T* z, const Wide* candidate, Wide* c, Wide* h) {
    const auto at = [&](std::size_t block, std::size_t u) { return static_cast<double>(z[block * hidden + u]); };
    for (std::size_t u = 0; u < hidden; ++u) {
        const Wide g = wide_tanh(candidate ? candidate[u] : wide(at(LstmBlock::candidate, u)));
        c[u] = wide_sigmoid(at(LstmBlock::forget, u)) * c[u] + wide_sigmoid(at(LstmBlock::input, u)) * g;
        if (h) h[u] = wide_sigmoid(at(LstmBlock::output, u)) * wide_tanh(c[u]);
    }
}

template <class T>
void wide_gru_step(const CellShape& cell, std::size_t hidden, const T* z, const Wide* candidate, Wide* h) {
    const auto at = [&](std::size_t block, std::size_t u) { return static_cast<double>(z[block * hidden + u]); };
    for (std::size_t u = 0; u < hidden; ++u) {
        const Wide n = wide_tanh(candidate ? candidate[u] : wide(at(cell.candidate_block, u)));
        const double update = at(cell.carry_block(), u);
        h[u] = wide_sigmoid(-update) * n + wide_sigmoid(update) * h[u];
    }
}

template <class T>
WideStep<T>::WideStep(const DirectionContext<T>& context, const CellWeights<T>& weights, const SequenceRows<T>& input,
                      const DirectionState<T>& state, std::size_t first_step, std::size_t first, std::size_t slots)
    : context_(context),
      weights_(weights),
      input_(input),
      state_(state),
      first_(first),
      slots_(slots),
      n_(context.hidden),
      carried_at_(slots, kNever),
      low_(slots, false),
      huge_(std::max(weights.ih.exponent, weights.hh.exponent) > Range<T>::state_high),
      no_bias_(context.row_size(), T(0)) {
    load_bias();
    if (first_step > 0)
        load_carried();
    else if (context.cell().has_cell_state)
        load_initial();
}

template <class T>
void WideStep<T>::load_carried() {
    const WideCarry& from = *state_.wide_before;
    if (!from.any()) return;
    const auto rows = from.rows.begin() + static_cast<std::ptrdiff_t>(first_ * n_);
    carried_.assign(rows, rows + static_cast<std::ptrdiff_t>(slots_ * n_));
    for (std::size_t r = 0; r < slots_; ++r) {
        carried_at_[r] = from.at[first_ + r];
        low_[r] = from.low[first_ + r] != 0;
        any_low_ |= low_[r];
    }
}

template <class T>
void WideStep<T>::save(WideCarry* to) const {
    if (to == nullptr || carried_.empty()) return;
    std::copy(carried_.begin(), carried_.end(), to->rows.begin() + static_cast<std::ptrdiff_t>(first_ * n_));
    for (std::size_t r = 0; r < slots_; ++r) {
        to->at[first_ + r] = carried_at_[r];
        to->low[first_ + r] = low_[r];
    }
}

// c0 as the caller has it, which may be subnormal.
template <class T>
void WideStep<T>::load_initial() {
    const SubnormalMode keep(Subnormals::keep);
    for (std::size_t r = 0; r < slots_; ++r) {
        const T* c = state_.c + (first_ + r) * n_;
        if (!outside<T>(log2_norm_of(context_.kernels(), n_, c))) continue;
        carried_.resize(slots_ * n_);
        for (std::size_t u = 0; u < n_; ++u) carried_[r * n_ + u] = wide(static_cast<double>(c[u]));
        carried_at_[r] = 0;
        any_low_ = low_[r] = true;
    }
}

template <class T>
void WideStep<T>::load_bias() {
    const SubnormalMode keep(Subnormals::keep);
    const CellShape& cell = context_.cell();
    const std::size_t size = context_.row_size();
    const T* bias = weights_.bias.data();
    bias_.resize(size);
    for (std::size_t i = 0; i < size; ++i) bias_[i] = wide(static_cast<double>(bias[i]));
    const auto block_driven = [&](std::size_t block) { return !all_zero(n_, bias + block * n_); };
    if (cell.gates) {
        driven_ =
            block_driven(cell.candidate_block) || (cell.has_recurrent_block() && block_driven(cell.recurrent_block()));
        return;
    }
    driven_ = block_driven(0);
    bias_row_.resize(n_);
    bias_exponent_ = normalise_row(n_, bias, 0.0, bias_row_.data());
    bias_log2_ = log2_norm_of(context_.kernels(), n_, bias_row_.data()) + bias_exponent_;
}

template <class T>
bool WideStep<T>::enters(std::size_t t, std::size_t r) const {
    return huge_ || state_.h_exponent[context_.previous_state(t, first_ + r)] != 0 || input_exponent(t, r) != 0 ||
           (low_[r] && carried_at_[r] == t);
}

// Nothing in, nothing out.
template <class T>
bool WideStep<T>::is_zero(std::size_t t, const CellForward<T>& s, std::size_t r) const {
    const std::size_t inputs = weights_.ih.inputs;
    return !driven_ && all_zero(n_, s.h_previous + r * n_) &&
           (s.c_previous == nullptr || all_zero(n_, s.c_previous + r * n_)) &&
           all_zero(inputs, input_.rows + context_.forward_row(t, first_ + r) * inputs);
}

template <class T>
bool WideStep<T>::has_left(std::size_t t, const CellForward<T>& s, std::size_t r) const {
    const double squares = s.h_squares[r];
    if (std::isnan(squares) || is_zero(t, s, r)) return false;
    // Units of a ReLU that are all off are a zero, too.
    return context_.kind != CellKind::rnn_relu || squares != 0 || !all_zero(n_, s.h + r * n_) ||
           log2_norm_of(context_.kernels(), n_, s.z + r * n_) < Range<T>::state_low;
}

// Products of the rows, as values at exponents of their own.
template <class T>
void WideStep<T>::multiply(std::size_t t, const std::vector<Row>& rows, bool projected) {
    const PackedMatrix<T>&ih = weights_.ih, &hh = weights_.hh;
    const PanelKernels<T>& panel = *context_.kernels().panel;
    if (hh_product_.size() == 0) hh_product_ = AlignedBuffer<T>(checked_multiply(slots_, hh.outputs));
    if (ih_product_.size() == 0) ih_product_ = AlignedBuffer<T>(checked_multiply(slots_, ih.outputs));
    product_scratch_.reserve(panel.scratch_bytes);
    gathered_.resize(slots_ * std::max(n_, ih.inputs));
    const auto product = [&](const PackedMatrix<T>& matrix, T* to, auto row_of) {
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const T* from = row_of(first_ + rows[i].r);
            std::copy(from, from + matrix.inputs, gathered_.data() + i * matrix.inputs);
        }
        panel.multiply(rows.size(), matrix.outputs, matrix.inputs, gathered_.data(), matrix.inputs,
                       matrix.forward.data(), to, matrix.outputs, false, PanelOrder::up, matrix.rows,
                       product_scratch_.data());
    };
    product(hh, hh_product_.data(), [&](std::size_t slot) { return state_.h + context_.previous_state(t, slot) * n_; });
    if (projected) return;
    product(ih, ih_product_.data(),
            [&](std::size_t slot) { return input_.rows + context_.forward_row(t, slot) * ih.inputs; });
}

template <class T>
typename WideStep<T>::Sums WideStep<T>::sums(std::size_t t, const CellForward<T>& s, std::size_t i, std::size_t r,
                                             bool projected) const {
    const T* ih = projected ? s.z + r * context_.row_size() + context_.cell().ih_first * n_
                            : ih_product_.data() + i * weights_.ih.outputs;
    return {.ih = ih,
            .hh = hh_product_.data() + i * weights_.hh.outputs,
            .ih_exponent = input_exponent(t, r) + weights_.ih.exponent,
            .hh_exponent = state_.h_exponent[context_.previous_state(t, first_ + r)] + weights_.hh.exponent};
}

template <class T>
void WideStep<T>::run(std::size_t t, const std::vector<Row>& rows, const CellForward<T>& s, bool projected) {
    multiply(t, rows, projected);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const Sums of_row = sums(t, s, i, rows[i].r, projected);
        if (context_.cell().gates)
            run_gated_cell(t, s, rows[i], of_row);
        else
            run_plain_cell(t, s, rows[i].r, of_row);
    }
}

// phi(2^e z) = 2^e phi(z) for a ReLU, and for a tanh that is its slope at 0 to rounding.
template <class T>
void WideStep<T>::run_plain_cell(std::size_t t, const CellForward<T>& s, std::size_t r, const Sums& sums) {
    constexpr double kLinear = -40;  // z^2 / 3 rounds away
    const auto norm_of = [&](const T* x) { return log2_norm_of(context_.kernels(), n_, x); };
    const double ih_log2 = norm_of(sums.ih) + sums.ih_exponent, hh_log2 = norm_of(sums.hh) + sums.hh_exponent,
                 exponent = common_exponent(std::max({ih_log2, hh_log2, bias_log2_}));
    const auto factor = [&](double log2, double from) {
        return log2 == kNegativeInfinity ? T(0) : power_of_two<T>(from - exponent);
    };
    const T of_ih = factor(ih_log2, sums.ih_exponent), of_hh = factor(hh_log2, sums.hh_exponent),
            of_bias = factor(bias_log2_, bias_exponent_);
    CellForward<T> one = some_rows(s, r, 1, context_.cell());
    for (std::size_t u = 0; u < n_; ++u) one.z[u] = (sums.ih[u] * of_ih + bias_row_[u] * of_bias) + sums.hh[u] * of_hh;
    one.bias = no_bias_.data();
    double* now = state_.h_exponent + context_.state(t, first_ + r);
    const bool relu = context_.kind == CellKind::rnn_relu;
    const double size = norm_of(one.z) + exponent;
    *now = 0;
    if (std::isnan(size) || size == kNegativeInfinity || (relu ? std::fabs(size) <= kKeepBits : size >= kLinear)) {
        for (std::size_t u = 0; u < n_; ++u) one.z[u] = to_plain<T>(wide(static_cast<double>(one.z[u]), exponent));
        return context_.cell_kernels().forward(one);
    }
    if (relu)
        context_.cell_kernels().forward(one);
    else
        std::copy(one.z, one.z + n_, one.h);
    *now = normalise_row(n_, one.h, exponent, one.h);
    if (relu) return;
    for (std::size_t u = 0; u < n_; ++u) one.z[u] = static_cast<T>(scale_by(static_cast<double>(one.z[u]), exponent));
}

template <class T>
Wide WideStep<T>::preactivation(const Sums& sums, std::size_t block, std::size_t u) const {
    const CellShape& cell = context_.cell();
    const auto part = [&](const T* product, std::size_t first, double exponent) {
        if (block < first || block >= first + cell.weight_blocks) return Wide{};
        return wide(static_cast<double>(product[(block - first) * n_ + u]), exponent);
    };
    return part(sums.ih, cell.ih_first, sums.ih_exponent) + bias_[block * n_ + u] +
           part(sums.hh, cell.hh_first, sums.hh_exponent);
}

// What the row's kernel adds no bias to.
template <class T>
void WideStep<T>::preactivations(const Sums& sums, T* z) const {
    std::vector<T> row(context_.row_size());  // `sums` may stand in z
    for (std::size_t block = 0; block < context_.cell().row_blocks; ++block)
        for (std::size_t u = 0; u < n_; ++u) row[block * n_ + u] = to_plain<T>(preactivation(sums, block, u));
    std::copy(row.begin(), row.end(), z);
}

template <class T>
void WideStep<T>::run_gated_cell(std::size_t t, const CellForward<T>& s, Row row, const Sums& sums) {
    const CellShape& cell = context_.cell();
    const std::size_t r = row.r, before = context_.previous_state(t, first_ + r);
    CellForward<T> one = some_rows(s, r, 1, cell);
    candidate_.resize(n_);
    recurrent_.resize(cell.has_recurrent_block() ? n_ : 0);
    h_.resize(n_);
    carried_.resize(slots_ * n_);
    for (std::size_t u = 0; u < n_; ++u) candidate_[u] = preactivation(sums, cell.candidate_block, u);
    for (std::size_t u = 0; u < recurrent_.size(); ++u) recurrent_[u] = preactivation(sums, cell.recurrent_block(), u);
    if (row.fresh) {
        preactivations(sums, one.z);
        one.bias = no_bias_.data();
        context_.cell_kernels().forward(one);  // for the sums over its gates
    }
    Wide* carried = carried_.data() + r * n_;
    if (carried_at_[r] != t) {
        const T* from = (cell.has_cell_state ? state_.c : state_.h) + before * n_;
        const double exponent = cell.has_cell_state ? 0 : state_.h_exponent[before];
        for (std::size_t u = 0; u < n_; ++u) carried[u] = wide(static_cast<double>(from[u]), exponent);
    }
    if (cell.has_cell_state) {
        wide_lstm_step(n_, one.z, candidate_.data(), carried, h_.data());
    } else {
        for (std::size_t u = 0; u < recurrent_.size(); ++u)
            candidate_[u] =
                candidate_[u] + wide_sigmoid(static_cast<double>(one.z[GruBlock::reset * n_ + u])) * recurrent_[u];
        wide_gru_step(cell, n_, one.z, candidate_.data(), carried);
        std::copy(carried, carried + n_, h_.begin());
    }
    carried_at_[r] = t + 1;
    record(context_.sequence.first_row(t) + first_ + r);
    store_state(t, s, r, cell.has_cell_state ? carried : nullptr, h_.data());
}

// Keeps what z does not hold.
template <class T>
void WideStep<T>::record(std::size_t row) {
    if (state_.wide_z == nullptr) return;
    const auto held = [](const Wide& x) { return x.m == 0 || x.e > Range<T>::state_low; };
    if (std::all_of(candidate_.begin(), candidate_.end(), held) &&
        std::all_of(recurrent_.begin(), recurrent_.end(), held))
        return;
    std::unique_ptr<Wide[]>& to = (*state_.wide_z)[row];
    to = std::make_unique<Wide[]>(candidate_.size() + recurrent_.size());
    std::copy(recurrent_.begin(), recurrent_.end(), std::copy(candidate_.begin(), candidate_.end(), to.get()));
}

template <class T>
void WideStep<T>::store_state(std::size_t t, const CellForward<T>& s, std::size_t r, const Wide* c, const Wide* h) {
    const double top = top_exponent(n_, h);
    const double exponent = outside<T>(top) ? top : 0;
    state_.h_exponent[context_.state(t, first_ + r)] = exponent;
    for (std::size_t u = 0; u < n_; ++u) s.h[r * n_ + u] = to_plain<T>({h[u].m, h[u].e - exponent});
    if (c == nullptr) return;
    for (std::size_t u = 0; u < n_; ++u) s.c[r * n_ + u] = to_plain<T>(c[u]);
    low_[r] = outside<T>(top_exponent(n_, c));
    any_low_ |= low_[r];
}

#define GT_INSTANTIATE(T)                                                                        \
    template void wide_lstm_step<T>(std::size_t, const T*, const Wide*, Wide*, Wide*);           \
    template void wide_gru_step<T>(const CellShape&, std::size_t, const T*, const Wide*, Wide*); \
    template class WideStep<T>;
GT_INSTANTIATE(float)
GT_INSTANTIATE(double)
#undef GT_INSTANTIATE

}  // namespace gt
