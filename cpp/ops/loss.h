// Where the backward pass starts: the gradient of a loss with respect to one sample's output, as a scaled row.
//
// Losses are sums over samples here; the factor of the mean is the same for every figure and is applied at the end,
// when N is known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa/dispatch.h"

namespace gt {

// One sample's output: true value y[i * stride] * 2^exponent, i < count.
template <class T>
struct OutputRow {
    const T* y;
    std::size_t stride;
    std::size_t count;
    double exponent;

    double operator[](std::size_t i) const { return static_cast<double>(y[i * stride]); }
};

enum class CotangentKind { given, random, cross_entropy, mse };

// What one call brings for all its samples; index 0 is the call's first sample.
template <class T>
struct Cotangent {
    CotangentKind kind;
    const T* rows = nullptr;             // given: dL/dy; mse: the target; (batch, n_L)
    std::vector<std::int64_t> labels{};  // cross_entropy: (batch,), checked; indices, so our own and not the caller's
    std::uint64_t seed = 0;              // random: standard normals, a function of seed, sample and unit alone
    std::uint64_t first_sample = 0;      // random: the number of samples seen in earlier calls
};

// Writes dL/dy of sample b into row (count values, float64) and returns the exponent: dL/dy = row * 2^exponent.
// Adds the sample's loss to *loss (cross_entropy and mse; in nats, and summed over units).
template <class T>
double cotangent_row(const IsaKernels& isa, const Cotangent<T>& cotangent, std::size_t b, const OutputRow<T>& output,
                     double* row, double* loss);

// What the sums are multiplied by for a mean as PyTorch's defaults have it; the loss itself, and its gradient.
struct MeanFactors {
    double value = 1, gradient = 1;
};
MeanFactors mean_factors(CotangentKind kind, std::size_t samples, std::size_t outputs);

}  // namespace gt
