#include "ops/scaled_values.h"

#include <cmath>

#include "core/scaled.h"
#include "ops/parallel.h"

namespace gt {

template <class T>
void ScaledValues<T>::take(const ReduceKernels<T>& reduce, std::size_t count, const T* x) {
    const SubnormalMode keep(Subnormals::keep);
    take(reduce, count, x, reduce.flat_squares(count, x));
}

template <class T>
void ScaledValues<T>::take(const ReduceKernels<T>& reduce, std::size_t count, const T* x, double squares) {
    own_ = x;
    log2_norm_ = 0.5 * std::log2(squares);
    // The largest magnitude lies between the root of the mean square and the norm: mostly that says enough.
    const double norm = std::sqrt(squares), mean = norm / std::sqrt(static_cast<double>(count));
    is_zero_ = false;
    if (squares > Range<T>::norm_low && norm <= Range<T>::weight_high && mean >= Range<T>::weight_low) return;
    const SubnormalMode keep(Subnormals::keep);
    T most = 0;
    reduce.column_max(count, 1, 1, x, &most);
    const double largest = most;
    is_zero_ = squares == 0 && largest == 0;
    const bool trusted = squares > Range<T>::norm_low && squares < Range<T>::norm_high;
    if (!trusted && !std::isnan(squares)) log2_norm_ = log2_norm_by_largest(count, 1, x, largest);
    if (std::isnan(squares) || !(largest > 0) || !std::isfinite(largest)) return;
    if (largest >= Range<T>::weight_low && largest <= Range<T>::weight_high) return;
    copy_ = AlignedBuffer<T>(count);
    exponent_ = exponent_of(largest) - 1;  // largest magnitude of the copy in [1, 2)
    for (std::size_t i = 0; i < count; ++i) copy_[i] = static_cast<T>(scale_by(static_cast<double>(x[i]), -exponent_));
}

template class ScaledValues<float>;
template class ScaledValues<double>;

}  // namespace gt
