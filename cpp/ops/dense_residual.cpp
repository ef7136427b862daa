// Skip connections: a_l = a_{l-1} + s phi(z_l), da_{l-1} = da_l + W_l^T delta_l with delta_l = s phi'(z_l) da_l. Both
// sums are taken sample by sample at the exponent of the larger term.
#include <algorithm>
#include <cmath>

#include "ops/dense_stack.h"

namespace gt {

template <class T>
std::array<double, kMaxColumns> StackPass<T>::log2_largest(std::size_t units, const T* tile) const {
    T largest[kMaxColumns];
    std::array<double, kMaxColumns> log2{};
    kernels_.reduce->column_max(units, part_.columns, part_.ld, tile, largest);
    for (std::size_t b = 0; b < part_.columns; ++b) log2[b] = std::log2(static_cast<double>(largest[b]));
    return log2;
}

namespace {

// The factors of two terms x 2^ex and y 2^ey, of sizes 2^log2_x and 2^log2_y beside their exponents, and the exponent
// of their sum.
template <class T>
double plan_sum(double log2_x, double ex, double log2_y, double ey, double x_factor, T* fx, T* fy) {
    const double top = std::max(log2_x + ex, log2_y + ey);
    const double common = ex == 0 && ey == 0 ? 0 : common_exponent(top);
    // The exponent of a zero row says nothing.
    *fx = log2_x == kNegativeInfinity ? T(0) : static_cast<T>(x_factor) * power_of_two<T>(ex - common);
    *fy = log2_y == kNegativeInfinity ? T(0) : power_of_two<T>(ey - common);
    return common;
}

}  // namespace

// `log2_a`: of the mantissas of phi(z), whose exponent is `exponent`; it becomes the sum's, as do the sums over units.
template <class T>
void StackPass<T>::add_input(std::size_t l, const double* log2_a, double* exponent, ForwardSums* sums) {
    const DenseLayer<T>& layer = network_.layer(l);
    const std::array<double, kMaxColumns> log2_input = log2_largest(layer.inputs, part_.a(l));
    // An ordinary scale is a factor; one that may be beyond T leaves its power of two to the exponent.
    const double log2_scale = std::log2(std::fabs(layer.residual)),
                 whole = std::fabs(log2_scale) < kKeepBits ? 0 : std::floor(log2_scale);
    T branch[kMaxColumns], skip[kMaxColumns];
    for (std::size_t b = 0; b < part_.columns; ++b) {
        exponent[b] = plan_sum(log2_a[b], exponent[b] + whole, log2_input[b], part_.exponent_of_a(l)[b],
                               std::ldexp(layer.residual, static_cast<int>(-whole)), branch + b, skip + b);
    }
    kernels_.layer_norm->add_tiles(layer.outputs, part_.columns, part_.ld, part_.a(l + 1), branch, part_.a(l), skip);
    kernels_.reduce->column_moments(layer.outputs, part_.columns, part_.ld, part_.a(l + 1), T(0), sums->a,
                                    sums->a_squared);
}

template <class T>
void StackPass<T>::scale_branch(std::size_t l, BackwardTile<T>* tile) const {
    int whole = 0;
    const double factor = std::frexp(network_.layer(l).residual, &whole);
    T factors[kMaxColumns];
    std::fill(factors, factors + tile->columns, static_cast<T>(factor));
    kernels_.reduce->scale_columns(tile->rows, tile->columns, tile->ld, tile->delta, factors);
    for (std::size_t b = 0; b < tile->columns; ++b) {
        tile->delta_squared[b] *= factor * factor;
        tile->delta_max[b] *= static_cast<T>(std::fabs(factor));
        part_.exponent_of_delta(l)[b] += whole;
    }
}

// da(l) += da(l + 1); `exponent` and log2_da_ are of the latter.
template <class T>
void StackPass<T>::add_skipped_gradient(std::size_t l, const double* exponent) {
    const std::size_t units = network_.layer(l).inputs;
    const std::array<double, kMaxColumns> log2_product = log2_largest(units, part_.da(l));
    T branch[kMaxColumns], skip[kMaxColumns];
    for (std::size_t b = 0; b < part_.columns; ++b)
        da_exponent_[b] =
            plan_sum(log2_product[b], da_exponent_[b], log2_da_[b], exponent[b], 1.0, branch + b, skip + b);
    kernels_.layer_norm->add_tiles(units, part_.columns, part_.ld, part_.da(l), branch, part_.da(l + 1), skip);
}

template std::array<double, kMaxColumns> StackPass<float>::log2_largest(std::size_t, const float*) const;
template std::array<double, kMaxColumns> StackPass<double>::log2_largest(std::size_t, const double*) const;
template void StackPass<float>::add_input(std::size_t, const double*, double*, ForwardSums*);
template void StackPass<double>::add_input(std::size_t, const double*, double*, ForwardSums*);
template void StackPass<float>::scale_branch(std::size_t, BackwardTile<float>*) const;
template void StackPass<double>::scale_branch(std::size_t, BackwardTile<double>*) const;
template void StackPass<float>::add_skipped_gradient(std::size_t, const double*);
template void StackPass<double>::add_skipped_gradient(std::size_t, const double*);

}  // namespace gt
