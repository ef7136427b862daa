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

// Where a quantile of so many values lies: between two order statistics.
struct Place {
    std::ptrdiff_t low, high;
    double share;  // of the way to the upper one
};

std::vector<Place> places_among(std::ptrdiff_t count, const std::vector<double>& probabilities) {
    std::vector<Place> places;
    for (const double probability : probabilities) {
        const double rank = probability * static_cast<double>(count - 1), whole = std::floor(rank);
        places.push_back(
            {static_cast<std::ptrdiff_t>(whole), static_cast<std::ptrdiff_t>(std::ceil(rank)), rank - whole});
    }
    return places;
}

// `usual`: the places among n values.
void one_row(std::size_t n, const double* values, const std::vector<double>& probabilities,
             const std::vector<Place>& usual, double* kept, double* out) {
    double* const end = std::copy_if(values, values + n, kept, [](double x) { return !std::isnan(x); });
    if (end == kept) {
        std::fill_n(out, probabilities.size(), kNaN);
        return;
    }
    const bool whole = static_cast<std::size_t>(end - kept) == n;
    const std::vector<Place> fewer = whole ? std::vector<Place>{} : places_among(end - kept, probabilities);
    Ranked ranked(kept, end);
    for (const Place& place : whole ? usual : fewer) {
        const double low = ranked.at(place.low), high = ranked.at(place.high);
        *out++ = low == high || low == kNegativeInfinity ? low : low + place.share * (high - low);
    }
}

}  // namespace

void row_quantiles(std::size_t rows, std::size_t n, const double* values, const std::vector<double>& probabilities,
                   double* out) {
    constexpr double kOperationsPerValue = 30;
    const Loop loop(divide_up(rows, kRowsAtOnce),
                    kOperationsPerValue * static_cast<double>(rows) * static_cast<double>(n));
    const std::vector<Place> usual = places_among(static_cast<std::ptrdiff_t>(n), probabilities);
    std::vector<std::vector<double>> kept(loop.workers(), std::vector<double>(n));
    parallel_for(loop, [&](std::size_t block, std::size_t worker) {
        for (std::size_t r = block * kRowsAtOnce; r < std::min(rows, (block + 1) * kRowsAtOnce); ++r)
            one_row(n, values + r * n, probabilities, usual, kept[worker].data(), out + r * probabilities.size());
    });
}

}  // namespace gt
