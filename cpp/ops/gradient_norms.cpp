#include "ops/gradient_norms.h"

#include <algorithm>
#include <cmath>

#include "core/shape.h"

namespace gt {
namespace {

// The samples of a chunk with the power of two that brings each to the common exponent of the sum.
struct Weights {
    double exponent = kNegativeInfinity;  // of the sum; -inf: all terms are zero
    bool is_nan = false;
    std::vector<double> factor;  // per sample, blocks padded to kMaxColumns
};

// log2_norm(i): the norm of term i; mantissa_exponent(i): the exponent its mantissas carry.
template <class T, class Norm, class Exponent>
Weights align_terms(const std::vector<StackBlock<T>>& blocks, std::size_t block_count, Norm log2_norm,
                    Exponent mantissa_exponent) {
    Weights w;
    w.factor.assign(block_count * kMaxColumns, 0.0);
    for (std::size_t i = 0; i < block_count; ++i)
        for (std::size_t b = 0; b < blocks[i].samples; ++b) {
            const double norm = log2_norm(i, b);
            w.is_nan |= std::isnan(norm);
            w.exponent = std::max(w.exponent, norm);
        }
    if (w.is_nan || !std::isfinite(w.exponent)) return w;
    w.exponent = std::floor(w.exponent) + 1;
    constexpr double kWholeBits = 4e15;  // beyond, a norm and its own exponent may round apart by any number of bits
    if (std::fabs(w.exponent) > kWholeBits) {
        w.exponent = kNegativeInfinity;
        for (std::size_t i = 0; i < block_count; ++i)
            for (std::size_t b = 0; b < blocks[i].samples; ++b)
                if (log2_norm(i, b) != kNegativeInfinity) w.exponent = std::max(w.exponent, mantissa_exponent(i, b));
    }
    for (std::size_t i = 0; i < block_count; ++i)
        for (std::size_t b = 0; b < blocks[i].samples; ++b) {
            const double norm = log2_norm(i, b);
            if (norm == kNegativeInfinity) continue;  // a zero row's exponent says nothing
            w.factor[i * kMaxColumns + b] = power_of_two<double>(mantissa_exponent(i, b) - w.exponent);
        }
    return w;
}

// Whether a sum of squares has cancelled against the squared sum of the terms' norms, each of which is at most 1 at the
// common exponent: mostly their number decides, and the norms need not be added up.
template <class T, class Norm>
bool has_cancelled(double squares, const std::vector<StackBlock<T>>& blocks, std::size_t block_count, Norm log2_norm,
                   double exponent) {
    double most = 0;
    for (std::size_t i = 0; i < block_count; ++i) most += static_cast<double>(blocks[i].samples);
    if (squares >= kCancelled * most * most) return false;
    double size = 0;
    for (std::size_t i = 0; i < block_count; ++i)
        for (std::size_t b = 0; b < blocks[i].samples; ++b) size += std::exp2(log2_norm(i, b) - exponent);
    return !(squares >= kCancelled * size * size);
}

struct PairSums {
    double weight = 0, bias = 0;
};

// A block's samples, and the powers of two that bring each to the exponents of the two sums.
template <class T>
struct PairSide {
    const StackBlock<T>* block;
    const double *weight, *bias;
};

// Samples [row, row + rows) of x against samples [column, column + columns) of y.
struct PairRange {
    std::size_t row, rows, column, columns;
};

// The products of two rectangles of pairs; `times` is how often each pair counts.
template <class T>
void add_pairs(const KernelTable<T>& kernels, const PairSide<T>& x, const PairSide<T>& y, const PairRange& range,
               double times, const T* deltas, const T* activations, PairSums* total) {
    double pair[2];
    kernels.reduce->pair_sums(range.rows, range.columns, kMaxColumns, deltas, activations, x.weight + range.row,
                              y.weight + range.column, x.bias + range.row, y.bias + range.column, pair);
    total->weight += times * pair[0];
    total->bias += times * pair[1];
}

template <class T>
PairSums sum_pairs(const KernelTable<T>& kernels, const StackNetwork<T>& network, std::size_t l,
                   const std::vector<StackBlock<T>>& blocks, std::size_t block_count, const Weights& weight,
                   const Weights& bias, GradientScratch<T>& scratch) {
    constexpr std::size_t kLd = kMaxColumns;
    PairSums total;
    const auto side = [&](std::size_t i) {
        return PairSide<T>{&blocks[i], &weight.factor[i * kMaxColumns], &bias.factor[i * kMaxColumns]};
    };
    T *deltas = scratch.left.data(), *activations = scratch.right.data();
    const auto multiply = [&](const PairSide<T>& x, const PairSide<T>& y, const PairRange& range) {
        const auto gram = [&](std::size_t units, const T* left, const T* right, T* to) {
            const GemmColumns<T> set{range.columns, right + range.column, to};
            kernels.gram->tn(range.rows, units, left + range.row, x.block->columns, &set, 1, y.block->columns, kLd,
                             false, nullptr, scratch.product);
        };
        gram(network.layer(l).outputs, x.block->delta(l), y.block->delta(l), deltas);
        gram(network.layer(l).inputs, x.block->a(l), y.block->a(l), activations);
    };
    for (std::size_t i = 0; i < block_count; ++i) {
        const PairSide<T> x = side(i);
        // Pairs come twice: of a block with itself only squares of the diagonal and what is right of them are taken,
        // the latter doubled.
        for (std::size_t row = 0; row < x.block->samples; row += kColumnMultiple) {
            const std::size_t rows = std::min(kColumnMultiple, x.block->samples - row), right = row + kColumnMultiple;
            multiply(x, x, {row, rows, row, x.block->columns - row});
            add_pairs(kernels, x, x, {row, rows, row, kColumnMultiple}, 1, deltas, activations, &total);
            if (right < x.block->columns)
                add_pairs(kernels, x, x, {row, rows, right, x.block->columns - right}, 2, deltas + kColumnMultiple,
                          activations + kColumnMultiple, &total);
        }
        for (std::size_t j = i + 1; j < block_count; ++j) {
            const PairSide<T> y = side(j);
            const PairRange all{0, x.block->samples, 0, y.block->columns};
            multiply(x, y, all);
            add_pairs(kernels, x, y, all, 2, deltas, activations, &total);
        }
    }
    return total;
}

double log2_of_sum(double squares, double exponent) { return 0.5 * std::log2(squares) + exponent; }

// db, formed in float64.
template <class T>
void form_bias(const KernelTable<T>& kernels, std::size_t outputs, std::size_t l,
               const std::vector<StackBlock<T>>& blocks, std::size_t block_count, const Weights& bias,
               LayerGradient<T>& out) {
    if (bias.exponent == kNegativeInfinity && !bias.is_nan) return;
    std::vector<double> sum(outputs, bias.is_nan ? kNaN : 0.0), part(outputs);
    for (std::size_t i = 0; i < block_count && !bias.is_nan; ++i) {
        kernels.reduce->row_dot(outputs, blocks[i].columns, blocks[i].columns, blocks[i].delta(l),
                                &bias.factor[i * kMaxColumns], part.data());
        for (std::size_t u = 0; u < outputs; ++u) sum[u] += part[u];
    }
    if (out.bias.value.size() == 0) {
        double squares = 0;
        for (const double s : sum) squares += s * s;
        out.log2_bias = bias.is_nan ? kNaN : log2_of_sum(squares, bias.exponent);
        return;
    }
    const double term = bias.is_nan ? 0.0 : bias.exponent;
    const double factor = power_of_two<double>(term - out.bias.align(term));
    for (std::size_t u = 0; u < outputs; ++u) out.bias.value[u] += sum[u] * factor;
}

// What cancels to almost nothing leaves entries whose squares T cannot hold.
template <class T>
double row_squares(const KernelTable<T>& kernels, std::size_t count, const T* x) {
    const double squares = kernels.reduce->flat_squares(count, x);
    if (!(squares < Range<T>::norm_low)) return squares;
    T largest = 0;
    kernels.reduce->column_max(count, 1, 1, x, &largest);
    double sum = 0;
    for (std::size_t i = 0; largest > T(0) && i < count; ++i)
        sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
}

// dW, formed strip by strip: squared and dropped, or added to the sum.
template <class T>
void form_weight(const KernelTable<T>& kernels, std::size_t inputs, std::size_t outputs, std::size_t l,
                 const std::vector<StackBlock<T>>& blocks, std::size_t block_count, const Weights& weight,
                 GradientScratch<T>& scratch, LayerGradient<T>& out) {
    if (weight.exponent == kNegativeInfinity && !weight.is_nan) return;
    const std::size_t ld = round_up(inputs, kColumnMultiple);
    const double term = weight.is_nan ? 0.0 : weight.exponent;
    // The activations of all blocks, samples x units, each sample at the common exponent.
    T* right = scratch.right.data();
    std::vector<std::size_t> first(block_count + 1, 0);
    for (std::size_t i = 0; i < block_count; ++i) {
        T factor[kMaxColumns];
        for (std::size_t b = 0; b < kMaxColumns; ++b)
            factor[b] = weight.is_nan ? T(1) : static_cast<T>(weight.factor[i * kMaxColumns + b]);
        T* to = right + first[i] * ld;
        std::fill(to, to + blocks[i].samples * ld, T(0));
        kernels.reduce->transpose(inputs, blocks[i].samples, blocks[i].a(l), blocks[i].columns, to, ld, factor);
        first[i + 1] = first[i] + blocks[i].samples;
    }
    const bool keep = out.weight.value.size() != 0;
    const T factor = keep ? power_of_two<T>(term - out.weight.align(term)) : T(1);
    double squares = 0;
    for (std::size_t row = 0; row < outputs; row += kGradientStripRows) {
        const std::size_t rows = std::min(kGradientStripRows, outputs - row);
        for (std::size_t i = 0; i < block_count; ++i) {
            const GemmColumns<T> set{ld, right + first[i] * ld, scratch.strip.data()};
            kernels.gemm->nn(rows, blocks[i].samples, blocks[i].delta(l) + row * blocks[i].columns, blocks[i].columns,
                             &set, 1, ld, ld, i > 0, nullptr, scratch.product);
        }
        for (std::size_t r = 0; r < rows; ++r) {
            const T* from = scratch.strip.data() + r * ld;
            if (keep) {
                T* to = out.weight.value.data() + (row + r) * inputs;
                for (std::size_t c = 0; c < inputs; ++c) to[c] += from[c] * factor;
            } else {
                squares += row_squares(kernels, inputs, from);
            }
        }
    }
    if (!keep) out.log2_weight = weight.is_nan ? kNaN : log2_of_sum(squares, term);
}

}  // namespace

template <class V>
void GradientSum<V>::reset(std::size_t count) {
    value = AlignedBuffer<V>(count);
    std::fill(value.data(), value.data() + count, V(0));
    exponent = kNegativeInfinity;
}

template <class V>
double GradientSum<V>::align(double other) {
    if (other > exponent) {
        const V factor = exponent == kNegativeInfinity ? V(1) : power_of_two<V>(exponent - other);
        if (factor != V(1))
            for (std::size_t i = 0; i < value.size(); ++i) value[i] *= factor;
        exponent = other;
    }
    return exponent;
}

template <class V>
double GradientSum<V>::log2_norm() const {
    double largest = 0, sum = 0;
    for (std::size_t i = 0; i < value.size(); ++i) {
        const double size = std::fabs(static_cast<double>(value[i]));
        if (!(size <= largest)) largest = size;  // also when it is NaN
        if (std::isnan(largest)) return kNaN;
    }
    if (largest == 0) return kNegativeInfinity;
    for (std::size_t i = 0; i < value.size(); ++i) {
        const double ratio = static_cast<double>(value[i]) / largest;
        sum += ratio * ratio;
    }
    return 0.5 * std::log2(sum) + std::log2(largest) + exponent;
}

template <class T>
void GradientScratch<T>::reserve(std::size_t left_count, std::size_t right_count, std::size_t strip_count) {
    left = AlignedBuffer<T>(left_count);
    right = AlignedBuffer<T>(right_count);
    strip = AlignedBuffer<T>(strip_count);
}

bool pairs_are_cheaper(std::size_t samples, std::size_t inputs, std::size_t outputs) {
    const double b = static_cast<double>(samples), n = static_cast<double>(inputs), m = static_cast<double>(outputs);
    return b * b * (n + m) <= b * n * m;
}

template <class T>
void layer_gradient(const KernelTable<T>& kernels, const StackNetwork<T>& network, std::size_t l,
                    const std::vector<StackBlock<T>>& blocks, std::size_t block_count, const double* log2_delta,
                    const double* log2_activation, GradientScratch<T>& scratch, LayerGradient<T>& out) {
    const std::size_t inputs = network.layer(l).inputs, outputs = network.layer(l).outputs;
    const std::size_t block_samples = blocks[0].samples;
    const auto delta_norm = [&](std::size_t i, std::size_t b) { return log2_delta[i * block_samples + b]; };
    const auto delta_exponent = [&](std::size_t i, std::size_t b) { return blocks[i].exponent_of_delta(l)[b]; };
    const auto term_norm = [&](std::size_t i, std::size_t b) {
        return delta_norm(i, b) + log2_activation[i * block_samples + b];
    };
    std::size_t samples = 0;
    for (std::size_t i = 0; i < block_count; ++i) samples += blocks[i].samples;
    const bool one_alone = samples == 1 && out.weight.value.size() == 0;
    if (one_alone && out.bias.value.size() == 0) {
        out.log2_weight = term_norm(0, 0);  // one sample's gradient is an outer product
        out.log2_bias = delta_norm(0, 0);
        return;
    }
    const Weights weight = align_terms(blocks, block_count, term_norm, [&](std::size_t i, std::size_t b) {
        return delta_exponent(i, b) + blocks[i].exponent_of_a(l)[b];
    });
    const Weights bias = align_terms(blocks, block_count, delta_norm, delta_exponent);

    out.log2_weight = out.log2_bias = kNegativeInfinity;
    if (one_alone) {
        out.log2_weight = term_norm(0, 0);
        return form_bias(kernels, outputs, l, blocks, block_count, bias, out);
    }
    bool form_w = out.weight.value.size() != 0 || !pairs_are_cheaper(samples, inputs, outputs), form_b = form_w;
    if (!form_w) {
        const bool finite = std::isfinite(weight.exponent) && !weight.is_nan && !bias.is_nan;
        const PairSums sums =
            finite ? sum_pairs(kernels, network, l, blocks, block_count, weight, bias, scratch) : PairSums{};
        form_w = !finite || has_cancelled(sums.weight, blocks, block_count, term_norm, weight.exponent);
        form_b = !finite || out.bias.value.size() != 0 ||
                 has_cancelled(sums.bias, blocks, block_count, delta_norm, bias.exponent);
        if (!form_w) out.log2_weight = log2_of_sum(sums.weight, weight.exponent);
        if (!form_b) out.log2_bias = log2_of_sum(sums.bias, bias.exponent);
    }
    if (form_w) form_weight(kernels, inputs, outputs, l, blocks, block_count, weight, scratch, out);
    if (form_b) form_bias(kernels, outputs, l, blocks, block_count, bias, out);
}

template struct GradientSum<float>;
template struct GradientSum<double>;
template struct GradientScratch<float>;
template struct GradientScratch<double>;
template void layer_gradient<float>(const KernelTable<float>&, const StackNetwork<float>&, std::size_t,
                                    const std::vector<StackBlock<float>>&, std::size_t, const double*, const double*,
                                    GradientScratch<float>&, LayerGradient<float>&);
template void layer_gradient<double>(const KernelTable<double>&, const StackNetwork<double>&, std::size_t,
                                     const std::vector<StackBlock<double>>&, std::size_t, const double*, const double*,
                                     GradientScratch<double>&, LayerGradient<double>&);

}  // namespace gt
