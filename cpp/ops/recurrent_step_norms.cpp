#include "ops/recurrent_step_norms.h"

#include <algorithm>
#include <cmath>

#include "core/shape.h"

namespace gt {

template <class T>
StepNormPass<T>::StepNormPass(const DirectionContext<T>& context, const GradientSide<T>& ih, const GradientSide<T>& hh)
    : context_(context),
      ld_(round_up(context.sequence.batch(), kColumnMultiple)),
      ih_(ih),
      hh_(hh),
      gathered_(ih.scratch_size(1)) {}

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
    if (rows_ == 1) {  // an outer product
        weight_norm[t] = s.term_log2(row_);
        if (bias_norm) bias_norm[t] = s.dz_log2(row_);
        return;
    }
    s.set_terms(row_, rows_, ld_, &weight_, &bias_);
    weight_.align();
    bias_.align();
    const T* right = s.right_rows(t, t + 1, gathered_.data());
    norms_of_sums(
        weight_, bias_, pairs_are_cheaper(rows_, s.width(), s.columns()) && squares_are_safe(s),
        [&](double* pair) { sum_pairs(s, right, pair); }, [&] { return form_weight(s, right); },
        [&] { return form_bias(s); }, weight_norm + t, bias_norm ? bias_norm + t : nullptr);
}

// Whether squares of all mantissas stay in T.
template <class T>
bool StepNormPass<T>::squares_are_safe(const GradientSide<T>& s) const {
    bool safe = true;
    for (std::size_t r = row_; r < row_ + rows_; ++r)
        safe &= s.term_log2(r) == kNegativeInfinity || (norm_is_safe<T>(s.right_log2(r) - s.right_exponent(r)) &&
                                                        norm_is_safe<T>(s.dz_log2(r) - s.dz_exponent(r)));
    return safe;
}

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
                                         right_gram_.data(), weight_.factor(), weight_.factor(), bias_.factor(),
                                         bias_.factor(), pair);
}

template <class T>
double StepNormPass<T>::form_weight(const GradientSide<T>& s, const T* right) {
    const std::size_t size = checked_multiply(s.columns(), s.width());
    tile_.reserve(size);
    const PanelKernels<T>& panel = *context_.kernels().panel;
    panels_.reserve(panel.size(context_.sequence.batch(), s.width(), s.columns()));
    product_scratch_.reserve(panel.transposed_scratch_bytes);
    const std::vector<T> factor(weight_.factor(), weight_.factor() + rows_);
    panel.pack(rows_, s.width(), right, s.width(), 1, factor.data(), s.columns(), panels_.data());
    panel.multiply_transposed(s.columns(), s.width(), rows_, s.dz(row_), context_.row_size(), panels_.data(),
                              tile_.data(), s.width(), false, s.columns(), product_scratch_.data());
    double norm = 0;
    log2_row_norms(context_.kernels(), 1, size, tile_.data(), size, &norm);
    return norm;
}

template <class T>
double StepNormPass<T>::form_bias(const GradientSide<T>& s) const {
    std::vector<double> sum(s.columns(), 0.0);
    context_.kernels().rows->add_columns(rows_, s.columns(), s.dz(row_), context_.row_size(), bias_.factor(),
                                         sum.data());
    return log2_norm(sum.size(), sum.data());
}

template class StepNormPass<float>;
template class StepNormPass<double>;

}  // namespace gt
