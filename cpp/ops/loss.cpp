#include "ops/loss.h"

#include <algorithm>
#include <cmath>

#include "core/scaled.h"
#include "ops/random.h"

namespace gt {
namespace {

// dL/dy_j = p_j for j != label, and minus their sum for the label. The others share the exponent of the largest, so a
// sample that is right by a logit gap of 5,000 has a gradient of 2^-7213, not zero.
template <class T>
double cross_entropy_row(const OutputRow<T>& output, std::size_t label, double* row, double* loss) {
    const std::size_t n = output.count;
    double top = kNegativeInfinity, top_other = kNegativeInfinity;
    for (std::size_t j = 0; j < n; ++j) {
        row[j] = output[j];
        top = row[j] > top ? row[j] : top;
        if (j != label && row[j] > top_other) top_other = row[j];
    }
    // Gaps between mantissas first: the logits themselves may be beyond double, the gaps stay in it.
    constexpr double kWidest = 1e300;
    const auto gap = [&](double y, double from) { return std::max(scale_by(y - from, output.exponent), -kWidest); };
    double others = 0, rest = 0;  // sums of exp(y - top_other) over j != label, and of exp(y - top) over j != argmax
    bool skipped_top = false;
    for (std::size_t j = 0; j < n; ++j) {
        if (j != label) others += std::exp(gap(row[j], top_other));
        if (!skipped_top && row[j] == top)
            skipped_top = true;
        else
            rest += std::exp(gap(row[j], top));
    }
    const double log_sum = std::log1p(rest);  // log-softmax of y is (y - top) - log_sum
    *loss += log_sum - scale_by(row[label] - top, output.exponent);
    // log2 of the largest of the others, split into an integer and a remainder.
    const double log2_top_other = (gap(top_other, top) - log_sum) * kLog2OfE;
    const double exponent = std::isfinite(log2_top_other) ? std::floor(log2_top_other) : 0.0;
    const double remainder = std::isfinite(log2_top_other) ? std::exp2(log2_top_other - exponent) : kNaN;
    for (std::size_t j = 0; j < n; ++j)
        row[j] = j == label ? -others * remainder : std::exp(gap(row[j], top_other)) * remainder;
    if (n == 1) row[0] = std::isnan(row[0]) && std::isfinite(top) ? 0.0 : row[0];
    return exponent;
}

// dL/dy = y - target for the loss (y - target)^2 / 2: the factor 2 joins the mean's at the end. Both are taken at the
// larger of their exponents, so that neither over- nor underflows before the difference.
template <class T>
double mse_row(const OutputRow<T>& output, const T* target, double* row, double* loss) {
    double largest = 0, largest_target = 0;
    for (std::size_t j = 0; j < output.count; ++j) {
        largest = std::max(largest, std::fabs(output[j]));
        largest_target = std::max(largest_target, std::fabs(static_cast<double>(target[j])));
    }
    double exponent = largest_target > 0 ? exponent_of(largest_target) : kNegativeInfinity;
    if (largest > 0) exponent = std::max(exponent, output.exponent + exponent_of(largest));
    if (!std::isfinite(exponent)) exponent = 0;
    double sum = 0;
    for (std::size_t j = 0; j < output.count; ++j) {
        row[j] = scale_by(output[j], output.exponent - exponent) - scale_by(target[j], -exponent);
        sum += row[j] * row[j];
    }
    *loss += scale_by(sum, 2 * exponent);
    return exponent;
}

}  // namespace

template <class T>
double cotangent_row(const IsaKernels& isa, const Cotangent<T>& cotangent, std::size_t b, const OutputRow<T>& output,
                     double* row, double* loss) {
    const std::size_t n = output.count;
    switch (cotangent.kind) {
        case CotangentKind::cross_entropy:
            return cross_entropy_row(output, static_cast<std::size_t>(cotangent.labels[b]), row, loss);
        case CotangentKind::mse:
            return mse_row(output, cotangent.rows + b * n, row, loss);
        case CotangentKind::given:
            std::copy(cotangent.rows + b * n, cotangent.rows + (b + 1) * n, row);
            return 0;
        case CotangentKind::random:
            break;
    }
    normal_range(isa, cotangent.seed, 0, Draw::cotangent, (cotangent.first_sample + b) * n, n, row);
    for (std::size_t j = 0; j < n; ++j) row[j] = static_cast<T>(row[j]);
    return 0;
}

MeanFactors mean_factors(CotangentKind kind, std::size_t samples, std::size_t outputs) {
    const auto n = static_cast<double>(samples), values = static_cast<double>(samples * outputs);
    if (kind == CotangentKind::cross_entropy) return {1 / n, 1 / n};
    if (kind == CotangentKind::mse) return {1 / values, 2 / values};
    return {};
}

template double cotangent_row<float>(const IsaKernels&, const Cotangent<float>&, std::size_t, const OutputRow<float>&,
                                     double*, double*);
template double cotangent_row<double>(const IsaKernels&, const Cotangent<double>&, std::size_t,
                                      const OutputRow<double>&, double*, double*);

}  // namespace gt
