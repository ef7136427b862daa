// Backward pass of one block: delta = phi'(z) * da, da = W^T delta, every sample with its own exponent.
#include <algorithm>
#include <cmath>

#include "ops/dense_stack.h"

namespace gt {

template <class T>
void StackPass<T>::load_cotangent(const Cotangent<T>& cotangent) {
    const SubnormalMode keep(Subnormals::keep);
    continues_ = false;
    const std::size_t depth = network_.depth(), n = network_.units(depth), ld = part_.ld;
    T* da = part_.da(depth);
    for (std::size_t j = 0; j < n; ++j) std::fill(da + j * ld, da + j * ld + part_.columns, T(0));
    std::fill(da_exponent_, da_exponent_ + kMaxColumns, 0.0);
    double* row = scratch_->row.data();
    for (std::size_t b = 0; b < part_.samples; ++b) {
        const OutputRow<T> output{
            .y = part_.a(depth) + b, .stride = ld, .count = n, .exponent = part_.exponent_of_a(depth)[b]};
        double exponent = cotangent_row(isa_, cotangent, part_.first + b, output, row, part_.loss(b));
        double largest = 0;
        for (std::size_t j = 0; j < n; ++j) largest = std::max(largest, std::fabs(row[j]));
        const double shift = largest > 0 && std::isfinite(largest) ? exponent_of(largest) : 0.0;
        const double factor = std::ldexp(1.0, static_cast<int>(-shift / 2)),
                     rest = std::ldexp(1.0, static_cast<int>(-shift - std::trunc(-shift / 2)));
        for (std::size_t j = 0; j < n; ++j) da[j * ld + b] = static_cast<T>(row[j] * factor * rest);
        da_exponent_[b] = exponent + shift;
    }
}

// A sample that this layer's forward value overflowed has no derivative here, and none below.
template <class T>
void StackPass<T>::mark_nonfinite(std::size_t l, BackwardTile<T>* tile) {
    for (std::size_t b = 0; b < part_.samples; ++b) {
        if (part_.nonfinite(b) != static_cast<std::ptrdiff_t>(l)) continue;
        for (std::size_t u = 0; u < tile->rows; ++u) tile->delta[u * tile->ld + b] = static_cast<T>(kNaN);
        tile->delta_squared[b] = kNaN;
        tile->delta_max[b] = static_cast<T>(kNaN);
    }
}

// log2 |phi'(z)| of a sample that has just come forward through layer l, -inf where phi' is 0, and its sign.
template <class T>
void StackPass<T>::log2_derivative(std::size_t l, std::size_t b, double* log2_size, double* sign) const {
    const std::size_t n = network_.layer(l).outputs;
    double* z = scratch_->row.data();
    for (std::size_t u = 0; u < n; ++u)
        z[u] =
            scale_by(static_cast<double>(z_[u * part_.ld + b]), std::max(layer_.z.exponent[b], -900.0));  // keeps signs
    kernels_.activation->log_derivative[network_.layer(l).activation](network_.layer(l).parameter, n, z, log2_size,
                                                                      sign);
    for (std::size_t u = 0; u < n; ++u) log2_size[u] = sign[u] == 0 ? kNegativeInfinity : log2_size[u] * kLog2OfE;
}

// delta of the given samples from ln |phi'(z)| + ln |da|: nothing underflows on the way. z is computed again by the
// same product as in the forward pass.
template <class T>
void StackPass<T>::redo_from_log_derivative(std::size_t l, const std::vector<std::size_t>& samples,
                                            BackwardTile<T>* tile) {
    start_layer(l, scratch_->spare_a.data(), scratch_->spare_derivative.data(), nullptr);
    compute_layer(this, 1, l, nullptr);
    const std::size_t n = tile->rows, ld = tile->ld;
    double *log2_delta = scratch_->log_magnitude.data(), *sign = scratch_->sign.data();
    for (const std::size_t b : samples) {
        log2_derivative(l, b, log2_delta, sign);
        double top = kNegativeInfinity;
        for (std::size_t u = 0; u < n; ++u) {
            const double da = tile->da[u * ld + b];
            log2_delta[u] += std::log2(std::fabs(da));
            if (da < 0) sign[u] = -sign[u];
            top = std::max(top, log2_delta[u]);
        }
        const double shift = top == kNegativeInfinity ? 0 : std::floor(top) + 1;
        double squares = 0;
        for (std::size_t u = 0; u < n; ++u) {
            const double delta = log2_delta[u] == kNegativeInfinity ? 0 : sign[u] * std::exp2(log2_delta[u] - shift);
            tile->delta[u * ld + b] = static_cast<T>(delta);
            squares += delta * delta;
        }
        tile->delta_squared[b] = squares;
        tile->delta_max[b] = top == kNegativeInfinity ? T(0) : static_cast<T>(std::exp2(top - shift));
        part_.exponent_of_delta(l)[b] += shift;
    }
}

template <class T>
bool StackPass<T>::has_faded_derivative(std::size_t l, const T* row, std::int64_t exponent) const {
    if (info(l).near_zero == NearZero::homogeneous || info(l).can_die) return false;
    const bool zero = std::all_of(row, row + network_.layer(l).outputs, [](T phi) { return phi == T(0); });
    return zero || static_cast<double>(exponent) < std::log2(Range<T>::delta_low);
}

template <class T>
bool StackPass<T>::derivative_from_log(std::size_t l, std::size_t b, T* row, std::int64_t* exponent) const {
    const std::size_t n = network_.layer(l).outputs;
    double *log2_size = scratch_->log_magnitude.data(), *sign = scratch_->sign.data();
    log2_derivative(l, b, log2_size, sign);
    double top = kNegativeInfinity;
    for (std::size_t u = 0; u < n; ++u) top = std::max(top, log2_size[u]);
    if (!(std::fabs(top) < kEndOfInt64)) return top == kNegativeInfinity;
    double common = std::floor(top) + 1;
    if (static_cast<T>(std::exp2(top - common)) >= T(1)) common += 1;  // rounded up
    *exponent = static_cast<std::int64_t>(common);
    for (std::size_t u = 0; u < n; ++u)
        row[u] = sign[u] == 0 ? T(0) : static_cast<T>(sign[u] * std::exp2(log2_size[u] - common));
    return true;
}

template <class T>
void StackPass<T>::backward_layer(StackPass* passes, std::size_t count, std::size_t l) {
    const StackNetwork<T>& network = passes->network_;
    const DenseLayer<T>& layer = network.layer(l);
    Prefetch prefetch;
    GemmColumns<T> sets[kSideBySide];
    for (std::size_t i = 0; i < count; ++i) {
        const BlockPart<T>& part = passes[i].part_;
        passes[i].pass_activation(l);
        sets[i] = {part.columns, part.delta(l), part.da(l)};
        if (l > 0) part.add_tile(part.delta(l - 1), layer.inputs, &prefetch);
    }
    if (l > 0) {
        network.add_weight(l - 1, &prefetch);
        for (std::size_t i = 0; i < count; ++i)
            passes[i].part_.add_tile(passes[i].part_.a(l - 1), network.units(l - 1), &prefetch);
    }
    const std::size_t ld = passes->part_.ld;
    passes->kernels_.gemm->tn(layer.inputs, layer.outputs, network.weight(l), layer.inputs, sets, count, ld, ld, false,
                              &prefetch, passes->scratch_->product);
    for (std::size_t i = 0; i < count; ++i) passes[i].finish_input_gradient(l);
}

// delta of layer l, in range for the product.
template <class T>
void StackPass<T>::pass_activation(std::size_t l) {
    const DenseLayer<T>& layer = network_.layer(l);
    const std::size_t ld = part_.ld, columns = part_.columns;
    double da_squared[kMaxColumns], delta_squared[kMaxColumns];
    T delta_max[kMaxColumns];
    BackwardTile<T> tile{.rows = layer.outputs,
                         .columns = columns,
                         .ld = ld,
                         .da = part_.da(l + 1),
                         .delta = part_.delta(l),
                         .da_squared = da_squared,
                         .delta_squared = delta_squared,
                         .delta_max = delta_max};
    kernels_.activation->backward(tile);
    double* exponent = part_.exponent_of_delta(l);
    std::copy(da_exponent_, da_exponent_ + columns, exponent);
    norms(layer.outputs, tile.da, da_squared, log2_da_);
    mark_nonfinite(l, &tile);

    const bool smooth = info(l).near_zero != NearZero::homogeneous && !info(l).can_die;
    if (smooth) {
        std::vector<std::size_t> lost;
        for (std::size_t b = 0; b < part_.samples; ++b) {
            const double largest = delta_max[b];
            const bool kept = largest >= Range<T>::delta_low && largest <= Range<T>::delta_high;
            if (!kept && std::isfinite(log2_da_[b]) && !std::isnan(delta_squared[b])) lost.push_back(b);
        }
        if (!lost.empty()) redo_from_log_derivative(l, lost, &tile);
    }
    if (layer.residual != 0 && layer.residual != 1) scale_branch(l, &tile);
    if (l + 1 == network_.depth() && !continues_)
        put(out_.log2_cotangent, 0, log2_da_, da_exponent_);
    else
        put_gain(out_.weight_gain, l + 1, log2_da_, da_exponent_, log2_delta_, delta_exponent_);
    norms(layer.outputs, tile.delta, delta_squared, log2_delta_);
    std::copy(exponent, exponent + columns, delta_exponent_);
    put_gain(out_.activation_gain, l, log2_delta_, exponent, log2_da_, da_exponent_);
    if (layer.normalised) {
        double log2_dz[kMaxColumns], dz_exponent[kMaxColumns];
        std::copy(log2_delta_, log2_delta_ + columns, log2_dz);
        std::copy(exponent, exponent + columns, dz_exponent);
        normalise_backward(l, &tile);
        norms(layer.outputs, tile.delta, delta_squared, log2_delta_);
        std::copy(exponent, exponent + columns, delta_exponent_);
        put_gain(out_.norm_gain, l, log2_delta_, exponent, log2_dz, dz_exponent);
    }

    double log2_max[kMaxColumns];
    std::copy(delta_max, delta_max + columns, log2_max);
    kernels_.reduce->log2_norms(columns, log2_max, log2_max);  // half the log2: the maximum is no square
    for (std::size_t b = 0; b < columns; ++b) log2_max[b] = std::isnan(delta_squared[b]) ? kNaN : 2 * log2_max[b];
    put(out_.log2_delta, l, log2_delta_, exponent);
    put(out_.log2_delta_max, l, log2_max, exponent);
    rescale(layer.outputs, tile.delta, exponent, log2_max);
}

template <class T>
void StackPass<T>::finish_input_gradient(std::size_t l) {
    const double* exponent = part_.exponent_of_delta(l);
    double above[kMaxColumns];  // the exponent of part_.da(l + 1)
    std::copy(da_exponent_, da_exponent_ + part_.columns, above);
    for (std::size_t b = 0; b < part_.columns; ++b) da_exponent_[b] = exponent[b] + network_.weight_exponent(l);
    if (network_.layer(l).residual != 0) add_skipped_gradient(l, above);
}

template <class T>
void StackPass<T>::finish_backward() {
    const std::size_t inputs = network_.units(0), ld = part_.ld;
    double sums[kMaxColumns], squares[kMaxColumns], log2_dx[kMaxColumns];
    kernels_.reduce->column_moments(inputs, part_.columns, ld, part_.da(0), T(0), sums, squares);
    norms(inputs, part_.da(0), squares, log2_dx);
    put(out_.log2_grad_input, 0, log2_dx, da_exponent_);
    put_gain(out_.weight_gain, 0, log2_dx, da_exponent_, log2_delta_, delta_exponent_);
}

template <class T>
void StackPass<T>::finish_samples() {
    for (std::size_t l = 0; l < network_.depth(); ++l)
        for (std::size_t b = part_.first; b < part_.first + part_.samples; ++b)
            out_.log2_grad_weight_sample[l * out_.stride + b] =
                out_.log2_delta[l * out_.stride + b] + out_.log2_activation[l * out_.stride + b];
}

template void StackPass<float>::load_cotangent(const Cotangent<float>&);
template void StackPass<double>::load_cotangent(const Cotangent<double>&);
template bool StackPass<float>::has_faded_derivative(std::size_t, const float*, std::int64_t) const;
template bool StackPass<double>::has_faded_derivative(std::size_t, const double*, std::int64_t) const;
template bool StackPass<float>::derivative_from_log(std::size_t, std::size_t, float*, std::int64_t*) const;
template bool StackPass<double>::derivative_from_log(std::size_t, std::size_t, double*, std::int64_t*) const;
template void StackPass<float>::backward_layer(StackPass*, std::size_t, std::size_t);
template void StackPass<double>::backward_layer(StackPass*, std::size_t, std::size_t);
template void StackPass<float>::finish_backward();
template void StackPass<double>::finish_backward();
template void StackPass<float>::finish_samples();
template void StackPass<double>::finish_samples();

}  // namespace gt
