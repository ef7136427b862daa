// Norms of what each step adds to the batch's weight and bias gradients: sums over its samples (ops/scaled_sum.h).
#pragma once

#include <vector>

#include "ops/recurrent_gradients.h"

namespace gt {

template <class T>
class StepNormPass {
  public:
    StepNormPass(const DirectionContext<T>& context, const GradientSide<T>& ih, const GradientSide<T>& hh);
    void run(std::size_t t, const StepNorms& out);

  private:
    void side(const GradientSide<T>& s, std::size_t t, double* weight_norm, double* bias_norm);
    bool squares_are_safe(const GradientSide<T>& s) const;
    void sum_pairs(const GradientSide<T>& s, const T* right, double* pair);
    double form_weight(const GradientSide<T>& s, const T* right);
    double form_bias(const GradientSide<T>& s) const;

    const DirectionContext<T>& context_;
    std::size_t ld_;
    const GradientSide<T>&ih_, &hh_;
    std::size_t row_ = 0, rows_ = 0;  // of the step under way
    ScaledTerms weight_, bias_;       // (batch rounded up to columns,), zero beyond the step's rows
    AlignedBuffer<T> gathered_, left_gram_, right_gram_, panels_, tile_;
    AlignedBuffer<unsigned char> product_scratch_;
    bool have_left_ = false;
};

}  // namespace gt
