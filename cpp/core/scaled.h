// The range scheme: a sample's row is a mantissa row m and an exponent e, value m * 2^e. Exponents are integers kept in
// double: they are added to log2 norms, and -1e38 (the log2 of a derivative at z = -1e38) must fit.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace gt {

// A row whose largest magnitude leaves 2^[-kKeepBits, kKeepBits] is multiplied by a power of two.
constexpr int kKeepBits = 16;

template <class T>
struct Range;

// `norm_low`, `norm_high`: a sum of squares of T's outside may have lost terms to the format; it is then taken again in
// the slow, unlimited way. `delta_low`, `delta_high`: a row of deltas outside has lost units to an underflowing
// derivative, and is redone from log phi'. `log2_value_low`: a row of activations of a lower norm has lost units, and
// is redone from log phi. `weight_low`, `weight_high`: a matrix whose largest magnitude is outside is replaced by a
// copy times a power of two. `state_low`, `state_high`: log2 norms of a recurrent state beyond which its row carries an
// exponent, `input_low`, `input_high` of what the caller brings.
template <>
struct Range<float> {
    static constexpr double norm_low = 0x1p-80, norm_high = 0x1p+100;
    static constexpr double delta_low = 0x1p-60, delta_high = 0x1p+100;
    static constexpr double log2_value_low = -90;
    static constexpr double weight_low = 0x1p-20, weight_high = 0x1p+20;
    static constexpr double state_low = -60, state_high = 60, input_low = -40, input_high = 60;
};
template <>
struct Range<double> {
    static constexpr double norm_low = 0x1p-900, norm_high = 0x1p+900;
    static constexpr double delta_low = 0x1p-900, delta_high = 0x1p+900;
    static constexpr double log2_value_low = -900;
    static constexpr double weight_low = 0x1p-300, weight_high = 0x1p+300;
    static constexpr double state_low = -500, state_high = 500, input_low = -450, input_high = 500;
};

// floor(log2(x)) + 1 of a finite x > 0, so that x * 2^-exponent_of(x) is in [1/2, 1).
inline double exponent_of(double x) {
    int exponent = 0;
    std::frexp(x, &exponent);
    return exponent;
}

// 2^e in T, for any integer e in double; zero or infinity where T ends.
template <class T>
T power_of_two(double e) {
    if (e < -2000) return 0;
    if (e > 2000) return std::numeric_limits<T>::infinity();
    if (!(e >= -1022 && e <= 1023)) return static_cast<T>(std::ldexp(1.0, static_cast<int>(e)));
    const auto bits = static_cast<std::uint64_t>(static_cast<std::int64_t>(e) + 1023) << 52;
    double power = 0;  // without a call: this stands in loops over samples
    std::memcpy(&power, &bits, sizeof power);
    return static_cast<T>(power);
}

// An exponent for the caller is less than this in size.
constexpr double kEndOfInt64 = 9.2e18;
constexpr double kLog2OfE = 1.4426950408889634;

// x * 2^e in double, for any integer e in double.
inline double scale_by(double x, double e) {
    if (e < -4000) e = -4000;
    if (e > 4000) e = 4000;
    return std::ldexp(x, static_cast<int>(e));
}

constexpr double kNegativeInfinity = -std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// log2 of the norm of x[0], x[stride], ..., whose squares may leave their format, from the largest magnitude among
// them.
template <class T>
double log2_norm_by_largest(std::size_t count, std::size_t stride, const T* x, double largest) {
    if (!(largest > 0) || !std::isfinite(largest)) return largest == 0 ? kNegativeInfinity : largest;
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const double ratio = static_cast<double>(x[i * stride]) / largest;
        sum += ratio * ratio;
    }
    return 0.5 * std::log2(sum) + std::log2(largest);
}

// The same of x as it is, summed in float64; NaN where an entry is.
template <class T>
double log2_norm(std::size_t count, const T* x) {
    double squares = 0, largest = 0;
    for (std::size_t i = 0; i < count; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    if (squares > Range<double>::norm_low && squares < Range<double>::norm_high) return 0.5 * std::log2(squares);
    for (std::size_t i = 0; i < count; ++i) {
        const double size = std::fabs(static_cast<double>(x[i]));
        if (!(size <= largest)) largest = size;  // also when it is NaN
        if (std::isnan(largest)) return kNaN;
    }
    return log2_norm_by_largest(count, 1, x, largest);
}

constexpr double kWholeAnyway = 4e15;  // every double beyond is an integer

// The exponent at which rows of these sizes (log2 of their norms, -inf for a zero row) are added: a whole number.
inline double common_exponent(double top) {
    if (!(top > -std::numeric_limits<double>::max() && top < std::numeric_limits<double>::max())) return 0;
    return std::fabs(top) < kWholeAnyway ? static_cast<double>(static_cast<std::int64_t>(top)) + 1 : top;
}

}  // namespace gt
