// Quantiles over the samples of a figure, exactly.
#pragma once

#include <cstddef>
#include <vector>

namespace gt {

// out (rows, probabilities): of each row of values (rows, n), linear between the order statistics. NaN is left out, and
// all there is where a row has nothing else; -inf is the smallest value, between it and any other lies -inf.
void row_quantiles(std::size_t rows, std::size_t n, const double* values, const std::vector<double>& probabilities,
                   double* out);

}  // namespace gt
