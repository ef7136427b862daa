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
constexpr std::int64_t kDenseBins = 1 << 16;  // a wider range is sorted instead
constexpr double kLastBin = 4e18;             // within int64

struct Scratch {
    std::vector<double> values, means;  // layer by layer; of one layer's networks
    std::vector<std::int64_t> bins;
    std::vector<std::uint32_t> dense;
};

// Moments of n values into column `layer` of `out`. Sums run over four fixed interleaved parts.
void moments(std::size_t n, const double* x, std::size_t layers, std::size_t layer, double* out) {
    double sum[4] = {}, squares[4] = {};
    std::size_t finite = 0, below = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const bool counts = std::isfinite(x[i]);
        finite += counts;
        below += x[i] == kNegativeInfinity;
        sum[i % 4] += counts ? x[i] : 0;
    }
    const double count = static_cast<double>(finite);
    const double mean = finite ? ((sum[0] + sum[1]) + (sum[2] + sum[3])) / count : 0;
    for (std::size_t i = 0; i < n; ++i) {
        const double away = std::isfinite(x[i]) ? x[i] - mean : 0;
        squares[i % 4] += away * away;
    }
    out[layer] = count;
    out[layers + layer] = mean;
    out[2 * layers + layer] = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    out[3 * layers + layer] = static_cast<double>(below);
}

// Each network's mean over its finite samples.
void network_means(std::size_t networks, std::size_t samples, const double* x, double* means) {
    for (std::size_t i = 0; i < networks; ++i, x += samples) {
        double sum = 0;
        std::size_t finite = 0, below = 0;
        for (std::size_t s = 0; s < samples; ++s) {
            if (std::isfinite(x[s])) sum += x[s], ++finite;
            below += x[s] == kNegativeInfinity;
        }
        means[i] = finite ? sum / static_cast<double>(finite) : below == samples ? kNegativeInfinity : kNaN;
    }
}

std::int64_t bin_of(double x, double bins_per_unit) {
    if (std::isinf(x)) return x < 0 ? kBelowAll : kAboveAll;
    const double place = std::clamp(x * bins_per_unit, -kLastBin, kLastBin);
    const auto whole = static_cast<std::int64_t>(place);
    return whole - (static_cast<double>(whole) > place);
}

void append(Counts& counts, std::int64_t bin, std::int64_t count) {
    counts.bins.push_back(bin);
    counts.counts.push_back(count);
}

void count_layer(std::size_t n, const double* x, double bins_per_unit, Scratch& scratch, Counts& counts) {
    std::int64_t low = kAboveAll, high = kBelowAll, below = 0, above = 0;
    scratch.bins.clear();
    for (std::size_t i = 0; i < n; ++i) {
        if (std::isnan(x[i])) continue;
        const std::int64_t bin = bin_of(x[i], bins_per_unit);
        below += bin == kBelowAll;
        above += bin == kAboveAll;
        if (bin == kBelowAll || bin == kAboveAll) continue;
        low = std::min(low, bin);
        high = std::max(high, bin);
        scratch.bins.push_back(bin);
    }
    if (below) append(counts, kBelowAll, below);
    if (!scratch.bins.empty() && high - low < kDenseBins) {
        scratch.dense.assign(static_cast<std::size_t>(high - low + 1), 0);
        for (const std::int64_t bin : scratch.bins) ++scratch.dense[static_cast<std::size_t>(bin - low)];
        for (std::size_t k = 0; k < scratch.dense.size(); ++k)
            if (scratch.dense[k]) append(counts, low + static_cast<std::int64_t>(k), scratch.dense[k]);
    } else {
        std::sort(scratch.bins.begin(), scratch.bins.end());
        for (std::size_t i = 0, end; i < scratch.bins.size(); i = end) {
            for (end = i; end < scratch.bins.size() && scratch.bins[end] == scratch.bins[i];) ++end;
            append(counts, scratch.bins[i], static_cast<std::int64_t>(end - i));
        }
    }
    if (above) append(counts, kAboveAll, above);
}

// Value of the order statistic `rank`; `seen` counts those in bins before `at`, both go on to its bin.
double ranked(const Counts& counts, double width, std::int64_t rank, std::size_t& at, std::int64_t& seen) {
    while (seen + counts.counts[at] <= rank) seen += counts.counts[at++];
    const std::int64_t bin = counts.bins[at];
    if (bin == kBelowAll) return kNegativeInfinity;
    if (bin == kAboveAll) return -kNegativeInfinity;
    return (static_cast<double>(bin) + 0.5) * width;
}

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
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t l = 0; l < here; ++l) scratch.values[l * rows + r] = raw.values[r * L + first + l];
        for (std::size_t l = 0; l < here; ++l) {
            const double* x = scratch.values.data() + l * rows;
            moments(rows, x, L, first + l, of_values);
            network_means(raw.networks, raw.samples, x, scratch.means.data());
            moments(raw.networks, scratch.means.data(), L, first + l, of_networks);
            if (width > 0) count_layer(rows, x, 1 / width, scratch, counts[first + l]);
        }
    });
}

Counts merged(const std::vector<const Counts*>& parts) {
    std::vector<std::pair<std::int64_t, std::int64_t>> all;
    for (const Counts* part : parts)
        for (std::size_t i = 0; i < part->bins.size(); ++i) all.emplace_back(part->bins[i], part->counts[i]);
    std::sort(all.begin(), all.end());
    Counts whole;
    for (const auto& [bin, count] : all) {
        if (!whole.bins.empty() && whole.bins.back() == bin)
            whole.counts.back() += count;
        else
            append(whole, bin, count);
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
