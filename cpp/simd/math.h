// Elementary functions on Vec<T>, over the whole line: signed zeros, subnormals (where the CPU does not flush them),
// infinities, NaN. Branch-free. The coefficients are minimax, printed by tools/fit_polynomials.py.
//
// "Max error" is the largest found on any ISA, rounded up (GCC; 30 million arguments in float32 against libm in
// float64, 3 million in float64 against libquadmath), in units in the last place of the true value (ULP), where that is
// a normal number. A subnormal result is off by less than 2.5 of the smallest one.
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

// c0 + c1 x + c2 x^2 + ... by Estrin's rule: neighbours pair up to the coefficients of a polynomial in x^2, and so on.
// Short chains: for latency, and because a chain of n steps may err by n / 2 ULP where the highest term dominates.
template <class V, std::size_t N>
GT_INLINE V sum_of_powers(V x, const V (&coefficients)[N]) {
    if constexpr (N == 1) {
        return coefficients[0];
    } else {
        V pairs[(N + 1) / 2];
        for (std::size_t i = 0; i < N / 2; ++i) pairs[i] = coefficients[2 * i + 1] * x + coefficients[2 * i];
        if constexpr (N % 2 == 1) pairs[N / 2] = coefficients[N - 1];
        return sum_of_powers(x * x, pairs);
    }
}
template <class V, class... C>
GT_INLINE V polynomial(V x, C... coefficients) {
    const V each[] = {constant<V>(coefficients)...};
    return sum_of_powers(x, each);
}

// ---- exponentials ---------------------------------------------------------------------------------------------------

template <class V>
constexpr Element<V> kRound = kIsFloat<V> ? 0x1.8p23 : 0x1.8p52;
// ln 2 in two parts, the first so short that its products with exponents are exact (Cody and Waite 1980).
template <class V>
constexpr Element<V> kLn2High = kIsFloat<V> ? 0x1.62ep-1 : 0x1.62e42ffp-1;
template <class V>
constexpr Element<V> kLn2Low = kIsFloat<V> ? 3.1946184945309415e-05 : -4.2009150726810846e-11;
template <class V>
constexpr int kBits = kIsFloat<V> ? 23 : 52;
template <class V>
constexpr int kBias = kIsFloat<V> ? 127 : 1023;

// Beyond these e^x rounds to infinity and, times any x that the callers multiply it by, to 0.
template <class V>
constexpr Element<V> kExpHigh = kIsFloat<V> ? 89 : 710;
template <class V>
constexpr Element<V> kExpEnd = kIsFloat<V> ? 150 : 800;

// (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2.
template <class V>
GT_INLINE V exp_series(V r) {
    if constexpr (kIsFloat<V>)
        return polynomial(r, 0.5, 0.166666657, 0.0416663624, 0.00833338965, 0.00139406277, 0.000198458787);
    else
        return polynomial(r, 0.5, 0.16666666666666677, 0.041666666666666512, 0.0083333333333216915,
                          0.0013888888888962374, 0.00019841269885966103, 2.4801587172532393e-5, 2.7557244373986842e-6,
                          2.7557402646678442e-7, 2.5108978960202475e-8, 2.0875329145806604e-9);
}

// e^-u = (1 + rest) 2^k. The power comes as two normal factors, `raised` 2^(k + s) and `lowered` 2^-s, so that a
// product that takes them last, through times_power, rounds once where it becomes subnormal and meets no subnormal
// before.
template <class V>
struct Exponential {
    V rest, raised, lowered;

    GT_INLINE V head() const { return rest + Element<V>(1); }
    GT_INLINE V times_power(V v) const { return (v * raised) * lowered; }
    GT_INLINE V times(V v) const { return times_power(rest * v + v); }
    GT_INLINE V value() const { return times_power(head()); }
    GT_INLINE V minus_one() const {
        const V power = raised * lowered;
        return rest * power + (power - Element<V>(1));
    }
};

// u + u_low = -k ln 2 - r, where u_low is below a rounding of u; `shift` is s, `lowered` 2^-s.
template <class V>
GT_INLINE Exponential<V> exp_minus_shifted(V u, V u_low, V shift, V lowered) {
    // Adding 1.5 * 2^mantissa_bits rounds to an integer and leaves it in the low bits: with the bias and the shift
    // added as well, the exponent field of `raised`, ready for its place.
    const V magic = shift + Element<V>(kRound<V> + kBias<V>);
    const V rounded = magic - u * constant<V>(1.4426950408889634);
    const V k = rounded - magic;
    // r = high - low, where high is exact: r's own rounding counts only in the terms from r^2 on.
    const V high = -u - k * kLn2High<V>, low = k * kLn2Low<V> + u_low, r = high - low;
    return {(exp_series(r) * (r * r) - low) + high, from_bits(bits(rounded) << kBits<V>), lowered};
}

template <class V>
constexpr Element<V> kSmallestNormal = kIsFloat<V> ? 0x1p-126 : 0x1p-1022;

// e^-u for 0 <= u <= kExpEnd and NaN.
template <class V>
GT_INLINE Exponential<V> exp_minus(V u, V u_low = V{}) {
    return exp_minus_shifted(u, u_low, constant<V>(kBias<V> - 1), constant<V>(kSmallestNormal<V>));
}

// e^(-c x^2) for c = 1 or 1/2 and 0 <= x <= sqrt(kExpEnd / c): the rounding error of the square, put back.
template <class V>
GT_INLINE Exponential<V> gaussian(V x, Element<V> c) {
    const V square = x * x;
    return exp_minus(square * c, product_error(x, x, square) * c);
}

// e^x. Max error: float32 0.9, float64 0.9 ULP.
template <class V>
GT_INLINE V exp(V x) {
    const V u = min(constant<V>(kExpEnd<V>), max(constant<V>(-kExpHigh<V>), -x));
    const auto large = x > Element<V>(0);  // no one shift serves all results, from 2^-149 to 2^128
    const V shift = select(large, constant<V>(-64), constant<V>(kBias<V> - 1));
    const V lowered = select(large, constant<V>(0x1p64), constant<V>(kSmallestNormal<V>));
    return exp_minus_shifted(u, V{}, shift, lowered).value();
}

// e^x - 1. Max error: float32 1.7, float64 1.7 ULP.
template <class V>
GT_INLINE V expm1(V x) {
    const V one_remains = constant<V>(kIsFloat<V> ? 18 : 40);  // e^-u is below rounding
    const V u = min(one_remains, max(constant<V>(-kExpHigh<V>), -x));
    const auto e = exp_minus_shifted(u, V{}, constant<V>(-1), constant<V>(2));
    const V half = e.rest * e.raised + (e.raised - Element<V>(0.5));  // half: the largest results need 2^128
    const V tiny = constant<V>(kIsFloat<V> ? 0x1p-30 : 0x1p-60);  // x itself: halving it could leave the normal range
    return select(abs(x) < tiny, x, half + half);
}

// ---- logarithms -----------------------------------------------------------------------------------------------------

// x = (1 + f) 2^k with 1 + f in [sqrt(1/2), sqrt 2), for finite x > 0.
template <class V>
struct Split {
    V f, k;
};
template <class V>
GT_INLINE Split<V> split_exponent(V x) {
    const auto subnormal = x < kSmallestNormal<V>;
    const auto raw = bits(select(subnormal, x * constant<V>(kIsFloat<V> ? 0x1p25 : 0x1p54), x));
    // Less the bits of sqrt(1/2), the exponent field changes at sqrt(1/2) instead of at 1.
    auto k = (raw - bits(constant<V>(0.70710678118654752))) >> kBits<V>;
    const V m = from_bits(raw - (k << kBits<V>));
    k -= subnormal & (kIsFloat<V> ? 25 : 54);
    return {m - Element<V>(1), from_bits(k + bits(constant<V>(kRound<V>))) - kRound<V>};
}

// ln(1 + f) - f for 1 + f in [sqrt(1/2), sqrt 2). With s = f / (2 + f), ln(1 + f) = 2 atanh(s) = 2 s + s^3 R(s^2), and
// 2 s = f - s f: what s has lost to rounding counts only by the factor f.
template <class V>
GT_INLINE V log1p_rest(V f) {
    const V s = f / (f + Element<V>(2)), s2 = s * s, half_square = f * f * Element<V>(0.5);
    V series;
    if constexpr (kIsFloat<V>)
        series = polynomial(s2, 0.666667759, 0.399775416, 0.29871729);
    else
        series = polynomial(s2, 0.6666666666666734, 0.39999999999414682, 0.28571428742387356, 0.22222198573206375,
                            0.18183564325182031, 0.15314050572238014, 0.14795949530848024);
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

// large + small + rest for |large| >= |small| or large = 0, rounded about once (Dekker 1971).
template <class V>
GT_INLINE V add_three(V large, V small, V rest) {
    const V sum = large + small;
    return sum + (((large - sum) + small) + rest);
}

// ln x. Max error: float32 1.0, float64 0.9 ULP.
template <class V>
GT_INLINE V log(V x) {
    const auto part = split_exponent(x);
    return log_edges(x, add_three(part.k * kLn2High<V>, part.f, log1p_rest(part.f) + part.k * kLn2Low<V>));
}

// log2 x. Max error: float32 1.1, float64 1.0 ULP.
template <class V>
GT_INLINE V log2(V x) {
    const auto part = split_exponent(x);
    const V f = part.f, rest = log1p_rest(f);
    // 1 / ln 2 in two parts, the first 11 and 24 bits long, times f in two such parts: the leading product is exact.
    const V f_high = from_bits(bits(f) & ~((decltype(bits(f)[0] + 0))(kIsFloat<V> ? 0xfff : 0x7ffffff)));
    const V leading = constant<V>(kIsFloat<V> ? 0x1.714p+0 : 0x1.715476p+0);
    const V trailing = constant<V>(kIsFloat<V> ? 0.00031222838896340736 : 1.9259629911266175e-8);
    return log_edges(x, add_three(part.k, f_high * leading, ((f - f_high) + rest) * leading + (f + rest) * trailing));
}

// ln(1 + x). Max error: float32 0.9, float64 0.9 ULP.
template <class V>
GT_INLINE V log1p(V x) {
    const V one = constant<V>(1), u = x + one;
    const V lost = select(x < one, x - (u - one), one - (u - x));  // by rounding 1 + x; put back to first order
    const auto part = split_exponent(u);
    const V rest = log1p_rest(part.f) + (part.k * kLn2Low<V> + lost / u);
    return select(x == Element<V>(0), x, log_edges(u, add_three(part.k * kLn2High<V>, part.f, rest)));
}

// ---- sigmoids -------------------------------------------------------------------------------------------------------

// All rest on w = q / (1 + q) <= 1/2, q = e^-|x|: it is sigmoid(-|x|), exact to rounding however small, and 1 - w,
// which cannot cancel, is 1 / (1 + q). Where w itself is a result, a step of w = q (1 - w) leaves of the error that the
// sum and the division made only the part w / (1 - w).

// tanh x, and its derivative 1 / cosh^2 x. With q = e^(-2|x|), tanh |x| = (1 - q) (1 - w), where q - 1 comes from the
// exponential without cancellation, and the derivative is 4 w (1 - w).
// Value and derivative, max error: float32 2.3 and 3.4, float64 2.3 and 3.3 ULP.
template <class V>
GT_INLINE V tanh(V x, V& derivative) {
    const V size = abs(x);
    const auto q = exp_minus(min(constant<V>(kExpEnd<V>), size + size));
    const V power = q.raised * q.lowered, head = q.head();
    const V w_head = head / (head * power + Element<V>(1)), w = w_head * power;
    const V minus_one = q.minus_one();
    derivative = q.times_power((w_head * Element<V>(4)) * (Element<V>(1) - w));
    return copy_sign(minus_one - minus_one * w, x);
}

// 1 / (1 + e^-x), and its derivative w (1 - w).
// Value and derivative, max error: float32 1.9 and 3.0, float64 1.8 and 2.8 ULP.
template <class V>
GT_INLINE V sigmoid(V x, V& derivative) {
    const V q = exp_minus(min(constant<V>(kExpEnd<V>), abs(x))).value();
    const V w = q / (q + Element<V>(1)), lower = q - q * w, upper = Element<V>(1) - lower;
    derivative = lower * upper;
    return select(x < Element<V>(0), lower, upper);
}

// (ln(1 + q) - q + q^2 / 2) / q^3 for 0 <= q <= 1.
template <class V>
GT_INLINE V log1p_unit_series(V q) {
    if constexpr (kIsFloat<V>)
        return polynomial(q, 0.333330929, -0.249933288, 0.19926466, -0.162289068, 0.126807958, -0.0859357864,
                          0.044313252, -0.0146893067, 0.00227781781);
    else
        return polynomial(q, 0.33333333333327153, -0.24999999999314867, 0.19999999969319612, -0.16666665902875466,
                          0.14285702137446574, -0.12499866370103169, 0.11110041077761597, -0.099935364467913998,
                          0.090606801060162473, -0.082216904233213359, 0.073615642192432149, -0.063464327030427037,
                          0.050884554402300809, -0.036416779048301061, 0.022265082714824531, -0.011101451796375174,
                          0.0042780767138560103, -0.0011846329366432692, 0.00020848324114352879,
                          -1.7442707514665693e-5);
}

// sigmoid(x) and sigmoid(-x), both exact to rounding however small, and ln sigmoid(x). Max error: value and complement
// as sigmoid, the logarithm as softplus.
template <class V>
struct Gate {
    V x, q, value, complement;

    GT_INLINE V derivative() const { return value * complement; }
    GT_INLINE V log() const { return min(V{}, x) - ((log1p_unit_series(q) * q - Element<V>(0.5)) * (q * q) + q); }
};
template <class V>
GT_INLINE Gate<V> gate(V x) {
    const V q = exp_minus(min(constant<V>(kExpEnd<V>), abs(x))).value();
    const V w = q / (q + Element<V>(1)), lower = q - q * w, upper = Element<V>(1) - lower;
    const auto negative = x < Element<V>(0);
    return {x, q, select(negative, lower, upper), select(negative, upper, lower)};
}

// ln(1 + e^x) = max(x, 0) + ln(1 + q), and its derivative, the sigmoid. The logarithm is a polynomial, not log1p: its
// division would be a second one. Value and derivative, max error: float32 2.4 and 1.9, float64 2.5 and 1.8 ULP.
template <class V>
GT_INLINE V softplus(V x, V& derivative) {
    const V q = exp_minus(min(constant<V>(kExpEnd<V>), abs(x))).value();
    const V w = q / (q + Element<V>(1)), lower = q - q * w;
    derivative = select(x < Element<V>(0), lower, Element<V>(1) - lower);
    return max(V{}, x) + ((log1p_unit_series(q) * q - Element<V>(0.5)) * (q * q) + q);
}

// ---- the error function ---------------------------------------------------------------------------------------------

// From here on erfc rounds to 0.
template <class V>
constexpr Element<V> kErfcEnd = kIsFloat<V> ? 10.4 : 27.4;

// e^(y^2/2) Phi(-y) for 0 <= y <= 15.1 (float32) or 39.2, Phi the normal distribution: one rational with positive
// coefficients, so that nothing cancels. It falls as 1 / y beyond as well, to 7 digits.
template <class V>
GT_INLINE V normal_tail(V y) {
    if constexpr (kIsFloat<V>)
        return polynomial(y, 0.609000027, 0.535279751, 0.224247351, 0.0498516932, 0.00506736059) /
               polynomial(y, 1.21800005, 2.04238343, 1.46907473, 0.574632466, 0.124967039, 0.012701855);
    else
        return polynomial(y, 0.77700000000000002, 1.2868380609179664, 1.0564930735731284, 0.55560873709249792,
                          0.20534480741617811, 0.055477247821076034, 0.011081035832720361, 0.0016178315876467745,
                          0.00016587022728403438, 1.0860367895404944e-5, 3.4912629806589193e-7) /
               polynomial(y, 1.554, 3.8135887293235857, 4.3787897155253512, 3.1114960210393159, 1.5239272493814875,
                          0.54167632820432332, 0.14306169502756874, 0.028190062458550498, 0.0040825253067392755,
                          0.00041665013147493762, 2.7222905239562354e-5, 8.7512985014901963e-7);
}

constexpr double kErfNearZero = 0.85;  // where erfc falls under 1/4, so that the errors of its tail count little in erf

// erf x for |x| <= kErfNearZero: x + x R(x^2), times 8 so that the product, near x / 8, is not flushed before x is.
template <class V>
GT_INLINE V erf_near_zero(V x) {
    const V x2 = x * x;
    V series;
    if constexpr (kIsFloat<V>)
        series = polynomial(x2, 0.128379166, -0.376125723, 0.112827174, -0.0268025473, 0.00505109504, -0.000631512958);
    else
        series =
            polynomial(x2, 0.12837916709551256, -0.37612638903183315, 0.11283791670931305, -0.026866170640029712,
                       0.0052239775692565008, -0.00085483234034876689, 0.00012055187113745159, -1.4921859284462081e-5,
                       1.6398393453737248e-6, -1.5692384740660317e-7, 1.0662653736871331e-8);
    const V x8 = x * Element<V>(8);
    return (series * x8 + x8) * Element<V>(0.125);
}

// erfc x = 2 e^(-x^2) normal_tail(sqrt 2 x) for 0 <= x <= kErfcEnd, of which e^(-x^2) is given.
template <class V>
GT_INLINE V erfc_positive(V x, const Exponential<V>& gauss) {
    return gauss.times(normal_tail(x * constant<V>(1.4142135623730951)) * Element<V>(2));
}

// erf x, and its derivative 2 / sqrt(pi) e^(-x^2).
// Value and derivative, max error: float32 1.8 and 2.1, float64 1.7 and 1.4 ULP.
template <class V>
GT_INLINE V erf(V x, V& derivative) {
    const V size = abs(x), bounded = min(constant<V>(kErfcEnd<V>), size);
    const auto gauss = gaussian(bounded, 1);
    const V far = copy_sign(Element<V>(1) - erfc_positive(bounded, gauss), x);
    derivative = gauss.times(constant<V>(1.1283791670955126));
    return select(size < Element<V>(kErfNearZero), erf_near_zero(x), far);
}

// erfc x. Max error: float32 6.0, float64 6.2 ULP.
template <class V>
GT_INLINE V erfc(V x) {
    const V bounded = min(constant<V>(kErfcEnd<V>), abs(x));
    const V tail = erfc_positive(bounded, gaussian(bounded, 1));
    return select(x < Element<V>(0), Element<V>(2) - tail, tail);
}

// The values alone: the compiler drops what only the derivative needs.
template <class V>
GT_INLINE V tanh(V x) {
    V derivative;
    return tanh(x, derivative);
}
template <class V>
GT_INLINE V sigmoid(V x) {
    V derivative;
    return sigmoid(x, derivative);
}
template <class V>
GT_INLINE V erf(V x) {
    V derivative;
    return erf(x, derivative);
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
