#include "ops/step_norms.h"

#include <algorithm>
#include <cmath>

#include "core/shape.h"
#include "ops/gradient_norms.h"

namespace gt {

template <class T>
StepNormPass<T>::StepNormPass(const DirectionContext<T>& context, const GradientSide<T>& ih, const GradientSide<T>& hh)
    : context_(context),
      ld_(round_up(context.sequence.batch(), kColumnMultiple)),
      ih_(ih),
      hh_(hh),
      gathered_(ih.scratch_size(1)) {
    weight_.factor.assign(ld_, 0.0);
    bias_.factor.assign(ld_, 0.0);
}

template <class T>
void StepNormPass<T>::run(std::size_t t, const StepNorms& out) {
    row_ = context_.sequence.first_row(t);
    rows_ = context_.sequence.active(t);
    have_left_ = false;
    if (rows_ == 0) return;
    side(ih_, t, out.ih, out.bias_ih);
    have_left_ &= hh_.same_columns(ih_);
    side(hh_, t, out.hh, out.bias_hh);
}

template <class T>
void StepNormPass<T>::side(const GradientSide<T>& s, std::size_t t, double* weight_norm, double* bias_norm) {
    align(s, true, &weight_);
    align(s, false, &bias_);
    if (rows_ == 1) {  // an outer product
        weight_norm[t] =
            weight_.countable() ? s.dz_log2(row_) + s.right_log2(row_) : (weight_.finite ? kNegativeInfinity : kNaN);
        if (bias_norm) bias_norm[t] = s.dz_log2(row_);
        return;
    }
    const T* right = s.right_rows(t, t + 1, gathered_.data());
    double pair[2] = {0, 0};
    const bool pairs = pairs_are_cheaper(rows_, s.width(), s.columns()) && weight_.countable() && weight_.safe;
    if (pairs) sum_pairs(s, right, pair);
    const auto trusted = [&](double sum, const Terms& terms) {
        return pairs && sum >= kCancelled * terms.size * terms.size;
    };
    weight_norm[t] = trusted(pair[0], weight_) ? 0.5 * std::log2(pair[0]) + weight_.exponent : form_weight(s, right);
    if (bias_norm) bias_norm[t] = trusted(pair[1], bias_) ? 0.5 * std::log2(pair[1]) + bias_.exponent : form_bias(s);
}

template <class T>
void StepNormPass<T>::align(const GradientSide<T>& s, bool with_right, Terms* terms) const {
    double top = kNegativeInfinity;
    terms->finite = terms->safe = true;
    std::fill(terms->factor.begin(), terms->factor.end(), 0.0);
    const auto norm_of = [&](std::size_t r) {
        const double dz = s.dz_log2(r), right = with_right ? s.right_log2(r) : 0.0;
        return dz == kNegativeInfinity || right == kNegativeInfinity ? kNegativeInfinity : dz + right;
    };
    for (std::size_t r = row_; r < row_ + rows_; ++r) {
        const double norm = norm_of(r);
        if (std::isnan(norm) || norm == -kNegativeInfinity) terms->finite = false;
        top = std::max(top, norm);
        if (norm == kNegativeInfinity) continue;
        terms->safe &=
            norm_is_safe<T>(s.right_log2(r) - s.right_exponent(r)) && norm_is_safe<T>(s.dz_log2(r) - s.dz_exponent(r));
    }
    terms->exponent = top == kNegativeInfinity ? top : common_exponent(top);
    if (!terms->countable()) return;
    for (std::size_t i = 0; i < rows_; ++i)
        if (norm_of(row_ + i) != kNegativeInfinity)
            terms->factor[i] = power_of_two<double>(s.dz_exponent(row_ + i) +
                                                    (with_right ? s.right_exponent(row_ + i) : 0.0) - terms->exponent);
}

// pair[0], pair[1]: the squares of the weight's and of the bias's sum.
template <class T>
void StepNormPass<T>::sum_pairs(const GradientSide<T>& s, const T* right, double* pair) {
    if (left_gram_.size() == 0) {
        left_gram_ = AlignedBuffer<T>(checked_multiply(context_.sequence.batch(), ld_));
        right_gram_ = AlignedBuffer<T>(left_gram_.size());
        std::fill(left_gram_.data(), left_gram_.data() + left_gram_.size(), T(0));
        std::fill(right_gram_.data(), right_gram_.data() + right_gram_.size(), T(0));
    }
    const RowKernels<T>& kernels = *context_.kernels().rows;
    if (!have_left_) kernels.gram(rows_, s.columns(), s.dz(row_), context_.row_size(), left_gram_.data(), ld_);
    have_left_ = true;
    kernels.gram(rows_, s.width(), right, s.width(), right_gram_.data(), ld_);
    context_.kernels().reduce->pair_sums(rows_, round_up(rows_, kColumnMultiple), ld_, left_gram_.data(),
                                         right_gram_.data(), weight_.factor.data(), weight_.factor.data(),
                                         bias_.factor.data(), bias_.factor.data(), pair);
    weight_.size = bias_.size = 0;
    for (std::size_t i = 0; i < rows_; ++i) {
        const double dz = std::sqrt(static_cast<double>(left_gram_[i * ld_ + i]));
        weight_.size += dz * std::sqrt(static_cast<double>(right_gram_[i * ld_ + i])) * weight_.factor[i];
        bias_.size += dz * bias_.factor[i];
    }
}

template <class T>
double StepNormPass<T>::form_weight(const GradientSide<T>& s, const T* right) {
    if (!weight_.countable()) return (weight_.finite ? kNegativeInfinity : kNaN);
    const std::size_t size = checked_multiply(s.columns(), s.width());
    if (tile_.size() < size) tile_ = AlignedBuffer<T>(size);
    const PanelKernels<T>& panel = *context_.kernels().panel;
    const std::size_t panels = panel.size(context_.sequence.batch(), s.width(), s.columns());
    if (panels_.size() < panels) panels_ = AlignedBuffer<T>(panels);
    if (lent_.size() < panel.transposed_scratch_bytes)
        lent_ = AlignedBuffer<unsigned char>(panel.transposed_scratch_bytes);
    std::vector<T> factor(rows_);
    for (std::size_t i = 0; i < rows_; ++i) factor[i] = static_cast<T>(weight_.factor[i]);
    panel.pack(rows_, s.width(), right, s.width(), 1, factor.data(), s.columns(), panels_.data());
    panel.multiply_transposed(s.columns(), s.width(), rows_, s.dz(row_), context_.row_size(), panels_.data(),
                              tile_.data(), s.width(), false, s.columns(), lent_.data());
    double norm = 0;
    log2_row_norms(context_.kernels(), 1, size, tile_.data(), size, &norm);
    return norm + weight_.exponent;
}

template <class T>
double StepNormPass<T>::form_bias(const GradientSide<T>& s) const {
    if (!bias_.countable()) return (bias_.finite ? kNegativeInfinity : kNaN);
    std::vector<double> sum(s.columns(), 0.0);
    context_.kernels().rows->add_columns(rows_, s.columns(), s.dz(row_), context_.row_size(), bias_.factor.data(),
                                         sum.data());
    double squares = 0;
    for (const double v : sum) squares += v * v;
    return 0.5 * std::log2(squares) + bias_.exponent;
}

template class StepNormPass<float>;
template class StepNormPass<double>;

}  // namespace gt
