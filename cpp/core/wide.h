// Numbers with an exponent of their own, for the few rows that leave their format: states behind shut gates, states
// that nothing drives any more. Entry by entry, since shut gates part the units of a row by thousands of bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/scaled.h"

namespace gt {

// m * 2^e with |m| in [1/2, 1) and e whole; m zero, infinite or NaN: e is 0.
struct Wide {
    double m = 0, e = 0;

    bool finite() const { return m - m == 0; }
};

inline Wide wide(double x, double e = 0) {
    constexpr std::uint64_t kField = 0x7ff;
    constexpr double kLeast = -1e300;  // a log2 of less is no double itself
    std::uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    const std::uint64_t field = bits >> 52 & kField;
    if (field == kField || x == 0) return {x, 0};
    if (!(e > kLeast)) return {0, 0};
    if (field == 0) {  // subnormal: only where they are kept
        int exponent = 0;
        const double m = std::frexp(x, &exponent);
        return {m, e + exponent};
    }
    bits = (bits & ~(kField << 52)) | std::uint64_t{1022} << 52;
    double m = 0;
    std::memcpy(&m, &bits, sizeof m);
    return {m, e + static_cast<double>(field) - 1022};
}

inline Wide operator-(Wide a) { return {-a.m, a.e}; }
inline Wide operator*(Wide a, Wide b) { return wide(a.m * b.m, a.e + b.e); }
inline Wide operator+(Wide a, Wide b) {
    if (!a.finite() || !b.finite()) return {a.m + b.m, 0};
    if (a.m == 0) return b;
    if (b.m == 0) return a;
    if (a.e < b.e) return b + a;
    return wide(a.m + b.m * power_of_two<double>(b.e - a.e), a.e);
}
inline Wide operator-(Wide a, Wide b) { return a + -b; }
inline Wide absolute(Wide a) { return {std::fabs(a.m), a.e}; }
inline bool operator<(Wide a, Wide b) { return (a - b).m < 0; }

// As a plain number: 0 or infinity where double ends.
inline double plain(Wide a) { return scale_by(a.m, a.e); }
inline double log2_of(Wide a) { return std::log2(std::fabs(a.m)) + a.e; }

// e^z for any z <= 0.
inline Wide wide_exp(double z) {
    // ln 2 in two parts, the first so short that its products with exponents up to 2^20 are exact (Cody and Waite
    // 1980).
    constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10, kExact = 0x1p20;
    const double k = std::round(z * kLog2OfE);
    if (std::fabs(k) < kExact) return wide(std::exp((z - k * kLn2High) - k * kLn2Low), k);
    const double bits = z * kLog2OfE, whole = std::floor(bits);  // z itself is rounded to no better
    if (std::isinf(bits)) return wide(0);
    return wide(std::exp2(bits - whole), whole);
}

// 1 / (1 + e^-z), exact to rounding however small.
inline Wide wide_sigmoid(double z) {
    constexpr double kOneRemains = -40;  // 1 + e^z rounds to 1 in double
    if (z >= 0) return wide(1 / (1 + std::exp(-z)));
    if (z < kOneRemains) return wide_exp(z);
    const double q = std::exp(z);
    return wide(q / (1 + q));
}

inline Wide wide_tanh(Wide z) {
    constexpr double kLinear = -30, kOne = 10;  // z^2 / 3 rounds away; 1 - tanh does
    if (z.m == 0 || z.e < kLinear) return z;
    if (z.e > kOne) return wide(z.m > 0 ? 1 : -1);
    return wide(std::tanh(plain(z)));
}

}  // namespace gt
