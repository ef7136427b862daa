#include "ops/scaled_sum.h"

#include <algorithm>

namespace gt {

void ScaledTerms::start(std::size_t count) {
    log2_norm_.assign(count, kNegativeInfinity);
    exponents_.assign(count, 0.0);
    factor_.assign(count, 0.0);
}

void ScaledTerms::align(double at_least) {
    constexpr double kWholeBits = 4e15;  // beyond, a norm and its own exponent may round apart by any number of bits
    double top = kNegativeInfinity;
    finite_ = true;
    nonzero_ = 0;
    for (const double norm : log2_norm_) {
        finite_ &= norm < -kNegativeInfinity;
        nonzero_ += norm != kNegativeInfinity;
        top = std::max(top, norm);
    }
    exponent_ = at_least;
    if (!finite_ || nonzero_ == 0) return;
    double common = common_exponent(top);
    if (std::fabs(top) > kWholeBits) {
        common = kNegativeInfinity;
        for (std::size_t i = 0; i < log2_norm_.size(); ++i)
            if (log2_norm_[i] != kNegativeInfinity) common = std::max(common, exponents_[i]);
    }
    exponent_ = std::max(at_least, common);
    for (std::size_t i = 0; i < log2_norm_.size(); ++i)
        if (log2_norm_[i] != kNegativeInfinity)  // a zero term's exponent says nothing
            factor_[i] = power_of_two<double>(exponents_[i] - exponent_);
}

// Against the squared sum of the terms' norms, each of which is at most 1 at the common exponent: mostly their number
// decides, and the norms need not be added up.
bool ScaledTerms::have_cancelled(double squares) const {
    constexpr double kCancelled = 1e-3;
    const double most = static_cast<double>(nonzero_);
    if (squares >= kCancelled * most * most) return false;
    double size = 0;
    for (const double norm : log2_norm_) size += std::exp2(norm - exponent_);
    return !(squares >= kCancelled * size * size);
}

template <class V>
void ScaledSum<V>::reset(std::size_t count) {
    value = AlignedBuffer<V>(count);
    std::fill_n(value.data(), count, V(0));
    exponent = kNegativeInfinity;
}

template <class V>
void ScaledSum<V>::make_room(const ScaledTerms& terms) {
    if (!terms.finite()) std::fill_n(value.data(), value.size(), static_cast<V>(kNaN));
    if (!(terms.exponent() > exponent)) return;
    const V factor = power_of_two<V>(exponent - terms.exponent());
    for (std::size_t i = 0; i < value.size(); ++i) value[i] *= factor;
    exponent = terms.exponent();
}

bool pairs_are_cheaper(std::size_t samples, std::size_t inputs, std::size_t outputs) {
    const double b = static_cast<double>(samples), n = static_cast<double>(inputs), m = static_cast<double>(outputs);
    return b * b * (n + m) <= b * n * m;
}

template struct ScaledSum<float>;
template struct ScaledSum<double>;

}  // namespace gt
