#include "ops/recurrent_gradients.h"

#include <algorithm>
#include <cmath>

#include "core/shape.h"
#include "ops/recurrent_step_norms.h"

namespace gt {
namespace {

template <class V>
void fill(ParameterGradient<V>* out, bool finite) {
    std::fill(out->value.data(), out->value.data() + out->value.size(), finite ? V(0) : static_cast<V>(kNaN));
    out->exponent = 0;
    out->log2_norm = finite ? kNegativeInfinity : kNaN;
}

}  // namespace

template <class T>
GradientSide<T>::GradientSide(const DirectionContext<T>& context, const DirectionState<T>& state,
                              const SequenceRows<T>& input, std::size_t inputs, Weight weight)
    : context_(context),
      state_(state),
      input_(input),
      first_column_((weight == Weight::hh ? context.cell().hh_first : context.cell().ih_first) * context.hidden),
      columns_(context.cell().weight_blocks * context.hidden),
      width_(weight == Weight::hh ? context.hidden : inputs),
      recurrent_(weight == Weight::hh),
      gathered_(scratch_size(1)) {}

template <class T>
void GradientSide<T>::take_parted(std::size_t first_row, std::size_t end_row) {
    const std::size_t row_size = context_.row_size();
    own_dz_.clear();
    for (std::size_t row = first_row; row < end_row; ++row) {
        const PartedRow<T>* own = parted(row);
        if (own == nullptr) continue;
        if (own_dz_.empty()) own_dz_.assign(state_.z + first_row * row_size, state_.z + end_row * row_size);
        own_first_ = first_row;
        std::copy(own->dz.get(), own->dz.get() + columns_,
                  own_dz_.data() + (row - first_row) * row_size + first_column_);
    }
}

template <class T>
void GradientSide<T>::take_norms(std::size_t first, std::size_t end) {
    const PackedSequence& sequence = context_.sequence;
    first_ = sequence.first_row(first);
    const std::size_t count = sequence.first_row(end) - first_;
    dz_log2_.resize(count);
    right_log2_.resize(count);
    right_exponent_.assign(count, 0.0);
    if (first_column_) take_parted(sequence.first_row(first), sequence.first_row(end));
    const double* dz = first_column_ ? state_.recurrent_log2 : state_.dz_log2;
    const bool known = columns_ == context_.row_size() || first_column_;
    for (std::size_t t = first; t < end && sequence.active(t) > 0; ++t) {
        const std::size_t row = sequence.first_row(t), rows = sequence.active(t);
        take_right_norms(t, row, rows);
        if (known) {
            std::copy(dz + row, dz + row + rows, dz_log2_.data() + row - first_);
            continue;
        }
        log2_row_norms(context_.kernels(), rows, columns_, this->dz(row), context_.row_size(),
                       dz_log2_.data() + row - first_);
        for (std::size_t r = row; r < row + rows; ++r) dz_log2_[r - first_] += dz_exponent(r);
    }
}

template <class T>
void GradientSide<T>::take_right_norms(std::size_t t, std::size_t row, std::size_t rows) {
    const double* exponent = recurrent_ ? state_.h_exponent : input_.exponent;
    const auto source = [&](std::size_t slot) {
        return recurrent_ ? context_.previous_state(t, slot) : context_.forward_row(t, slot);
    };
    if (!recurrent_ && input_.log2)
        for (std::size_t slot = 0; slot < rows; ++slot) right_log2_[row - first_ + slot] = input_.log2[source(slot)];
    else
        log2_row_norms(context_.kernels(), rows, width_, right_rows(t, t + 1, gathered_.data()), width_,
                       right_log2_.data() + row - first_);
    for (std::size_t slot = 0; exponent && slot < rows; ++slot) {
        right_exponent_[row - first_ + slot] = exponent[source(slot)];
        right_log2_[row - first_ + slot] += exponent[source(slot)];
    }
}

template <class T>
void GradientSide<T>::set_terms(std::size_t row, std::size_t rows, std::size_t count, ScaledTerms* weight,
                                ScaledTerms* bias) const {
    if (weight) weight->start(count);
    if (bias) bias->start(count);
    for (std::size_t i = 0; i < rows; ++i) {
        const double exponent = dz_exponent(row + i);
        if (weight) weight->set(i, term_log2(row + i), exponent + right_exponent(row + i));
        if (bias) bias->set(i, dz_log2(row + i), exponent);
    }
}

template <class T>
std::size_t GradientSide<T>::scratch_size(std::size_t steps) const {
    const bool in_place = recurrent_ ? context_.sequence.plain() || steps == 1 : !context_.reverse;
    return in_place ? 0 : checked_multiply(checked_multiply(steps, context_.sequence.batch()), width_);
}

template <class T>
const T* GradientSide<T>::right_rows(std::size_t first, std::size_t end, T* scratch) const {
    if (!recurrent_) return input_rows(context_, input_.rows, width_, first, end, scratch);
    if (context_.sequence.plain() || end == first + 1) return state_.h + context_.previous_state(first, 0) * width_;
    T* to = scratch;
    for (std::size_t t = first; t < end; ++t) {
        const T* from = state_.h + context_.previous_state(t, 0) * width_;
        to = std::copy(from, from + context_.sequence.active(t) * width_, to);
    }
    return scratch;
}

template <class T>
WeightGradient<T>::WeightGradient(const DirectionContext<T>& context, std::vector<const GradientSide<T>*> sides)
    : context_(context), columns_(sides[0]->columns()) {
    const std::size_t most = steps_per_chunk(context) * context.sequence.batch();
    std::size_t scratch = 0;
    for (const GradientSide<T>* side : sides) {
        sums_.push_back({.side = side, .column = width_});
        width_ += round_up(side->width(), kPanelColumns<T>);
        scratch = std::max(scratch, side->scratch_size(steps_per_chunk(context)));
    }
    value_ = AlignedBuffer<T>(checked_multiply(columns_, width_));
    panels_ = AlignedBuffer<T>(context.kernels().panel->size(most, width_, columns_));
    gathered_ = AlignedBuffer<T>(scratch);
}

// Moves a sum to the exponent of the terms, which is no less than its own.
template <class T>
void WeightGradient<T>::make_room(SideSum* sum) {
    sum->finite &= terms_.finite();
    if (sum->exponent != kNegativeInfinity && terms_.exponent() != sum->exponent) {
        const T factor = power_of_two<T>(sum->exponent - terms_.exponent());
        for (std::size_t i = 0; i < columns_; ++i) {
            T* values = value_.data() + i * width_ + sum->column;
            for (std::size_t j = 0; j < sum->side->width(); ++j) values[j] *= factor;
        }
    }
    sum->exponent = terms_.exponent();
}

template <class T>
void WeightGradient<T>::add(std::size_t first, std::size_t end) {
    constexpr std::size_t kMostColumns = 96;  // of dz that a worker takes at a time: whole tiles of every kernel
    const std::size_t row = context_.sequence.first_row(first), rows = context_.sequence.first_row(end) - row;
    if (rows == 0) return;
    const PanelKernels<T>& panel = *context_.kernels().panel;
    for (SideSum& sum : sums_) {
        sum.side->set_terms(row, rows, rows, &terms_, nullptr);
        terms_.align(sum.exponent);
        make_room(&sum);
        factor_.assign(terms_.factor(), terms_.factor() + rows);
        panel.pack(rows, sum.side->width(), sum.side->right_rows(first, end, gathered_.data()), sum.side->width(), 1,
                   factor_.data(), columns_, panels_.data() + panel.size(rows, sum.column, columns_));
    }
    const Loop whole{divide_up(columns_, kColumnMultiple),
                     2.0 * static_cast<double>(rows) * static_cast<double>(value_.size())};
    const std::size_t share = round_up(divide_up(columns_, whole.workers()), kColumnMultiple),
                      most = std::min(kMostColumns, share);
    const Loop loop = whole.of(divide_up(columns_, most));
    product_scratch_.reserve(loop.workers() * panel.transposed_scratch_bytes);
    parallel_for(loop, [&](std::size_t block, std::size_t worker) {
        const std::size_t from = block * most, columns = std::min(most, columns_ - from);
        panel.multiply_transposed(columns, width_, rows, sums_[0].side->dz(row) + from, context_.row_size(),
                                  panels_.data(), value_.data() + from * width_, width_, !empty_, columns_,
                                  product_scratch_.data() + worker * panel.transposed_scratch_bytes);
    });
    empty_ = false;
}

template <class T>
ParameterGradient<T> WeightGradient<T>::result(std::size_t side) const {
    const SideSum& sum = sums_[side];
    const std::size_t width = sum.side->width();
    ParameterGradient<T> out;
    out.value = AlignedBuffer<T>(columns_ * width);
    if (!sum.finite || sum.exponent == kNegativeInfinity) {
        fill(&out, sum.finite);
        return out;
    }
    for (std::size_t i = 0; i < columns_; ++i) {
        const T* from = value_.data() + i * width_ + sum.column;
        std::copy(from, from + width, out.value.data() + i * width);
    }
    out.exponent = sum.exponent;
    log2_row_norms(context_.kernels(), 1, out.value.size(), out.value.data(), out.value.size(), &out.log2_norm);
    out.log2_norm += out.exponent;
    return out;
}

template <class T>
BiasGradient<T>::BiasGradient(const DirectionContext<T>& context, const GradientSide<T>& side)
    : context_(context), side_(side) {
    sum_.reset(side.columns());
}

template <class T>
void BiasGradient<T>::add(std::size_t first, std::size_t end) {
    const std::size_t row = context_.sequence.first_row(first), rows = context_.sequence.first_row(end) - row;
    side_.set_terms(row, rows, rows, nullptr, &terms_);
    terms_.align(sum_.exponent);
    sum_.make_room(terms_);
    context_.kernels().rows->add_columns(rows, side_.columns(), side_.dz(row), context_.row_size(), terms_.factor(),
                                         sum_.value.data());
}

template <class T>
ParameterGradient<double> BiasGradient<T>::result() const {
    ParameterGradient<double> out;
    out.value = AlignedBuffer<double>(sum_.value.size());
    std::copy_n(sum_.value.data(), sum_.value.size(), out.value.data());
    out.exponent = sum_.exponent;
    out.log2_norm = sum_.log2_norm();
    return out;
}

template <class T>
GradientPass<T>::GradientPass(const DirectionContext<T>& context, const DirectionState<T>& state,
                              const SequenceRows<T>& input, std::size_t inputs, const StepNorms& norms)
    : context_(context),
      ih_(context, state, input, inputs, GradientSide<T>::Weight::ih),
      hh_(context, state, input, inputs, GradientSide<T>::Weight::hh),
      norms_(norms) {
    if (ih_.same_columns(hh_)) {
        weights_.emplace_back(context, std::vector<const GradientSide<T>*>{&ih_, &hh_});
        biases_.emplace_back(context, ih_);
        return;
    }
    for (const GradientSide<T>* side : {&ih_, &hh_}) {
        weights_.emplace_back(context, std::vector<const GradientSide<T>*>{side});
        biases_.emplace_back(context, *side);
    }
}

template <class T>
GradientPass<T>::~GradientPass() = default;

template <class T>
void GradientPass<T>::add(std::size_t first, std::size_t end) {
    ih_.take_norms(first, end);
    hh_.take_norms(first, end);
    for (WeightGradient<T>& weight : weights_) weight.add(first, end);
    for (BiasGradient<T>& bias : biases_) bias.add(first, end);
    add_norms(first, end);
}

template <class T>
void GradientPass<T>::add_norms(std::size_t first, std::size_t end) {
    if (norms_.ih == nullptr) return;
    const PackedSequence& sequence = context_.sequence;
    const double rows = static_cast<double>(sequence.first_row(end) - sequence.first_row(first));
    const Loop loop{end - first, rows * static_cast<double>(sequence.batch()) *
                                     static_cast<double>(2 * ih_.columns() + ih_.width() + hh_.width())};
    while (norm_passes_.size() < loop.workers()) norm_passes_.emplace_back(context_, ih_, hh_);
    parallel_for(loop, [&](std::size_t i, std::size_t worker) { norm_passes_[worker].run(first + i, norms_); });
}

template <class T>
DirectionGradients<T> GradientPass<T>::result() const {
    const bool shared = weights_.size() == 1;
    DirectionGradients<T> out;
    out.ih = weights_[0].result(0);
    out.hh = shared ? weights_[0].result(1) : weights_[1].result(0);
    out.bias_ih = biases_[0].result();
    if (!shared) out.bias_hh = biases_[1].result();
    return out;
}

template class GradientSide<float>;
template class GradientSide<double>;
template class WeightGradient<float>;
template class WeightGradient<double>;
template class BiasGradient<float>;
template class BiasGradient<double>;
template class GradientPass<float>;
template class GradientPass<double>;

}  // namespace gt
