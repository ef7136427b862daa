// Forward pass of one block: product, activation and statistics layer by layer, every sample with its own exponent.
#include <algorithm>
#include <cmath>

#include "core/shape.h"
#include "ops/dense_stack.h"

namespace gt {
namespace {

// A variance under this share of the squared mean has lost digits in the difference of the sums and is taken again
// about the mean.
template <class T>
constexpr double kCancelled = sizeof(T) == 4 ? 1e-3 : 1e-6;

bool all_zero(const double* exponent, std::size_t count) {
    return std::all_of(exponent, exponent + count, [](double e) { return e == 0; });
}

}  // namespace

template <class T>
void StackPass<T>::norms(std::size_t units, const T* tile, const double* squares, double* log2_norm) const {
    kernels_.reduce->log2_norms(part_.columns, squares, log2_norm);
    const std::size_t ld = part_.ld;
    T largest[kMaxColumns];
    bool have_largest = false;
    for (std::size_t b = 0; b < part_.columns; ++b) {
        if (squares[b] >= Range<T>::norm_low && squares[b] <= Range<T>::norm_high) continue;
        if (std::isnan(squares[b])) continue;
        if (!have_largest) kernels_.reduce->column_max(units, part_.columns, ld, tile, largest);
        have_largest = true;
        log2_norm[b] = log2_norm_by_largest(units, ld, tile + b, static_cast<double>(largest[b]));
    }
}

template <class T>
void StackPass<T>::rescale(std::size_t units, T* tile, double* exponent, const double* log2_size) const {
    // Two steps at most: from the smallest subnormal one factor would overflow.
    constexpr double kLongestStep = sizeof(T) == 4 ? 100 : 1000;
    const auto stays = [](double log2) { return !(std::fabs(log2) > kKeepBits) || !std::isfinite(log2); };
    if (std::all_of(log2_size, log2_size + part_.columns, stays)) return;
    double left[kMaxColumns] = {};
    for (std::size_t b = 0; b < part_.columns; ++b)
        if (!stays(log2_size[b])) left[b] = std::floor(log2_size[b]) + 1;
    while (!all_zero(left, part_.columns)) {
        T factor[kMaxColumns];
        for (std::size_t b = 0; b < part_.columns; ++b) {
            const double step = std::max(-kLongestStep, std::min(kLongestStep, left[b]));
            factor[b] = power_of_two<T>(-step);
            exponent[b] += step;
            left[b] -= step;
        }
        kernels_.reduce->scale_columns(units, part_.columns, part_.ld, tile, factor);
    }
}

template <class T>
void StackPass<T>::put(double* to, std::size_t l, const double* log2_mantissa, const double* exponent) const {
    if (to == nullptr) return;
    double* row = to + l * out_.stride + part_.first;
    for (std::size_t b = 0; b < part_.samples; ++b) row[b] = log2_mantissa[b] + exponent[b];
}

// Mantissas and exponents apart: the difference of two log2 of 1,000 would cost ten bits of the gain.
template <class T>
void StackPass<T>::put_gain(double* to, std::size_t l, const double* log2_after, const double* exponent_after,
                            const double* log2_before, const double* exponent_before) const {
    if (to == nullptr) return;
    double* row = to + l * out_.stride + part_.first;
    for (std::size_t b = 0; b < part_.samples; ++b)
        row[b] = (log2_after[b] - log2_before[b]) + (exponent_after[b] - exponent_before[b]);
}

template <class T>
void StackPass<T>::load_input(const T* x) {
    const SubnormalMode keep(Subnormals::keep);
    const std::size_t inputs = network_.units(0), ld = part_.ld;
    T* a = part_.a(0);
    kernels_.reduce->transpose(part_.samples, inputs, x + part_.first * inputs, inputs, a, ld, nullptr);
    // Padding repeats the block's first sample: it never overflows where no sample does.
    for (std::size_t b = part_.samples; b < part_.columns; ++b)
        kernels_.reduce->transpose(1, inputs, x + part_.block_first() * inputs, inputs, a + b, ld, nullptr);
    double* exponent = part_.exponent_of_a(0);
    std::fill(exponent, exponent + part_.columns, 0.0);
    double sums[kMaxColumns], squares[kMaxColumns], log2_norm[kMaxColumns];
    kernels_.reduce->column_moments(inputs, part_.columns, ld, a, T(0), sums, squares);
    norms(inputs, a, squares, log2_norm);
    put(out_.log2_activation, 0, log2_norm, exponent);
    rescale(inputs, a, exponent, log2_norm);
}

// Which samples' products must be multiplied, and which z keep an exponent.
template <class T>
void StackPass<T>::plan_scale(std::size_t l, Preactivation<T>* z) const {
    const double* exponent = part_.exponent_of_a(l);
    const double weight_exponent = network_.weight_exponent(l);
    z->scaled = weight_exponent != 0 || network_.bias_exponent(l) != 0 || !all_zero(exponent, part_.columns);
    std::fill(z->exponent, z->exponent + part_.columns, 0.0);
    if (!z->scaled) return;
    const bool homogeneous = info(l).near_zero == NearZero::homogeneous, bias = network_.bias(l) != nullptr;
    const double bias_exponent = network_.bias_exponent(l);
    T largest[kMaxColumns];
    const bool tiny_bias = bias && bias_exponent < 0;  // then a row of zeros must not decide
    if (tiny_bias) kernels_.reduce->column_max(network_.layer(l).inputs, part_.columns, part_.ld, part_.a(l), largest);
    for (std::size_t b = 0; b < part_.columns; ++b) {
        const bool nothing = tiny_bias && largest[b] == 0;
        const double product = nothing ? kNegativeInfinity : exponent[b] + weight_exponent;
        // A homogeneous activation takes the mantissas as they are; beside a bias at the larger exponent of the two.
        z->exponent[b] = !homogeneous ? 0.0 : bias ? std::max(product, bias_exponent) : product;
        z->scale.scale[b] = power_of_two<T>(product - z->exponent[b]);
        z->scale.bias_scale[b] = bias ? power_of_two<T>(bias_exponent - z->exponent[b]) : T(0);
        z->scale.linear[b] = 0;
    }
}

// A tanh of 2^-900 is its argument, a sigmoid 1/2: such samples keep z's exponent and go through what phi is near 0.
template <class T>
void StackPass<T>::find_linear_samples(std::size_t l, Preactivation<T>* z) const {
    if (info(l).near_zero == NearZero::homogeneous) return;
    const bool bias = network_.bias(l) != nullptr;
    const double bias_exponent = network_.bias_exponent(l);
    const double bends = sizeof(T) == 4 ? info(l).linear_below_log2.f32 : info(l).linear_below_log2.f64;
    const double limit = bias ? bends - 1 : bends;  // of two terms
    if (bias && !(network_.log2_bias(l) < limit)) return;
    T largest[kMaxColumns];
    kernels_.reduce->column_max(network_.layer(l).outputs, part_.columns, part_.ld, z_, largest);
    const double* exponent = part_.exponent_of_a(l);
    for (std::size_t b = 0; b < part_.columns; ++b) {
        const double product = exponent[b] + network_.weight_exponent(l);
        if (!(product < 0 || (bias && bias_exponent < 0))) continue;
        if (!(std::log2(static_cast<double>(largest[b])) + product < limit)) continue;
        const double kept = !bias ? product : largest[b] == 0 ? bias_exponent : std::max(product, bias_exponent);
        z->exponent[b] = kept;
        z->scale.scale[b] = largest[b] == 0 ? T(0) : power_of_two<T>(product - kept);  // else 0 times infinity
        z->scale.bias_scale[b] = bias ? power_of_two<T>(bias_exponent - kept) : T(0);
        z->scale.linear[b] = 1;
    }
}

template <class T>
void StackPass<T>::start_layer(std::size_t l, T* a, T* derivative, std::uint8_t* alive) {
    const bool alone = part_.ld == 1 && !network_.prepared(l);  // a single sample reads new weights itself
    layer_.have_product = alone && network_.prepare_with_product(l, part_.a(l), z_);
    plan_scale(l, &layer_.z);
    layer_.a = a;
    layer_.derivative = derivative;
    layer_.alive = alive;
    layer_.sums.clear(part_.columns);
}

// Products and activations of layer l from the kept a[l], as started; z stays in the scratch.
template <class T>
void StackPass<T>::compute_layer(StackPass* passes, std::size_t count, std::size_t l, Prefetch* prefetch) {
    const StackNetwork<T>& network = passes->network_;
    const GemmKernels<T>& gemm = *passes->kernels_.gemm;
    const DenseLayer<T>& layer = network.layer(l);
    const std::size_t ld = passes->part_.ld, columns = passes->part_.columns;
    bool whole = layer.normalised;  // or a sample's largest z must be known before any is taken
    for (std::size_t i = 0; i < count; ++i) whole |= passes[i].layer_.z.scaled;
    const std::size_t strip = whole ? layer.outputs : round_up(gemm.strip_elements / columns, 16);
    for (std::size_t row = 0; row < layer.outputs; row += strip) {
        const std::size_t rows = std::min(strip, layer.outputs - row);
        GemmColumns<T> sets[kSideBySide];
        for (std::size_t i = 0; i < count; ++i) {
            const BlockPart<T>& part = passes[i].part_;
            sets[i] = {part.columns, part.a(l), passes[i].z_ + row * ld};
        }
        if (!passes->layer_.have_product)
            gemm.nn(rows, layer.inputs, network.weight(l) + row * layer.inputs, layer.inputs, sets, count, ld, ld,
                    false, prefetch, passes->scratch_->product);
        for (std::size_t i = 0; i < count; ++i) passes[i].activate(l, row, rows);
    }
}

// Rows [row, row + rows) of z: all of them where the layer is normalised or scaled.
template <class T>
void StackPass<T>::activate(std::size_t l, std::size_t row, std::size_t rows) {
    const DenseLayer<T>& layer = network_.layer(l);
    const std::size_t at = row * part_.ld;
    Preactivation<T>& z = layer_.z;
    if (layer.normalised)
        normalise(l, &z);
    else if (z.scaled)
        find_linear_samples(l, &z);
    T valid[kMaxColumns];  // for the count of dead units, which must not see padding
    for (std::size_t b = 0; b < part_.columns; ++b) valid[b] = b < part_.samples ? T(1) : T(0);
    const T* bias = layer.normalised ? layer.norm_bias : network_.bias(l);
    kernels_.activation->forward[layer.activation]({rows, part_.columns, part_.ld, z_ + at, layer_.a + at,
                                                    layer_.derivative + at, bias ? bias + row : nullptr,
                                                    z.scaled ? &z.scale : nullptr, valid, &layer_.sums,
                                                    layer_.alive ? layer_.alive + row : nullptr, layer.parameter});
}

template <class T>
void StackPass<T>::forward_layer(StackPass* passes, std::size_t count, std::size_t l) {
    const StackNetwork<T>& network = passes->network_;
    Prefetch prefetch;
    if (l + 1 < network.depth()) network.add_weight(l + 1, &prefetch);
    for (std::size_t i = 0; i < count; ++i) {
        const BlockPart<T>& part = passes[i].part_;
        passes[i].start_layer(l, part.a(l + 1), part.delta(l), part.alive(l));
        if (l + 1 == network.depth()) continue;
        part.add_tile(part.a(l + 2), network.units(l + 2), &prefetch);
        part.add_tile(part.delta(l + 1), network.units(l + 2), &prefetch);
    }
    compute_layer(passes, count, l, &prefetch);
    for (std::size_t i = 0; i < count; ++i) passes[i].finish_layer(l);
}

// A sigmoid of -200 is 2^-288, and none of T: rows of such samples anew, from ln |phi(z)|, with an exponent.
template <class T>
void StackPass<T>::redo_from_log_value(std::size_t l, const double* log2_z, double* exponent, double* log2_a) {
    const std::size_t n = network_.layer(l).outputs, ld = part_.ld;
    T* a = part_.a(l + 1);
    double *row = scratch_->row.data(), *log2_value = scratch_->log_magnitude.data(), *sign = scratch_->sign.data();
    for (std::size_t b = 0; b < part_.samples; ++b) {
        if (!(log2_a[b] < Range<T>::log2_value_low) || !std::isfinite(log2_z[b]) || layer_.z.exponent[b] != 0) continue;
        for (std::size_t u = 0; u < n; ++u) row[u] = static_cast<double>(z_[u * ld + b]);
        kernels_.activation->log_value[network_.layer(l).activation](n, row, log2_value, sign);
        double top = kNegativeInfinity;
        for (std::size_t u = 0; u < n; ++u) top = std::max(top, log2_value[u] *= kLog2OfE);
        if (top == kNegativeInfinity) continue;
        double sum = 0, squares = 0;
        exponent[b] = common_exponent(top);
        for (std::size_t u = 0; u < n; ++u) {
            const double value = sign[u] * std::exp2(log2_value[u] - exponent[b]);
            a[u * ld + b] = static_cast<T>(value);
            sum += value;
            squares += value * value;
        }
        layer_.sums.a[b] = sum;
        layer_.sums.a_squared[b] = squares;
        log2_a[b] = 0.5 * std::log2(squares);
    }
}

template <class T>
void StackPass<T>::finish_layer(std::size_t l) {
    const std::size_t outputs = network_.layer(l).outputs;
    T* a = part_.a(l + 1);
    Preactivation<T>& z = layer_.z;
    ForwardSums& sums = layer_.sums;
    double log2_z[kMaxColumns], log2_a[kMaxColumns];  // of the mantissas
    norms(outputs, z_, sums.z_squared, log2_z);
    norms(outputs, a, sums.a_squared, log2_a);
    double* exponent = part_.exponent_of_a(l + 1);
    std::copy(z.exponent, z.exponent + part_.columns, exponent);
    if (info(l).near_zero == NearZero::offset) std::fill(exponent, exponent + part_.columns, 0.0);
    if (info(l).fades) redo_from_log_value(l, log2_z, exponent, log2_a);
    if (network_.layer(l).residual != 0) {
        add_input(l, log2_a, exponent, &sums);
        norms(outputs, a, sums.a_squared, log2_a);
    }
    for (std::size_t b = 0; b < part_.columns; ++b) {
        const double most = std::max(log2_z[b], log2_a[b]);
        if (std::isnan(log2_z[b]) || std::isnan(log2_a[b]) || (std::isinf(most) && most > 0))
            part_.nonfinite(b) = std::min(part_.nonfinite(b), static_cast<std::ptrdiff_t>(l));
    }
    collect_statistics(l, exponent, log2_z, log2_a);
    put(out_.log2_preactivation, l, log2_z, z.exponent);
    put(out_.log2_activation, l + 1, log2_a, exponent);
    for (std::size_t b = 0; b < part_.columns; ++b) log2_output_[b] = log2_a[b] + exponent[b];
    rescale(outputs, a, exponent, log2_a);
}

// Mean, and root of the sum of squared distances, of one of the layer's two tiles over a quantum's samples and units.
// All sums are taken at the quantum's largest exponent, where nothing that counts leaves float64.
template <class T>
static void mean_and_spread(const KernelTable<T>& kernels, std::size_t units, std::size_t samples, std::size_t ld,
                            const T* tile, const double* sum, const double* squares, const double* exponent,
                            const double* log2_norm, double* mean, double* spread) {
    double top = kNegativeInfinity;
    for (std::size_t b = 0; b < samples; ++b) top = std::max(top, log2_norm[b] + exponent[b]);
    const bool plain = all_zero(exponent, samples) && std::fabs(top) < 100;
    const double common = plain ? 0 : common_exponent(top);
    double first = 0, second = 0;
    for (std::size_t b = 0; b < samples; ++b) {
        const double shift = exponent[b] - common;
        const bool trusted = shift == 0 && squares[b] >= Range<T>::norm_low && squares[b] <= Range<T>::norm_high;
        first += shift == 0 ? sum[b] : scale_by(sum[b], shift);
        second += trusted ? squares[b] : std::exp2(2 * (log2_norm[b] + shift));
    }
    const double count = static_cast<double>(units) * static_cast<double>(samples);
    double centre = first / count, m2 = second - first * centre;
    if (m2 < kCancelled<T> * second && plain) {
        const T shift = static_cast<T>(centre);
        double centred[kMaxColumns], centred_squares[kMaxColumns];
        kernels.reduce->column_moments(units, ld == 1 ? 1 : kColumnMultiple, ld, tile, shift, centred, centred_squares);
        first = second = 0;
        for (std::size_t b = 0; b < samples; ++b) {
            first += centred[b];
            second += centred_squares[b];
        }
        centre = static_cast<double>(shift) + first / count;
        m2 = second - first * (first / count);
    } else if (m2 < kCancelled<T> * second) {
        m2 = 0;
        for (std::size_t u = 0; u < units; ++u)
            for (std::size_t b = 0; b < samples; ++b) {
                const double x = scale_by(static_cast<double>(tile[u * ld + b]), exponent[b] - common) - centre;
                m2 += x * x;
            }
    }
    const double root = m2 > 0 || std::isnan(m2) ? std::sqrt(m2) : 0.0;
    *mean = common == 0 ? centre : scale_by(centre, common);
    *spread = common == 0 ? root : scale_by(root, common);
}

template <class T>
void StackPass<T>::collect_statistics(std::size_t l, const double* a_exponent, const double* log2_z,
                                      const double* log2_a) {
    const std::size_t units = network_.layer(l).outputs, ld = part_.ld;
    const ForwardSums& sums = layer_.sums;
    for (std::size_t b = 0; b < part_.samples; b += kColumnMultiple) {
        const std::size_t samples = std::min(kColumnMultiple, part_.samples - b);
        LayerStatistics& s = part_.statistics(l, b);
        s.count = static_cast<double>(units) * static_cast<double>(samples);
        mean_and_spread(kernels_, units, samples, ld, z_ + b, sums.z + b, sums.z_squared + b, layer_.z.exponent + b,
                        log2_z + b, &s.z_mean, &s.z_spread);
        mean_and_spread(kernels_, units, samples, ld, part_.a(l + 1) + b, sums.a + b, sums.a_squared + b,
                        a_exponent + b, log2_a + b, &s.a_mean, &s.a_spread);
        for (std::size_t i = b; i < b + samples; ++i) {
            s.derivative += sums.derivative[i];
            s.saturated += sums.saturated[i];
            s.dead_samples += info(l).can_die && sums.on[i] == 0;
        }
    }
}

template <class T>
void StackPass<T>::store_output(T* y) {
    const std::size_t outputs = network_.layer(network_.depth() - 1).outputs, ld = part_.ld;
    const T* a = part_.a(network_.depth());
    const double* exponent = part_.exponent_of_a(network_.depth());
    y += part_.first * outputs;
    if (all_zero(exponent, part_.samples)) {
        kernels_.reduce->transpose(outputs, part_.samples, a, ld, y, outputs, nullptr);
        return;
    }
    for (std::size_t b = 0; b < part_.samples; ++b)
        for (std::size_t u = 0; u < outputs; ++u)
            y[b * outputs + u] = static_cast<T>(scale_by(static_cast<double>(a[u * ld + b]), exponent[b]));
}

template class StackPass<float>;
template class StackPass<double>;

}  // namespace gt
