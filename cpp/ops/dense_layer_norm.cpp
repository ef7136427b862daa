// Layer normalisation inside a layer: normal = (z - mean) / sqrt(variance + epsilon) over the units, phi takes
// weight * normal + bias. The deviation takes the row's exponent with it: a row of 2^-900 comes out of size 2^-891, as
// epsilon has it, and keeps an exponent.
#include <algorithm>
#include <cmath>

#include "ops/dense_stack.h"

namespace gt {
namespace {

// Rows smaller than this after normalisation, far below epsilon's root, keep an exponent: no activation bends there.
constexpr double kPlainBits = -60;

// log2 of sqrt(4^log2_deviation + epsilon).
double with_epsilon(double log2_deviation) {
    constexpr double kDecides = 400;  // beyond, one of the two is nothing beside the other
    if (std::isnan(log2_deviation) || log2_deviation > kDecides) return log2_deviation;
    const double square = log2_deviation < -kDecides ? 0.0 : std::exp2(2 * log2_deviation);
    return 0.5 * std::log2(square + kLayerNormEpsilon);
}

}  // namespace

template <class T>
void StackPass<T>::normalise(std::size_t l, Preactivation<T>* z) {
    const DenseLayer<T>& layer = network_.layer(l);
    const bool bias = network_.bias(l) != nullptr;
    const std::size_t columns = part_.columns, ld = part_.ld;
    T scale[kMaxColumns], bias_scale[kMaxColumns], factor[kMaxColumns];
    double exponent[kMaxColumns], mean[kMaxColumns], squares[kMaxColumns];
    for (std::size_t b = 0; b < columns; ++b) {
        const double product = part_.exponent_of_a(l)[b] + network_.weight_exponent(l);
        exponent[b] = bias ? std::max(product, network_.bias_exponent(l)) : product;
        scale[b] = power_of_two<T>(product - exponent[b]);
        bias_scale[b] = bias ? power_of_two<T>(network_.bias_exponent(l) - exponent[b]) : T(0);
    }
    kernels_.layer_norm->centre({layer.outputs, columns, ld, z_, network_.bias(l), scale, bias_scale, mean, squares});

    const bool keeps_exponent = !layer.norm_bias;
    T left[kMaxColumns];
    z->scaled = false;
    for (std::size_t b = 0; b < columns; ++b) {
        const double log2_root = 0.5 * std::log2(squares[b] / static_cast<double>(layer.outputs));
        const double deviation = with_epsilon(log2_root + exponent[b]), size = log2_root + exponent[b] - deviation;
        const double kept = std::isfinite(size) && size < kPlainBits ? std::floor(size) + 1 : 0;
        part_.log2_deviation(l)[b] = deviation;
        factor[b] = static_cast<T>(std::exp2(exponent[b] - deviation - kept));
        if (log2_root == kNegativeInfinity) factor[b] = 0;
        left[b] = power_of_two<T>(kept);
        z->exponent[b] = keeps_exponent ? kept : 0;
        z->scale.scale[b] = keeps_exponent ? T(1) : left[b];
        z->scale.bias_scale[b] = 1;
        z->scale.linear[b] = keeps_exponent && kept != 0 && info(l).near_zero != NearZero::homogeneous;
        z->scaled |= kept != 0;
    }
    kernels_.layer_norm->forward({layer.outputs, columns, ld, z_, part_.normal(l), layer.norm_weight, factor});
    if (z->scaled) kernels_.reduce->scale_columns(layer.outputs, columns, ld, part_.normal(l), left);
}

template <class T>
void StackPass<T>::normalise_backward(std::size_t l, BackwardTile<T>* tile) {
    T factor[kMaxColumns];
    double* exponent = part_.exponent_of_delta(l);
    for (std::size_t b = 0; b < tile->columns; ++b) {
        const double gain = -part_.log2_deviation(l)[b], whole = std::isfinite(gain) ? std::floor(gain) : 0;
        factor[b] = static_cast<T>(std::exp2(gain - whole));
        exponent[b] += whole;
    }
    kernels_.layer_norm->backward({tile->rows, tile->columns, tile->ld, tile->delta, part_.normal(l),
                                   network_.layer(l).norm_weight, factor, tile->delta_squared, tile->delta_max});
}

template void StackPass<float>::normalise(std::size_t, Preactivation<float>*);
template void StackPass<double>::normalise(std::size_t, Preactivation<double>*);
template void StackPass<float>::normalise_backward(std::size_t, BackwardTile<float>*);
template void StackPass<double>::normalise_backward(std::size_t, BackwardTile<double>*);

}  // namespace gt
