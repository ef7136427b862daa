// What is left of the figures of many networks: moments, and integer counts in fixed bins, both a layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gt {

// Raw figures: networks x samples x layers, layers contiguous.
struct RawFigures {
    std::size_t networks, samples, layers;
    const double* values;
};

// Moments of each layer, rows of `layers`: count, mean and sum of squared deviations of the finite values, and how many
// are -inf.
inline constexpr std::size_t kMomentRows = 4;

// Values of a layer by bins [(k - 1/2) w, (k + 1/2) w), rising, without those that are empty. What is infinite has the
// first or last integer of all; NaN is left out.
struct Counts {
    std::vector<std::int64_t> bins, counts;
};
inline constexpr std::int64_t kBelowAll = INT64_MIN, kAboveAll = INT64_MAX;

// of_values: over networks x samples; of_networks: over the networks' means of their finite values, -inf where a
// network has none but -inf; (kMomentRows, layers) each. counts: one a layer, left alone where the width is 0. The same
// bits for every number of threads.
void distribution(const RawFigures& raw, double width, double* of_values, double* of_networks,
                  std::vector<Counts>& counts);

// out (networks, samples, starts): (value at the start - value at the last entry) / entries between, of the entries
// from `first` on; starts count from there. NaN where there is nothing between.
void course_gains(const RawFigures& raw, std::size_t first, const std::vector<std::size_t>& starts, double* out);

// out (probabilities, layers): quantiles over networks x samples, linear between the order statistics. NaN is left out;
// -inf is the smallest value, between it and any other lies -inf.
void value_quantiles(const RawFigures& raw, const std::vector<double>& probabilities, double* out);

Counts merged(const Counts& one, const Counts& other);

// out: for each probability the value between the order statistics, a value lying in the middle of its bin; NaN where
// nothing was counted.
void count_quantiles(const Counts& counts, double width, const std::vector<double>& probabilities, double* out);

}  // namespace gt
