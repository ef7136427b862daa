// Elementary functions on Vec<T>, over the whole line: signed zeros, subnormals (where the CPU does not flush them),
// infinities, NaN. Branch-free. Errors are the largest measured against mpmath by tests/test_math.py on every ISA, in
// units in the last place of the result (ULP); without FMA the reductions lose up to half a unit more.
#pragma once

#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

template <class V>
using Element = decltype(V{}[0] + V{}[0]);
template <class V>
constexpr bool kIsFloat = sizeof(Element<V>) == 4;

template <class V>
GT_INLINE V constant(double value) {
    return broadcast(static_cast<Element<V>>(value));
}

// c0 + c1 x + c2 x^2 + ... by Horner's rule.
template <class V>
GT_INLINE V polynomial(V, double c0) {
    return constant<V>(c0);
}
template <class V, class... C>
GT_INLINE V polynomial(V x, double c0, C... higher) {
    return polynomial(x, higher...) * x + static_cast<Element<V>>(c0);
}

template <class V>
GT_INLINE V clamp(V low, V x, V high) {  // NaN passes
    return min(high, max(low, x));
}

// 2^k for integers k with a normal power.
GT_INLINE VecF32 power_of_two(VecI32 k) { return from_bits((k + 127) << 23); }
GT_INLINE VecF64 power_of_two(VecI64 k) { return from_bits((k + 1023) << 52); }

// x = k ln 2 + r with |r| <= ln(2) / 2; ln 2 in two parts, the first so short that k times it is exact (Cody and
// Waite).
template <class V>
struct Reduced {
    V r;
    decltype(bits(V{})) k;
};
template <class V>
GT_INLINE Reduced<V> reduce_by_ln2(V x) {
    // Adding 1.5 * 2^mantissa_bits rounds to an integer and leaves it in the low bits.
    const V magic = constant<V>(kIsFloat<V> ? 0x1.8p23 : 0x1.8p52);
    const V shifted = x * constant<V>(1.4426950408889634) + magic;
    const V n = shifted - magic;
    const V r = x - n * constant<V>(kIsFloat<V> ? 0.693115234375 : 0x1.62e42ffp-1);
    return {r - n * constant<V>(kIsFloat<V> ? 3.1946184945309415e-05 : -4.2009150726810846e-11),
            bits(shifted) - bits(magic)};
}

// e^r - 1 for |r| <= ln(2) / 2: the Taylor series, remainder under 2^-27 and 2^-57 of r.
template <class V>
GT_INLINE V expm1_reduced(V r) {
    V series;
    if constexpr (kIsFloat<V>)
        series = polynomial(r, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040);
    else
        series = polynomial(r, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
                            1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800);
    return series * (r * r) + r;
}

// Far below where e^x rounds to 0, times any z too; above the second it rounds to infinity.
template <class V>
constexpr double kExpLow = kIsFloat<V> ? -150.0 : -800.0;
template <class V>
constexpr double kExpHigh = kIsFloat<V> ? 89.0 : 710.0;

// 2^k in two factors, so that subnormal results are right and 2^128 does not overflow too early.
template <class V>
struct TwoPowers {
    V first, second;
};
template <class V, class K>
GT_INLINE TwoPowers<V> split_power(K k) {
    const K half = k >> 1;
    return {power_of_two(half), power_of_two(k - half)};
}

// e^x. Max error: float32 0.86, float64 0.88 ULP.
template <class V>
GT_INLINE V exp(V x) {
    const auto reduced = reduce_by_ln2(clamp(constant<V>(kExpLow<V>), x, constant<V>(kExpHigh<V>)));
    const auto power = split_power<V>(reduced.k);
    return (expm1_reduced(reduced.r) + Element<V>(1)) * power.first * power.second;
}

// e^y and e^y - 1 for y <= 0, both to full relative accuracy. e^y = head * power: a product with a large factor that
// takes `power` last does not meet the subnormal in between.
template <class V>
struct ExpPair {
    V exp, expm1, head, power;
};
template <class V>
GT_INLINE ExpPair<V> exp_nonpositive(V y) {
    const auto reduced = reduce_by_ln2(max(constant<V>(kExpLow<V>), y));
    const auto power = split_power<V>(reduced.k);
    const V p = expm1_reduced(reduced.r), scale = power.first * power.second;
    const V head = (p + Element<V>(1)) * power.first;
    return {head * power.second, p * scale + (scale - Element<V>(1)), head, power.second};
}

// e^x - 1. Max error: float32 1.34, float64 1.78 ULP.
template <class V>
GT_INLINE V expm1(V x) {
    const V low = constant<V>(kIsFloat<V> ? -18.0 : -40.0);  // -1 to rounding below
    const auto reduced = reduce_by_ln2(clamp(low, x, constant<V>(kExpHigh<V>)));
    const V half_power = power_of_two(reduced.k - 1);  // half, so that the largest finite result is reached
    const V half = expm1_reduced(reduced.r) * half_power + (half_power - Element<V>(0.5));
    const V tiny = constant<V>(kIsFloat<V> ? 0x1p-30 : 0x1p-60);  // x itself: halving it could leave the normal range
    return select(abs(x) < tiny, x, half + half);
}

// x = m 2^k with m in [sqrt(1/2), sqrt 2), for finite x > 0.
template <class V>
struct Split {
    V m, k;
};
template <class V>
GT_INLINE Split<V> split_exponent(V x) {
    constexpr int kBits = kIsFloat<V> ? 23 : 52;
    const auto subnormal = x < constant<V>(kIsFloat<V> ? 0x1p-126 : 0x1p-1022);
    const auto raw = bits(select(subnormal, x * constant<V>(kIsFloat<V> ? 0x1p25 : 0x1p54), x));
    // Offsetting by the bits of sqrt(1/2) makes the exponent field change at sqrt(1/2) instead of at 1.
    const auto offset = bits(constant<V>(0.70710678118654752));
    auto k = (raw - offset) >> kBits;
    const V m = from_bits(raw - (k << kBits));
    k = k - (subnormal & (kIsFloat<V> ? 25 : 54));
    const V magic = constant<V>(kIsFloat<V> ? 0x1.8p23 : 0x1.8p52);
    return {m, from_bits(k + bits(magic)) - magic};
}

// ln(1 + f) - f for 1 + f in [sqrt(1/2), sqrt 2): with s = f / (2 + f), ln(1 + f) = 2 atanh(s), written around f so
// that the leading term is exact.
template <class V>
GT_INLINE V log1p_rest(V f) {
    const V s = f / (f + Element<V>(2)), s2 = s * s;
    V series;
    if constexpr (kIsFloat<V>)
        series = polynomial(s2, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11);
    else
        series = polynomial(s2, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19,
                            2.0 / 21, 2.0 / 23);
    const V half_square = f * f * Element<V>(0.5);
    return s * (series * s2 + half_square) - half_square;
}

// The values of a logarithm where the formula does not hold.
template <class V>
GT_INLINE V log_edges(V x, V value) {
    const V infinity = constant<V>(__builtin_inf()), nan = constant<V>(__builtin_nan(""));
    value = select(x == infinity, x, value);
    value = select(x == Element<V>(0), -infinity, value);
    return select(x >= Element<V>(0), value, nan);
}

// ln x. Max error: float32 0.73, float64 0.75 ULP.
template <class V>
GT_INLINE V log(V x) {
    const auto part = split_exponent(x);
    const V f = part.m - Element<V>(1);
    const V high = part.k * constant<V>(kIsFloat<V> ? 0.693115234375 : 0x1.62e42ffp-1);
    const V low = part.k * constant<V>(kIsFloat<V> ? 3.1946184945309415e-05 : -4.2009150726810846e-11);
    return log_edges(x, high + (f + (log1p_rest(f) + low)));
}

// log2 x. Max error: float32 1.01, float64 1.00 ULP.
template <class V>
GT_INLINE V log2(V x) {
    const auto part = split_exponent(x);
    const V f = part.m - Element<V>(1), rest = log1p_rest(f);
    // 1 / ln 2 in two parts, the first 12 and 27 bits short, times f in two such parts: the leading product is exact.
    const V f_high = from_bits(bits(f) & ~((decltype(bits(f)[0] + 0))(kIsFloat<V> ? 0xfff : 0x7ffffff)));
    const V leading = constant<V>(kIsFloat<V> ? 0x1.714p+0 : 0x1.715476p+0);
    const V trailing =
        constant<V>(kIsFloat<V> ? 1.4426950408889634 - 0x1.714p+0 : 1.4426950408889634074 - 0x1.715476p+0);
    const V correction = ((f - f_high) + rest) * leading + (f + rest) * trailing;
    return log_edges(x, (f_high * leading + part.k) + correction);
}

// ln(1 + x). Max error: float32 0.75, float64 0.65 ULP.
template <class V>
GT_INLINE V log1p(V x) {
    const V one = constant<V>(1.0), u = x + one;
    // What rounding 1 + x lost, put back to first order.
    const V lost = select(x < one, x - (u - one), one - (u - x));
    const auto part = split_exponent(u);
    const V f = part.m - one;
    const V high = part.k * constant<V>(kIsFloat<V> ? 0.693115234375 : 0x1.62e42ffp-1);
    const V low = part.k * constant<V>(kIsFloat<V> ? 3.1946184945309415e-05 : -4.2009150726810846e-11);
    const V value = high + (f + (log1p_rest(f) + (low + lost / u)));
    return select(x == Element<V>(0), x, log_edges(u, value));
}

// tanh x, and 1 - tanh^2 x = 1 / cosh^2 x without cancellation: with q = e^(-2|x|), tanh |x| = (1 - q) / (1 + q) and
// 1 / cosh^2 x = 4 q / (1 + q)^2. Max error: float32 2.43 and 3.85, float64 2.63 and 3.69 ULP.
template <class V>
GT_INLINE V tanh(V x, V& derivative) {
    const ExpPair<V> q = exp_nonpositive(abs(x) * Element<V>(-2));
    const V t = Element<V>(1) / (q.expm1 + Element<V>(2));
    derivative = (q.exp * t) * (t * Element<V>(4));
    return copy_sign(-q.expm1 * t, x);
}
template <class V>
GT_INLINE V tanh(V x) {
    V derivative;
    return tanh(x, derivative);
}

// 1 / (1 + e^-x), and its derivative sigmoid(x) sigmoid(-x): with q = e^-|x|, q / (1 + q)^2.
// Max error: float32 1.94 and 3.44, float64 1.84 and 3.48 ULP.
template <class V>
GT_INLINE V sigmoid(V x, V& derivative) {
    const V q = exp_nonpositive(-abs(x)).exp;
    const V t = Element<V>(1) / (q + Element<V>(1));
    derivative = (q * t) * t;
    return select(x < Element<V>(0), q * t, t);
}
template <class V>
GT_INLINE V sigmoid(V x) {
    V derivative;
    return sigmoid(x, derivative);
}

// e^(-x^2 / 2) for |x| <= 1e150 (float32: 1e18): the rounding error of the square is put back, it would cost x^2 / 2
// ULP. Measured as part of gelu.
template <class V>
GT_INLINE V exp_minus_half_square(V x) {
    const V square = x * x, lost = product_error(x, x, square);
    const V value = exp(square * Element<V>(-0.5));
    return value - value * (lost * Element<V>(0.5));
}

// erf x for |x| <= 1/2: the Maclaurin series in x^2.
template <class V>
GT_INLINE V erf_series(V x) {
    constexpr double kScale = 1.1283791670955125739;  // 2 / sqrt(pi)
    const V x2 = x * x;
    V series;
    if constexpr (kIsFloat<V>)
        series = polynomial(x2, -kScale / 3, kScale / 10, -kScale / 42, kScale / 216, -kScale / 1320, kScale / 9360);
    else
        series = polynomial(x2, -kScale / 3, kScale / 10, -kScale / 42, kScale / 216, -kScale / 1320, kScale / 9360,
                            -kScale / 75600, kScale / 685440, -kScale / 6894720, kScale / 76204800, -kScale / 918086400,
                            kScale / 11975040000);
    return x * (series * x2) + x * constant<V>(kScale);
}

// e^(x^2) erfc(x) for x >= 1/2: P(s) / (1 + 2 x), s = (x - 5) / (x + 4), P from tools/fit_erfcx.py (relative error
// 1.1e-8 and 7.4e-18); one division for both.
template <class V>
GT_INLINE V erfcx(V x) {
    const V a = x + Element<V>(4), b = x + x + Element<V>(1), inverse = Element<V>(1) / (a * b);
    const V s = (x - Element<V>(5)) * (b * inverse);
    V p;
    if constexpr (kIsFloat<V>)
        p = polynomial(s, 1.2177510033044931598, -0.11926270496271406385, 0.025080015448134297687,
                       0.023265742116174916477, -0.03723450198483564934, 0.032186719715866411621,
                       -0.020905403108336499352, 0.010896480666024103735, -0.0046117207949893446464,
                       0.0014383229868269224247, -0.00019947650764029804165, -0.000025318913011241229834);
    else
        p = polynomial(
            s, 1.2177510150637548901, -0.11926270752256947538, 0.025079168438502309401, 0.02326592675640511285,
            -0.03722459956505447644, 0.032184545604514028461, -0.020947833299388757912, 0.010905934848444929676,
            -0.0045292471426535987371, 0.0014194217240124866399, -0.00027394073685775358103, -7.208798630841172401e-6,
            0.000025872798768173218655, -7.4642705857975165414e-6, -3.824280084893226592e-7, 8.5241886940700113991e-7,
            -1.5012306146405054926e-7, -6.4942941642854400043e-8, 2.7898694634115086824e-8, 3.653933554669746811e-9,
            -3.4205564933696913805e-9, -1.1662134908866642128e-10, 2.5654319553081739454e-10);
    return p * (a * inverse);
}

// From here on erfc rounds to 0.
template <class V>
constexpr double kErfcEnd = kIsFloat<V> ? 10.1 : 27.3;

// erfc x for x >= 1/2, NaN passes.
template <class V>
GT_INLINE V erfc_tail(V x) {
    const V end = min(constant<V>(kErfcEnd<V>), x);
    const V square = end * end, lost = product_error(end, end, square);
    const V gauss = exp(-square);
    return (gauss - gauss * lost) * erfcx(end);
}

// erf x. Max error: float32 1.72, float64 1.55 ULP.
template <class V>
GT_INLINE V erf(V x) {
    const V size = abs(x), half = constant<V>(0.5);
    const V tail = Element<V>(1) - erfc_tail(max(half, size));
    return copy_sign(select(size < half, erf_series(size), tail), x);
}

// erfc x. Max error: float32 3.40, float64 2.98 ULP.
template <class V>
GT_INLINE V erfc(V x) {
    const V size = abs(x), half = constant<V>(0.5);
    const V tail = erfc_tail(max(half, size));
    const V far = select(x < Element<V>(0), Element<V>(2) - tail, tail);
    return select(size < half, Element<V>(1) - erf_series(x), far);
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
