// Every activation: value and derivative side by side, the log of the derivative for where it underflows, and the list.
//
// To add one: a struct like those below, its name in the list at the end, and its line in tests/reference.py.
//
//   forward         phi(z) and phi'(z); NaN in, NaN out; at infinities the limits.
//   log_derivative  ln |phi'(z)|, also where phi' underflows, and the sign of phi'; float64.
//   log_value       the same of phi, for those that fade to 0 at -infinity.
//
// One with a parameter holds it, and has `described`: its info for that parameter; then nothing of it is static.
//
// Kinks as PyTorch has them: relu'(0) = 0, hard_tanh'(+-1) = 0, at 0 leaky_relu, elu and selu take the negative branch.
#pragma once

#include "core/activation_info.h"
#include "simd/math.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

// For piecewise linear activations the derivative never underflows; its log is taken as it is.
template <class A>
GT_INLINE VecF64 plain_log_derivative(VecF64 z, VecF64& sign) {
    VecF64 value, derivative;
    A::forward(z, value, derivative);
    sign = keep_if(derivative != 0.0, constant<VecF64>(1.0));
    return log(abs(derivative));
}

// The activation with its parameter, if it has one, and what an op must know of that.
template <class A>
GT_INLINE A made(double parameter) {
    if constexpr (A::info.parameter != nullptr) return A{parameter};
    return A{};
}
template <class A>
GT_INLINE ActivationInfo described(const A& phi) {
    if constexpr (A::info.parameter != nullptr) return phi.described();
    return A::info;
}

template <class V>
GT_INLINE V nan_or(V z, V value) {  // value, but NaN where z is
    return select(z == z, value, z);
}

// Of phi with slope 1 above 0 and this one just below, which is its largest there.
GT_INLINE ActivationInfo with_lower_slope(ActivationInfo info, double slope) {
    const double size = slope < 0 ? -slope : slope;
    info.derivative_sup = size > 1 ? size : 1;
    info.slopes.below = slope;
    return info;
}

struct Linear {
    static constexpr ActivationInfo info{
        .name = "linear", .derivative_sup = 1, .near_zero = NearZero::homogeneous, .slopes = {1, 1}};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = z;
        derivative = nan_or(z, constant<V>(1.0));
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) { return plain_log_derivative<Linear>(z, sign); }
};

struct Sigmoid {
    static constexpr ActivationInfo info{.name = "sigmoid",
                                         .derivative_sup = 0.25,
                                         .near_zero = NearZero::offset,
                                         .slopes = {0.25, 0.25},
                                         .linear_below_log2 = {-26, -55},
                                         .fades = true};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = sigmoid(z, derivative);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        sign = constant<VecF64>(1.0);
        return -abs(z) - 2.0 * log1p(exp(-abs(z)));
    }
    GT_INLINE static VecF64 log_value(VecF64 z, VecF64& sign) {
        sign = constant<VecF64>(1.0);
        return min(VecF64{}, z) - log1p(exp(-abs(z)));
    }
};

struct Tanh {
    static constexpr ActivationInfo info{.name = "tanh",
                                         .derivative_sup = 1,
                                         .near_zero = NearZero::linear,
                                         .slopes = {1, 1},
                                         .linear_below_log2 = {-13, -28}};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = tanh(z, derivative);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        constexpr double kLog4 = 1.3862943611198906;
        sign = constant<VecF64>(1.0);
        return (kLog4 - 2.0 * abs(z)) - 2.0 * log1p(exp(-2.0 * abs(z)));
    }
};

struct Relu {
    static constexpr ActivationInfo info{
        .name = "relu", .derivative_sup = 1, .near_zero = NearZero::homogeneous, .slopes = {1, 0}, .can_die = true};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = max(V{}, z);
        derivative = nan_or(z, keep_if(z > Element<V>(0), constant<V>(1.0)));
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) { return plain_log_derivative<Relu>(z, sign); }
};

// A slope of 0 is relu, and comes as that.
struct LeakyRelu {
    static constexpr ActivationInfo info{.name = "leaky_relu",
                                         .derivative_sup = 1,
                                         .near_zero = NearZero::homogeneous,
                                         .slopes = {1, 0.01},
                                         .parameter = "slope",
                                         .usual = 0.01};
    double slope;
    ActivationInfo described() const { return with_lower_slope(info, slope); }
    template <class V>
    GT_INLINE void forward(V z, V& a, V& derivative) const {
        derivative = nan_or(z, select(z > Element<V>(0), constant<V>(1.0), constant<V>(slope)));
        a = derivative * z;
    }
    GT_INLINE VecF64 log_derivative(VecF64 z, VecF64& sign) const {
        VecF64 value, derivative;
        forward(z, value, derivative);
        sign = copy_sign(constant<VecF64>(1.0), derivative);
        return log(abs(derivative));
    }
};

// scale * (z > 0 ? z : alpha (e^z - 1)), the form of elu and selu.
template <class V>
GT_INLINE void exponential_linear(V z, double scale, double alpha, V& a, V& derivative) {
    const auto e = exp_minus(min(constant<V>(kExpEnd<V>), max(V{}, -z)));
    const auto positive = z > Element<V>(0);
    const V negative_scale = constant<V>(scale * alpha);
    a = select(positive, z * constant<V>(scale), e.minus_one() * negative_scale);
    derivative = select(positive, constant<V>(scale), e.times(negative_scale));
}

// Clevert et al. 2016. An alpha of 0 is relu, and comes as that.
struct Elu {
    static constexpr ActivationInfo info{.name = "elu",
                                         .derivative_sup = 1,
                                         .near_zero = NearZero::linear,
                                         .slopes = {1, 1},
                                         .linear_below_log2 = {-25, -54},
                                         .parameter = "alpha",
                                         .usual = 1};
    double alpha;
    ActivationInfo described() const { return with_lower_slope(info, alpha); }
    template <class V>
    GT_INLINE void forward(V z, V& a, V& derivative) const {
        exponential_linear(z, 1, alpha, a, derivative);
    }
    GT_INLINE VecF64 log_derivative(VecF64 z, VecF64& sign) const {
        const auto positive = z > 0.0;
        sign = select(positive, constant<VecF64>(1.0), copy_sign(constant<VecF64>(1.0), constant<VecF64>(alpha)));
        return select(positive, VecF64{}, z + log(abs(constant<VecF64>(alpha))));
    }
};

// Klambauer et al. 2017.
struct Selu {
    static constexpr double kAlpha = 1.6732632423543772, kScale = 1.0507009873554805;
    static constexpr ActivationInfo info{.name = "selu",
                                         .derivative_sup = kScale * kAlpha,
                                         .near_zero = NearZero::linear,
                                         .slopes = {kScale, kScale * kAlpha},
                                         .linear_below_log2 = {-25, -54}};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        exponential_linear(z, kScale, kAlpha, a, derivative);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        constexpr double kLogScale = 0.049457548424229086, kLogScaleAlpha = 0.5642333055432538;
        sign = constant<VecF64>(1.0);
        return select(z > 0.0, constant<VecF64>(kLogScale), z + kLogScaleAlpha);
    }
};

struct Softplus {
    static constexpr ActivationInfo info{.name = "softplus",
                                         .derivative_sup = 1,
                                         .near_zero = NearZero::offset,
                                         .slopes = {0.5, 0.5},
                                         .linear_below_log2 = {-26, -55},
                                         .fades = true};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = softplus(z, derivative);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        sign = constant<VecF64>(1.0);
        return min(VecF64{}, z) - log1p(exp(-abs(z)));
    }
    // ln ln(1 + q) with q = e^z is z - q/2 to rounding where q^2 is none beside 1.
    GT_INLINE static VecF64 log_value(VecF64 z, VecF64& sign) {
        sign = constant<VecF64>(1.0);
        VecF64 value, derivative;
        forward(max(constant<VecF64>(-30.0), z), value, derivative);
        return select(z < -20.0, z - 0.5 * exp(min(VecF64{}, z)), log(value));
    }
};

// z Phi(z), Phi the normal distribution (Hendrycks and Gimpel 2016, exact form). With y = |z|, phi the density and
// Phi(-y) = phi(y) M(y), M Mills' ratio, the value is max(z, 0) - y Phi(-y), the derivative at -y phi(y) (M(y) - y), at
// y one minus that: no cancellation in the tails. Max error of value and derivative (outside 1/2 around its zero):
// float32 5.9 and 6.2, float64 5.5 and 6.2 ULP.
struct Gelu {
    static constexpr ActivationInfo info{.name = "gelu",
                                         .derivative_sup = 1.1289041451851548,
                                         .near_zero = NearZero::linear,
                                         .slopes = {0.5, 0.5},
                                         .linear_below_log2 = {-26, -55},
                                         .fades = true};
    static constexpr double kDensity = 0.39894228040143268, kRootTwoPi = 2.5066282746310002;
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        const V y = min(constant<V>(kIsFloat<V> ? 15.0 : 39.0), abs(z));  // phi(end) rounds to 0
        const auto gauss = gaussian(y, Element<V>(0.5));
        const V tail = normal_tail(y);
        a = max(V{}, z) - gauss.times(tail * y);
        const V left = gauss.times(tail - y * constant<V>(kDensity));
        derivative = select(z < Element<V>(0), left, Element<V>(1) - left);
    }
    // ln phi(y) + ln |M(y) - y| left of -1, where the derivative is negative.
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        const VecF64 y = abs(z);
        const VecF64 mills = normal_tail(min(constant<VecF64>(1e8), y)) * kRootTwoPi;  // beyond, y - M = y
        const auto left = z < -1.0;
        const VecF64 difference = min(constant<VecF64>(1e300), max(constant<VecF64>(1.0), y)) - mills;
        VecF64 value, derivative;
        forward(z, value, derivative);
        sign = select((derivative < 0.0) | left, constant<VecF64>(-1.0), constant<VecF64>(1.0));
        return select(left, y * y * -0.5, VecF64{}) + log(select(left, difference * kDensity, abs(derivative)));
    }
    // ln phi(y) + ln(y M(y)) left of -1.
    GT_INLINE static VecF64 log_value(VecF64 z, VecF64& sign) {
        const VecF64 y = abs(z), bounded = min(constant<VecF64>(1e8), y);  // beyond, y M = 1
        const auto left = z < -1.0;
        VecF64 value, derivative;
        forward(z, value, derivative);
        sign = copy_sign(constant<VecF64>(1.0), z);
        return select(left, y * y * -0.5, VecF64{}) + log(select(left, bounded * normal_tail(bounded), abs(value)));
    }
};

// z sigmoid(z) = max(z, 0) - y sigmoid(-y) with y = |z|; the derivative at -y is sigmoid(-y) (1 - y sigmoid(y)), at y
// one minus that. Near the underflow of sigmoid(-y) its product with y is still normal: the power of two goes last.
struct Silu {
    static constexpr ActivationInfo info{.name = "silu",
                                         .derivative_sup = 1.0998393201288669,
                                         .near_zero = NearZero::linear,
                                         .slopes = {0.5, 0.5},
                                         .linear_below_log2 = {-26, -55},
                                         .fades = true};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        const V y = min(constant<V>(kExpEnd<V>), abs(z));
        const auto q = exp_minus(y);
        const V head = q.head(), value = q.times_power(head), w = value / (value + Element<V>(1));
        const V lower = head - head * w, upper = Element<V>(1) - w;
        a = max(V{}, z) - q.times_power(y * lower);
        const V left = q.times_power(lower * (Element<V>(1) - y * upper));
        derivative = select(z < Element<V>(0), left, Element<V>(1) - left);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        const VecF64 y = abs(z), q = exp(-y), bounded = min(constant<VecF64>(1e300), y), upper = 1.0 / (q + 1.0);
        const VecF64 rest = select(z < 0.0, 1.0 - bounded * upper, 1.0 + bounded * (q * upper));
        sign = select(rest < 0.0, constant<VecF64>(-1.0), constant<VecF64>(1.0));
        return min(VecF64{}, z) - log1p(q) + log(abs(rest));
    }
    GT_INLINE static VecF64 log_value(VecF64 z, VecF64& sign) {
        sign = copy_sign(constant<VecF64>(1.0), z);
        return min(VecF64{}, z) - log1p(exp(-abs(z))) + log(abs(z));
    }
};

struct Erf {
    static constexpr double kSlope = 1.1283791670955126;  // 2 / sqrt(pi)
    static constexpr ActivationInfo info{.name = "erf",
                                         .derivative_sup = kSlope,
                                         .near_zero = NearZero::linear,
                                         .slopes = {kSlope, kSlope},
                                         .linear_below_log2 = {-13, -28}};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = erf(z, derivative);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        constexpr double kLogSlope = 0.1207822376352452;
        sign = constant<VecF64>(1.0);
        return kLogSlope - z * z;
    }
};

struct HardTanh {
    static constexpr ActivationInfo info{.name = "hard_tanh",
                                         .derivative_sup = 1,
                                         .near_zero = NearZero::linear,
                                         .slopes = {1, 1},
                                         .linear_below_log2 = {-1, -1},
                                         .can_die = true};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        const V one = constant<V>(1.0);
        a = min(one, max(-one, z));
        derivative = nan_or(z, keep_if(abs(z) < one, one));
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) { return plain_log_derivative<HardTanh>(z, sign); }
};

template <class... A>
struct ActivationList {};
using Activations =
    ActivationList<Linear, Sigmoid, Tanh, Relu, LeakyRelu, Elu, Selu, Softplus, Gelu, Silu, Erf, HardTanh>;

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
