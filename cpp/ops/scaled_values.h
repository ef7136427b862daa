// A parameter array as values * 2^exponent: the caller's own, or a scaled copy where its entries are extreme. With its
// norm, which the same pass over it gives.
#pragma once

#include "core/aligned_buffer.h"
#include "kernels/kernel_table.h"

namespace gt {

template <class T>
class ScaledValues {
  public:
    void take(const ReduceKernels<T>& reduce, std::size_t count, const T* x);
    // The same where the sum of squares is known from another pass over x.
    void take(const ReduceKernels<T>& reduce, std::size_t count, const T* x, double squares);

    bool taken() const { return own_ != nullptr; }
    const T* data() const { return copy_.size() ? copy_.data() : own_; }
    double exponent() const { return exponent_; }
    double log2_norm() const { return log2_norm_; }
    bool is_zero() const { return is_zero_; }

  private:
    const T* own_ = nullptr;
    AlignedBuffer<T> copy_;
    double exponent_ = 0, log2_norm_ = 0;
    bool is_zero_ = true;
};

}  // namespace gt
