// Rows with a power of two each: value = mantissa row * 2^exponent. Norms are log2, -inf for a zero row only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/scaled.h"
#include "kernels/kernel_table.h"

namespace gt {

// Scaled rows for the caller: mantissa (rows, n) with largest magnitude in [1/2, 1), exponent (rows,). Those that an op
// takes further have `any_exponent` (rows,) instead, whole numbers beyond int64 too.
template <class T>
struct KeptRows {
    T* mantissa = nullptr;
    std::int64_t* exponent = nullptr;
    double* any_exponent = nullptr;

    explicit operator bool() const { return mantissa != nullptr; }
};

// Whether a norm, taken as the root of a sum of squares in T, can be trusted.
template <class T>
bool norm_is_safe(double log2_norm) {
    constexpr double kLow = sizeof(T) == 4 ? -40 : -450, kHigh = sizeof(T) == 4 ? 50 : 450;  // as Range<T>::norm_low
    return log2_norm >= kLow && log2_norm <= kHigh;
}

// log2_norm[r] of the rows of x as they are, their exponents apart.
template <class T>
void log2_row_norms(const KernelTable<T>& kernels, std::size_t rows, std::size_t n, const T* x, std::size_t ld,
                    double* log2_norm) {
    kernels.rows->squares(rows, n, x, ld, log2_norm);
    kernels.reduce->log2_norms(rows, log2_norm, log2_norm);
    for (std::size_t r = 0; r < rows; ++r) {
        if (norm_is_safe<T>(log2_norm[r]) || std::isnan(log2_norm[r])) continue;
        T largest = 0;
        kernels.rows->largest(1, n, x + r * ld, ld, &largest);
        log2_norm[r] = log2_norm_by_largest(n, 1, x + r * ld, static_cast<double>(largest));
    }
}

// to = from * 2^-(exponent of its largest magnitude), which is added to `exponent` and returned; a zero row returns 0,
// one with infinities or NaN is left as it is. Subnormals count only while they are not flushed.
template <class T>
double normalise_row(std::size_t n, const T* from, double exponent, T* to) {
    double largest = 0;
    bool finite = true;
    for (std::size_t i = 0; i < n; ++i) {
        const double size = std::fabs(static_cast<double>(from[i]));
        largest = std::max(largest, size);
        finite &= size <= std::numeric_limits<double>::max();
    }
    const double shift = finite && largest > 0 ? exponent_of(largest) : 0;
    // In two factors: one alone could leave double.
    const double half = std::trunc(-shift / 2), first = power_of_two<double>(half),
                 second = power_of_two<double>(-shift - half);
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<T>(static_cast<double>(from[i]) * first * second);
    return finite && largest > 0 ? exponent + shift : 0;
}

// One row for the caller; false where its exponent is beyond int64.
template <class T>
bool keep_row(std::size_t n, const T* from, double exponent, T* mantissa, std::int64_t* to_exponent) {
    const double kept = normalise_row(n, from, exponent, mantissa);
    const bool fits = std::fabs(kept) < kEndOfInt64;
    *to_exponent = fits ? static_cast<std::int64_t>(kept) : 0;
    return fits;
}

// A sum `value * 2^exponent` as one row; false likewise.
template <class Sum, class T>
bool keep_sum(const Sum& sum, const KeptRows<T>& to) {
    const std::vector<T> plain(sum.value.data(), sum.value.data() + sum.value.size());
    return keep_row(plain.size(), plain.data(), sum.exponent, to.mantissa, to.exponent);
}

}  // namespace gt
