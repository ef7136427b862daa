// Rows of numbers with exponents of their own, and rows in T that share one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "core/wide.h"

namespace gt {

// The exponent of the largest entry; -inf for a zero row.
inline double top_exponent(std::size_t n, const Wide* x) {
    double top = kNegativeInfinity;
    for (std::size_t i = 0; i < n; ++i)
        if (x[i].m != 0) top = std::max(top, x[i].e);
    return top;
}

// to * 2^(returned) = x, largest magnitude of `to` in [1/2, 1).
template <class T>
double to_row(std::size_t n, const Wide* x, T* to) {
    const double top = top_exponent(n, x), exponent = std::isfinite(top) ? top : 0;
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<T>(plain({x[i].m, x[i].e - exponent}));
    return exponent;
}

// row * 2^exponent
template <class T>
struct ScaledRow {
    const T* row;
    double exponent;

    Wide operator[](std::size_t i) const { return wide(static_cast<double>(row[i]), exponent); }
};

// to * 2^(returned) = the sum of the rows.
template <class T>
double sum_of_rows(std::size_t n, const std::vector<ScaledRow<T>>& rows, T* to) {
    std::vector<Wide> sum(n);
    for (const ScaledRow<T>& row : rows)
        for (std::size_t i = 0; i < n; ++i) sum[i] = sum[i] + row[i];
    return to_row(n, sum.data(), to);
}

}  // namespace gt
