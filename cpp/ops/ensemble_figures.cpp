// What a pass of an ensemble's network reports: norms by layer and sample, and of the batch's weight gradients.
#include <algorithm>

#include "ops/ensemble_pass.h"

namespace gt {
namespace {

// A sum of pairs less than this beside the sum of its terms' sizes has cancelled too far for terms summed in T, and in
// float64.
constexpr double kCancelledPairs = 1e-2, kCancelledWidePairs = 1e-9;

// As the kernel has it, in float64.
template <class T>
void wide_gram(std::size_t samples, std::size_t units, std::size_t ld, const T* x, double* gram) {
    for (std::size_t b = 0; b < samples; ++b)
        for (std::size_t c = 0; c <= b; ++c) {
            double sum = 0;
            for (std::size_t u = 0; u < units; ++u)
                sum += static_cast<double>(x[b * ld + u]) * static_cast<double>(x[c * ld + u]);
            gram[b * samples + c] = sum;
        }
}

}  // namespace

// Of the batch: the sum over pairs of samples of the products of their deltas, times those of their inputs for W, as
// log2 of its root; `left`: what its terms left of the sum of their sizes.
template <class T>
double EnsemblePass<T>::sum_of_pairs(std::size_t l, bool weights, double* left) const {
    const std::size_t S = spec_.samples;
    const auto exponent = [&](std::size_t b) {
        return delta_exponent_[l * S + b] + (weights ? a_exponent_[l * S + b] : 0);
    };
    double top = kNegativeInfinity, sum = 0, sizes = 0;
    for (std::size_t b = 0; b < S; ++b)
        if (gram_delta_[b * S + b] != 0) top = std::max(top, exponent(b));
    for (std::size_t b = 0; b < S; ++b)
        for (std::size_t c = 0; c <= b; ++c) {
            const double pair = gram_delta_[b * S + c] * (weights ? gram_a_[b * S + c] : 1);
            if (pair == 0) continue;
            const double shift = exponent(b) + exponent(c) - 2 * top;
            const double term = (b == c ? 1 : 2) * (shift == 0 ? pair : scale_by(pair, shift));
            sum += term;
            sizes += std::fabs(term);
        }
    *left = sizes > 0 ? sum / sizes : 1;
    return sum > 0 ? 0.5 * std::log2(sum) + top : kNegativeInfinity;
}

// False where they cancel beyond float64.
template <class T>
bool EnsemblePass<T>::gradient_of_weights(std::size_t l) {
    using F = EnsembleFigure;
    const std::size_t S = spec_.samples, n = spec_.width;
    double* const to[] = {figure(F::log2_grad_bias, network_), figure(F::log2_grad_weight, network_)};
    const auto sums_above = [&](double least) {
        bool above = true;
        for (const bool weights : {false, true}) {
            double left = 1;  // of the terms' sizes
            if (to[weights]) to[weights][l] = sum_of_pairs(l, weights, &left);
            above &= left > least;
        }
        return above;
    };
    kernels_.gram(S, n, ld_, delta(l), gram_delta_.data());
    if (keeps_a_) kernels_.gram(S, n, ld_, a(l), gram_a_.data());
    if (sums_above(kCancelledPairs)) return true;
    wide_gram(S, n, ld_, delta(l), gram_delta_.data());
    if (keeps_a_) wide_gram(S, n, ld_, a(l), gram_a_.data());
    return sums_above(kCancelledWidePairs);
}

// to (samples, rows) = log2 of the norms of (rows, samples) squares with exponents; they become log2.
template <class T>
void EnsemblePass<T>::put(double* to, Table& squares, const Table& exponents, std::size_t rows) {
    const std::size_t S = spec_.samples;
    isa_.f64.reduce->log2_norms(rows * S, squares.data(), squares.data());
    for (std::size_t i = 0; i < rows * S; ++i) squares[i] += exponents[i];
    if (!to) return;
    for (std::size_t b = 0; b < S; ++b)
        for (std::size_t l = 0; l < rows; ++l) to[b * rows + l] = squares[l * S + b];
}

template <class T>
void EnsemblePass<T>::put_norms(std::size_t network) {
    using F = EnsembleFigure;
    const std::size_t S = spec_.samples, L = spec_.depth;
    double* const sample_gradient = figure(F::log2_grad_weight_sample, network);
    double *const activation_gain = figure(F::activation_gain, network), *const weight_gain =
                                                                             figure(F::weight_gain, network);
    put(figure(F::log2_delta, network), delta_squared_, delta_exponent_, L);
    if (wants(F::log2_activation) || sample_gradient)
        put(figure(F::log2_activation, network), a_squared_, a_exponent_, L + 1);
    if (wants(F::log2_preactivation)) put(figure(F::log2_preactivation, network), z_squared_, z_exponent_, L);
    if (sample_gradient)
        for (std::size_t b = 0; b < S; ++b)
            for (std::size_t l = 0; l < L; ++l)
                sample_gradient[b * L + l] = delta_squared_[l * S + b] + a_squared_[l * S + b];
    if (!activation_gain && !weight_gain && !wants(F::log2_grad_input)) return;
    put(nullptr, da_squared_, da_exponent_, L + 1);
    if (double* to = figure(F::log2_grad_input, network)) std::copy_n(da_squared_.data() + L * S, S, to);
    for (std::size_t b = 0; b < S; ++b)
        for (std::size_t l = 0; l < L; ++l) {
            const double delta = delta_squared_[l * S + b];
            if (activation_gain) activation_gain[b * L + l] = delta - da_squared_[l * S + b];
            if (weight_gain) weight_gain[b * L + l] = da_squared_[(l == 0 ? L : l - 1) * S + b] - delta;
        }
}

template bool EnsemblePass<float>::gradient_of_weights(std::size_t);
template void EnsemblePass<float>::put_norms(std::size_t);
template bool EnsemblePass<double>::gradient_of_weights(std::size_t);
template void EnsemblePass<double>::put_norms(std::size_t);

}  // namespace gt
