#include "ops/distribution.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/scaled.h"
#include "core/shape.h"
#include "ops/parallel.h"

namespace gt {
namespace {

constexpr std::size_t kLayersAtOnce = 8;      // of float64: a cache line of the raw figures
constexpr std::size_t kLanes = 4;             // sums in so many interleaved parts, on every machine
constexpr std::int64_t kDenseBins = 1 << 16;  // a wider range is sorted instead
constexpr double kLastBin = 4e18;             // within int64

struct Scratch {
    std::vector<double> values, means;  // layer by layer; of one layer's networks
    std::vector<std::int64_t> bins;
    std::vector<std::uint32_t> dense;
    std::vector<std::size_t> found;
};

// Sum of f(x[i]) in a fixed order.
template <class F>
double lane_sum(std::size_t n, const double* x, F&& f) {
    double sum[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (std::size_t k = 0; k < kLanes; ++k) sum[k] += f(x[i + k]);
    for (; i < n; ++i) sum[i % kLanes] += f(x[i]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Moments of n values into column `layer` of `out`.
void moments(std::size_t n, const double* x, std::size_t layers, std::size_t layer, double* out) {
    double sum = lane_sum(n, x, [](double v) { return v; }), count = static_cast<double>(n), below = 0, squares;
    if (std::isfinite(sum)) {  // no infinity and no NaN among them
        const double mean = n ? sum / count : 0;
        squares = lane_sum(n, x, [=](double v) { return (v - mean) * (v - mean); });
    } else {
        count = lane_sum(n, x, [](double v) { return std::isfinite(v) ? 1.0 : 0.0; });
        below = lane_sum(n, x, [](double v) { return v == kNegativeInfinity ? 1.0 : 0.0; });
        sum = lane_sum(n, x, [](double v) { return std::isfinite(v) ? v : 0; });
        const double mean = count > 0 ? sum / count : 0;
        squares = lane_sum(n, x, [=](double v) { return std::isfinite(v) ? (v - mean) * (v - mean) : 0; });
    }
    out[layer] = count;
    out[layers + layer] = count > 0 ? sum / count : 0;
    out[2 * layers + layer] = squares;
    out[3 * layers + layer] = below;
}

// Each network's mean over its finite samples.
void network_means(std::size_t networks, std::size_t samples, const double* x, double* means) {
    for (std::size_t i = 0; i < networks; ++i, x += samples) {
        double sum = 0;
        for (std::size_t s = 0; s < samples; ++s) sum += x[s];
        means[i] = sum / static_cast<double>(samples);
        if (std::isfinite(sum)) continue;
        std::size_t finite = 0, below = 0;
        sum = 0;
        for (std::size_t s = 0; s < samples; ++s) {
            if (std::isfinite(x[s])) sum += x[s], ++finite;
            below += x[s] == kNegativeInfinity;
        }
        means[i] = finite ? sum / static_cast<double>(finite) : below == samples ? kNegativeInfinity : kNaN;
    }
}

// Copies layers [first, first + here) of the raw figures, each to rows of its own.
void gather(const RawFigures& raw, std::size_t first, std::size_t here, double* out) {
    const std::size_t rows = raw.networks * raw.samples;
    const double* from = raw.values + first;
    if (here == kLayersAtOnce) {
        for (std::size_t r = 0; r < rows; ++r, from += raw.layers)
            for (std::size_t l = 0; l < kLayersAtOnce; ++l) out[l * rows + r] = from[l];
        return;
    }
    for (std::size_t r = 0; r < rows; ++r, from += raw.layers)
        for (std::size_t l = 0; l < here; ++l) out[l * rows + r] = from[l];
}

// Bin k goes from (k - 1/2) to (k + 1/2) widths, so that whole multiples such as 0 and 1 are read as they are.
std::int64_t rounded(double place) {
    place += 0.5;
    const auto whole = static_cast<std::int64_t>(place);
    return whole - (static_cast<double>(whole) > place);
}

std::int64_t bin_of(double x, double bins_per_unit) {
    return rounded(std::clamp(x * bins_per_unit, -kLastBin, kLastBin));
}

void append(Counts& counts, std::int64_t bin, std::int64_t count) {
    if (!count) return;
    counts.bins.push_back(bin);
    counts.counts.push_back(count);
}

// Finite values whose bins go from `low` to `high`.
void count_densely(std::size_t n, const double* x, double bins_per_unit, std::int64_t low, std::int64_t high,
                   Scratch& scratch, Counts& counts) {
    const auto range = static_cast<std::size_t>(high - low + 1);
    scratch.dense.assign(range, 0);
    for (std::size_t i = 0; i < n; ++i) ++scratch.dense[static_cast<std::size_t>(rounded(x[i] * bins_per_unit) - low)];
    if (scratch.found.size() < range) scratch.found.resize(range);
    std::size_t kept = 0;
    for (std::size_t k = 0; k < range; ++k) {  // written in any case: which are empty no branch foresees
        scratch.found[kept] = k;
        kept += scratch.dense[k] != 0;
    }
    counts.bins.reserve(kept + 2);  // with the infinities
    counts.counts.reserve(kept + 2);
    for (std::size_t i = 0; i < kept; ++i) {
        counts.bins.push_back(low + static_cast<std::int64_t>(scratch.found[i]));
        counts.counts.push_back(scratch.dense[scratch.found[i]]);
    }
}

void count_sorted(std::size_t n, const double* x, double bins_per_unit, Scratch& scratch, Counts& counts) {
    scratch.bins.resize(n);
    for (std::size_t i = 0; i < n; ++i) scratch.bins[i] = bin_of(x[i], bins_per_unit);
    std::sort(scratch.bins.begin(), scratch.bins.end());
    for (std::size_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && scratch.bins[end] == scratch.bins[i];) ++end;
        append(counts, scratch.bins[i], static_cast<std::int64_t>(end - i));
    }
}

// How many values are finite, which are left in front of x, and the least and the largest of them; -inf, +inf.
struct Finite {
    std::size_t count = 0;
    double low = -kNegativeInfinity, high = kNegativeInfinity;
    std::int64_t below = 0, above = 0;
};

Finite finite_in_front(std::size_t n, double* x) {
    Finite found;
    double low[kLanes], high[kLanes];
    std::fill_n(low, kLanes, -kNegativeInfinity);
    std::fill_n(high, kLanes, kNegativeInfinity);
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (std::size_t k = 0; k < kLanes; ++k) {
            low[k] = x[i + k] < low[k] ? x[i + k] : low[k];
            high[k] = x[i + k] > high[k] ? x[i + k] : high[k];
        }
    for (; i < n; ++i) {
        low[0] = x[i] < low[0] ? x[i] : low[0];
        high[0] = x[i] > high[0] ? x[i] : high[0];
    }
    found.low = *std::min_element(low, low + kLanes);
    found.high = *std::max_element(high, high + kLanes);
    // NaN passes through both comparisons; a sum finds it.
    if (std::isfinite(found.low) && std::isfinite(found.high) &&
        !std::isnan(lane_sum(n, x, [](double v) { return v; }))) {
        found.count = n;
        return found;
    }
    found.low = -kNegativeInfinity;
    found.high = kNegativeInfinity;
    for (i = 0; i < n; ++i) {
        const double value = x[i];
        if (std::isfinite(value)) {
            x[found.count++] = value;
            found.low = std::min(found.low, value);
            found.high = std::max(found.high, value);
        } else if (!std::isnan(value)) {
            ++(value < 0 ? found.below : found.above);
        }
    }
    return found;
}

// x is left with its finite values in front.
void count_layer(std::size_t n, double* x, double bins_per_unit, Scratch& scratch, Counts& counts) {
    const auto [finite, low, high, below, above] = finite_in_front(n, x);
    append(counts, kBelowAll, below);
    if (finite) {
        const std::int64_t first = bin_of(low, bins_per_unit), last = bin_of(high, bins_per_unit);
        if (last - first < kDenseBins && std::abs(first) < kDenseBins * kDenseBins)
            count_densely(finite, x, bins_per_unit, first, last, scratch, counts);
        else
            count_sorted(finite, x, bins_per_unit, scratch, counts);
    }
    append(counts, kAboveAll, above);
}

// Value of the order statistic `rank`; `seen` counts those in bins before `at`, both go on to its bin.
double ranked(const Counts& counts, double width, std::int64_t rank, std::size_t& at, std::int64_t& seen) {
    while (seen + counts.counts[at] <= rank) seen += counts.counts[at++];
    const std::int64_t bin = counts.bins[at];
    if (bin == kBelowAll) return kNegativeInfinity;
    if (bin == kAboveAll) return -kNegativeInfinity;
    return static_cast<double>(bin) * width;
}

// Order statistics of some values: they are dealt into buckets, and only those that are asked for are sorted.
class Selection {
  public:
    // x is left with its finite values in front, and must stay as it is as long as quantiles are asked for.
    void take(std::size_t n, double* x) {
        const Finite found = finite_in_front(n, x);
        values_ = x;
        finite_ = found.count;
        low_ = found.low;
        below_ = static_cast<std::size_t>(found.below);
        above_ = static_cast<std::size_t>(found.above);
        const double spread = found.high - found.low;
        scale_ = spread > 0 && spread < 1e300 && kBuckets / spread < 1e300 ? (kBuckets - 1) / spread : 0;
        deal();
    }

    double quantile(double probability) {
        const std::size_t count = below_ + finite_ + above_;
        if (!count) return kNaN;
        const double rank = probability * static_cast<double>(count - 1), whole = std::floor(rank);
        const double low = at(static_cast<std::size_t>(whole)), high = at(static_cast<std::size_t>(std::ceil(rank)));
        return low == high || low == kNegativeInfinity ? low : low + (rank - whole) * (high - low);
    }

  private:
    static constexpr std::size_t kBuckets = 1024;

    std::size_t bucket(double x) const { return static_cast<std::size_t>(static_cast<int>((x - low_) * scale_)); }

    void deal() {
        starts_.assign(kBuckets + 1, 0);
        for (std::size_t i = 0; i < finite_; ++i) ++starts_[bucket(values_[i]) + 1];
        std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
        next_.assign(starts_.begin(), starts_.end() - 1);
        dealt_.resize(finite_);
        for (std::size_t i = 0; i < finite_; ++i) dealt_[next_[bucket(values_[i])]++] = values_[i];
        sorted_.assign(kBuckets, false);
    }

    double at(std::size_t rank) {
        if (rank < below_) return kNegativeInfinity;
        rank -= below_;
        if (rank >= finite_) return -kNegativeInfinity;
        const auto above = std::upper_bound(starts_.begin(), starts_.end(), rank);
        const auto which = static_cast<std::size_t>(above - starts_.begin()) - 1;
        if (!sorted_[which]) {
            std::sort(dealt_.data() + starts_[which], dealt_.data() + starts_[which + 1]);
            sorted_[which] = true;
        }
        return dealt_[rank];
    }

    double low_ = 0, scale_ = 0;
    std::size_t below_ = 0, above_ = 0, finite_ = 0;
    const double* values_ = nullptr;
    std::vector<double> dealt_;
    std::vector<std::size_t> starts_, next_;
    std::vector<bool> sorted_;
};

}  // namespace

void distribution(const RawFigures& raw, double width, double* of_values, double* of_networks,
                  std::vector<Counts>& counts) {
    constexpr double kOperationsPerValue = 20;
    const std::size_t rows = raw.networks * raw.samples, L = raw.layers;
    const Loop loop(divide_up(L, kLayersAtOnce),
                    kOperationsPerValue * static_cast<double>(rows) * static_cast<double>(L));
    std::vector<Scratch> scratches(loop.workers());
    for (Scratch& scratch : scratches) {
        scratch.values.resize(rows * kLayersAtOnce);
        scratch.means.resize(raw.networks);
    }
    parallel_for(loop, [&](std::size_t group, std::size_t worker) {
        Scratch& scratch = scratches[worker];
        const std::size_t first = group * kLayersAtOnce, here = std::min(kLayersAtOnce, L - first);
        gather(raw, first, here, scratch.values.data());
        for (std::size_t l = 0; l < here; ++l) {
            double* x = scratch.values.data() + l * rows;
            moments(rows, x, L, first + l, of_values);
            network_means(raw.networks, raw.samples, x, scratch.means.data());
            moments(raw.networks, scratch.means.data(), L, first + l, of_networks);
            if (width > 0) count_layer(rows, x, 1 / width, scratch, counts[first + l]);
        }
    });
}

void course_gains(const RawFigures& raw, std::size_t first, const std::vector<std::size_t>& starts, double* out) {
    const std::size_t last = raw.layers - 1 - first;
    for (std::size_t r = 0; r < raw.networks * raw.samples; ++r) {
        const double* course = raw.values + r * raw.layers + first;
        for (const std::size_t start : starts)
            *out++ = (course[start] - course[last]) / static_cast<double>(last - start);
    }
}

void value_quantiles(const RawFigures& raw, const std::vector<double>& probabilities, double* out) {
    constexpr double kOperationsPerValue = 20;
    const std::size_t rows = raw.networks * raw.samples, L = raw.layers, P = probabilities.size();
    const Loop loop(divide_up(L, kLayersAtOnce),
                    kOperationsPerValue * static_cast<double>(rows) * static_cast<double>(L));
    std::vector<std::vector<double>> values(loop.workers(), std::vector<double>(rows * kLayersAtOnce));
    std::vector<Selection> selections(loop.workers());
    parallel_for(loop, [&](std::size_t group, std::size_t worker) {
        double* x = values[worker].data();
        const std::size_t first = group * kLayersAtOnce, here = std::min(kLayersAtOnce, L - first);
        gather(raw, first, here, x);
        for (std::size_t l = 0; l < here; ++l, x += rows) {
            selections[worker].take(rows, x);
            for (std::size_t p = 0; p < P; ++p) out[p * L + first + l] = selections[worker].quantile(probabilities[p]);
        }
    });
}

Counts merged(const Counts& one, const Counts& other) {
    Counts whole;
    const std::size_t n = one.bins.size(), m = other.bins.size();
    whole.bins.reserve(n + m);
    whole.counts.reserve(n + m);
    for (std::size_t i = 0, j = 0; i < n || j < m;) {
        const bool first = j == m || (i < n && one.bins[i] <= other.bins[j]);
        const bool second = i == n || (j < m && other.bins[j] <= one.bins[i]);
        append(whole, first ? one.bins[i] : other.bins[j],
               (first ? one.counts[i] : 0) + (second ? other.counts[j] : 0));
        i += first;
        j += second;
    }
    return whole;
}

void count_quantiles(const Counts& counts, double width, const std::vector<double>& probabilities, double* out) {
    const std::int64_t total = std::accumulate(counts.counts.begin(), counts.counts.end(), std::int64_t{0});
    for (const double probability : probabilities) {
        if (!total) {
            *out++ = kNaN;
            continue;
        }
        std::size_t at = 0;
        std::int64_t seen = 0;
        const double rank = probability * static_cast<double>(total - 1), whole = std::floor(rank);
        const double low = ranked(counts, width, static_cast<std::int64_t>(whole), at, seen);
        const double high = ranked(counts, width, static_cast<std::int64_t>(std::ceil(rank)), at, seen);
        *out++ = low == high || low == kNegativeInfinity ? low : low + (rank - whole) * (high - low);
    }
}

}  // namespace gt
