// Sums of terms that carry an exponent each, and the norms of such sums.
//
// Gradients of parameters are sums over samples, dW = sum_b delta_b a_b^T and db = sum_b delta_b. All terms of a sum
// are added at one common exponent. A norm needs no sum where the terms are few:
//
//   |dW|^2 = sum over pairs of samples of (delta_b . delta_b') (a_b . a_b'),   |db|^2 = sum of (delta_b . delta_b')
//
// What multiplies, pairs and forms them depends on the layout: ops/dense_gradients.cpp has units x samples,
// ops/recurrent_step_norms.cpp rows of one sample.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "core/aligned_buffer.h"
#include "core/scaled.h"

namespace gt {

// The terms of a sum: it is that of their mantissas times `factor`, times 2^exponent.
class ScaledTerms {
  public:
    void start(std::size_t count);  // zero terms
    // `norm`: log2 of the term's, -inf for a zero one; `exponent`: what its mantissas carry.
    void set(std::size_t i, double norm, double exponent) {
        log2_norm_[i] = norm;
        exponents_[i] = exponent;
    }
    // Chooses the common exponent, where they grow a sum that has one already no less than that.
    void align(double at_least = kNegativeInfinity);

    double log2_norm(std::size_t i) const { return log2_norm_[i]; }
    double exponent() const { return exponent_; }  // -inf: all terms are zero
    bool finite() const { return finite_; }        // else the sum is NaN
    bool countable() const { return finite_ && exponent_ != kNegativeInfinity; }
    const double* factor() const { return factor_.data(); }  // 0 for zero terms
    // Whether so little is left of the terms that their sum of squares, taken by pairs, is mostly rounding.
    bool have_cancelled(double squares) const;

  private:
    std::vector<double> log2_norm_, exponents_, factor_;
    std::size_t nonzero_ = 0;  // terms
    double exponent_ = kNegativeInfinity;
    bool finite_ = true;
};

// A sum that grows: value * 2^exponent, exponent -inf while it is zero.
template <class V>
struct ScaledSum {
    AlignedBuffer<V> value;
    double exponent = kNegativeInfinity;

    bool kept() const { return value.size() != 0; }
    void reset(std::size_t count);
    void make_room(const ScaledTerms& terms);  // moves to their exponent where it is larger; NaN if they are not finite
    double log2_norm() const { return gt::log2_norm(value.size(), value.data()) + exponent; }
};

// Whether a weight gradient's norm takes the pairs: decided by shapes.
bool pairs_are_cheaper(std::size_t samples, std::size_t inputs, std::size_t outputs);

// Norms of both sums. `sum_pairs(pair)` leaves their squares, the weight's first; `form_weight()` and `form_bias()`
// return log2 of the norm of what they form. All of these are of the mantissas. `log2_bias` null: not wanted.
template <class SumPairs, class FormWeight, class FormBias>
void norms_of_sums(const ScaledTerms& weight, const ScaledTerms& bias, bool by_pairs, SumPairs&& sum_pairs,
                   FormWeight&& form_weight, FormBias&& form_bias, double* log2_weight, double* log2_bias) {
    double pair[2] = {};
    by_pairs &= weight.countable();
    if (by_pairs) sum_pairs(pair);
    const auto norm = [&](const ScaledTerms& terms, double squares, auto&& form) {
        if (!terms.countable()) return terms.finite() ? kNegativeInfinity : kNaN;
        const bool by_squares = by_pairs && !terms.have_cancelled(squares);
        return (by_squares ? 0.5 * std::log2(squares) : form()) + terms.exponent();
    };
    *log2_weight = norm(weight, pair[0], form_weight);
    if (log2_bias) *log2_bias = norm(bias, pair[1], form_bias);
}

}  // namespace gt
