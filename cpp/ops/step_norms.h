// Norms of what each step adds to the batch's weight gradients: sum over its samples of dz a^T, by pairs of samples
// where that is less work than forming it (ops/gradient_norms.h).
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
    // The terms of one step's sum, brought to a common exponent.
    struct Terms {
        double exponent = kNegativeInfinity;  // -inf: all terms are zero
        double size = 0;                      // sum of the terms' norms at that exponent, once pairs are summed
        bool finite = true;
        bool safe = true;            // squares of all factors stay in T
        std::vector<double> factor;  // (batch rounded up to columns,), zero beyond the step's rows

        bool countable() const { return finite && exponent != kNegativeInfinity; }
    };

    void side(const GradientSide<T>& s, std::size_t t, double* weight_norm, double* bias_norm);
    void align(const GradientSide<T>& s, bool with_right, Terms* terms) const;
    void sum_pairs(const GradientSide<T>& s, const T* right, double* pair);
    double form_weight(const GradientSide<T>& s, const T* right);
    double form_bias(const GradientSide<T>& s) const;

    const DirectionContext<T>& context_;
    std::size_t ld_;
    const GradientSide<T>&ih_, &hh_;
    std::size_t row_ = 0, rows_ = 0;  // of the step under way
    Terms weight_, bias_;
    AlignedBuffer<T> gathered_, left_gram_, right_gram_, panels_, tile_;
    AlignedBuffer<unsigned char> lent_;  // to products
    bool have_left_ = false;
};

}  // namespace gt
