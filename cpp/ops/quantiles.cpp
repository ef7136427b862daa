#include "ops/quantiles.h"

#include <algorithm>
#include <cmath>

#include "core/scaled.h"
#include "core/shape.h"
#include "ops/parallel.h"

namespace gt {
namespace {

constexpr std::size_t kRowsAtOnce = 64;
constexpr std::ptrdiff_t kSortedWhole = 128;  // longer rows are only sorted as far as the quantiles need

// Partially sorted from the left: order statistics are asked for in rising order.
class Ranked {
  public:
    Ranked(double* first, double* end) : first_(first), end_(end), from_(first) {
        if (end - first > kSortedWhole) return;
        std::sort(first, end);
        from_ = end;
    }
    double at(std::ptrdiff_t rank) {
        double* const wanted = first_ + rank;
        if (wanted >= from_) {
            std::nth_element(from_, wanted, end_);
            from_ = wanted + 1;
        }
        return *wanted;
    }

  private:
    double *first_, *end_, *from_;  // before from_ all that was asked for is in place
};

void one_row(std::size_t n, const double* values, const std::vector<double>& probabilities, double* kept, double* out) {
    double* const end = std::copy_if(values, values + n, kept, [](double x) { return !std::isnan(x); });
    if (end == kept) {
        std::fill_n(out, probabilities.size(), kNaN);
        return;
    }
    Ranked ranked(kept, end);
    for (std::size_t i = 0; i < probabilities.size(); ++i) {
        const double rank = probabilities[i] * static_cast<double>(end - kept - 1), whole = std::floor(rank);
        const double low = ranked.at(static_cast<std::ptrdiff_t>(whole)),
                     high = ranked.at(static_cast<std::ptrdiff_t>(std::ceil(rank)));
        out[i] = low == high || low == kNegativeInfinity ? low : low + (rank - whole) * (high - low);
    }
}

}  // namespace

void row_quantiles(std::size_t rows, std::size_t n, const double* values, const std::vector<double>& probabilities,
                   double* out) {
    constexpr double kOperationsPerValue = 30;
    const Loop loop(divide_up(rows, kRowsAtOnce),
                    kOperationsPerValue * static_cast<double>(rows) * static_cast<double>(n));
    std::vector<std::vector<double>> kept(loop.workers(), std::vector<double>(n));
    parallel_for(loop, [&](std::size_t block, std::size_t worker) {
        for (std::size_t r = block * kRowsAtOnce; r < std::min(rows, (block + 1) * kRowsAtOnce); ++r)
            one_row(n, values + r * n, probabilities, kept[worker].data(), out + r * probabilities.size());
    });
}

}  // namespace gt
