// Every activation: value and derivative side by side, the log of the derivative for where it underflows, and the list.
//
// To add one: a struct like those below, its name in the list at the end, and its line in tests/reference.py.
//
//   forward         phi(z) and phi'(z); NaN in, NaN out; at infinities the limits.
//   log_derivative  ln |phi'(z)|, also where phi' underflows, and the sign of phi'; float64.
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

template <class V>
GT_INLINE V nan_or(V z, V value) {  // value, but NaN where z is
    return select(z == z, value, z);
}

struct Linear {
    static constexpr ActivationInfo info{"linear", 1, NearZero::homogeneous, 1, 1, 0, 0, false};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = z;
        derivative = nan_or(z, constant<V>(1.0));
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) { return plain_log_derivative<Linear>(z, sign); }
};

struct Sigmoid {
    static constexpr ActivationInfo info{"sigmoid", 0.25, NearZero::offset, 0.25, 0.25, 0, 0, false};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = sigmoid(z, derivative);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        sign = constant<VecF64>(1.0);
        return -abs(z) - 2.0 * log1p(exp(-abs(z)));
    }
};

struct Tanh {
    static constexpr ActivationInfo info{"tanh", 1, NearZero::linear, 1, 1, -13, -28, false};
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
    static constexpr ActivationInfo info{"relu", 1, NearZero::homogeneous, 1, 0, 0, 0, true};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        a = max(V{}, z);
        derivative = nan_or(z, keep_if(z > Element<V>(0), constant<V>(1.0)));
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) { return plain_log_derivative<Relu>(z, sign); }
};

struct LeakyRelu {
    static constexpr double kSlope = 0.01;
    static constexpr ActivationInfo info{"leaky_relu", 1, NearZero::homogeneous, 1, kSlope, 0, 0, false};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        derivative = nan_or(z, select(z > Element<V>(0), constant<V>(1.0), constant<V>(kSlope)));
        a = derivative * z;
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) { return plain_log_derivative<LeakyRelu>(z, sign); }
};

// scale * (z > 0 ? z : alpha (e^z - 1)), the form of elu and selu.
template <class V>
GT_INLINE void exponential_linear(V z, double scale, double alpha, V& a, V& derivative) {
    const ExpPair<V> e = exp_nonpositive(min(V{}, z));
    const auto positive = z > Element<V>(0);
    const V negative_scale = constant<V>(scale * alpha);
    a = select(positive, z * constant<V>(scale), e.expm1 * negative_scale);
    derivative = select(positive, constant<V>(scale), e.exp * negative_scale);
}

struct Elu {
    static constexpr ActivationInfo info{"elu", 1, NearZero::linear, 1, 1, -25, -54, false};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        exponential_linear(z, 1, 1, a, derivative);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        sign = constant<VecF64>(1.0);
        return min(VecF64{}, z);
    }
};

// Klambauer et al. 2017.
struct Selu {
    static constexpr double kAlpha = 1.6732632423543772, kScale = 1.0507009873554805;
    static constexpr ActivationInfo info{"selu", kScale * kAlpha, NearZero::linear, kScale, kScale * kAlpha, -25, -54,
                                         false};
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

// ln(1 + e^z) = max(z, 0) + ln(1 + e^-|z|).
struct Softplus {
    static constexpr ActivationInfo info{"softplus", 1, NearZero::offset, 0.5, 0.5, 0, 0, false};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        const V q = exp_nonpositive(-abs(z)).exp;
        const V t = Element<V>(1) / (q + Element<V>(1));
        a = max(V{}, z) + log1p(q);
        derivative = select(z < Element<V>(0), q * t, t);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        sign = constant<VecF64>(1.0);
        return min(VecF64{}, z) - log1p(exp(-abs(z)));
    }
};

// z Phi(z), Phi the normal distribution (Hendrycks and Gimpel 2016, exact form). With phi the density and M(y) Mills'
// ratio, Phi(-y) = phi(y) M(y) and the derivative at -y is phi(y) (M(y) - y): no cancellation in the tail.
struct Gelu {
    static constexpr ActivationInfo info{"gelu", 1.1289041451851548, NearZero::linear, 0.5, 0.5, -26, -55, false};
    static constexpr double kInverseRoot2 = 0.70710678118654752, kDensity = 0.39894228040143268,
                            kRootHalfPi = 1.2533141373155003;
    template <class V>
    GT_INLINE static V mills(V y) {
        return erfcx(y * constant<V>(kInverseRoot2)) * constant<V>(kRootHalfPi);
    }
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        const V end = constant<V>(kIsFloat<V> ? 15.0 : 39.0);  // phi(end) rounds to 0
        const V y = min(end, abs(z)), near = constant<V>(kInverseRoot2);
        const V density = exp_minus_half_square(y) * constant<V>(kDensity);
        const V ratio = mills(max(near, y)), tail = density * ratio;
        const V series = erf_series(min(near, y) * constant<V>(kInverseRoot2)) * Element<V>(0.5);
        const V lower = select(y < near, Element<V>(0.5) - series, tail);                  // Phi(-y)
        const V upper = select(y < near, series + Element<V>(0.5), Element<V>(1) - tail);  // Phi(y)
        const auto negative = z < Element<V>(0);
        a = select(negative, -y * lower, z * upper);
        const V left = select(y < near, lower - y * density, density * (ratio - y));
        derivative = nan_or(z, select(negative, left, upper + y * density));
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        const VecF64 y = abs(z), bounded = min(constant<VecF64>(1e150), y);
        VecF64 value, derivative;
        forward(z, value, derivative);
        const VecF64 tail =
            bounded * bounded * -0.5 + log((bounded - mills(max(constant<VecF64>(1.0), bounded))) * kDensity);
        sign = select(derivative < 0.0, constant<VecF64>(-1.0), constant<VecF64>(1.0));
        sign = select(z < -1.0, constant<VecF64>(-1.0), sign);
        return select(z < -1.0, tail, log(abs(derivative)));
    }
};

// z sigmoid(z); derivative s (1 + z (1 - s)) with 1 - s = sigmoid(-z).
struct Silu {
    static constexpr ActivationInfo info{"silu", 1.0998393201288669, NearZero::linear, 0.5, 0.5, -26, -55, false};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        const V end = constant<V>(kIsFloat<V> ? 120.0 : 760.0);  // e^-end z rounds to 0
        const V bounded = clamp(-end, z, end);
        const ExpPair<V> q = exp_nonpositive(-abs(bounded));
        const V one = constant<V>(1.0), t = one / (q.exp + one);
        const auto negative = z < Element<V>(0);
        const V other = select(negative, t, q.exp * t);
        // s = head * power: near its underflow z * s is still normal.
        const V head = select(negative, q.head * t, t), power = select(negative, q.power, one);
        a = (select(negative, bounded, z) * head) * power;
        derivative = (head * (bounded * other + one)) * power;
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        const VecF64 q = exp(-abs(z)), t = 1.0 / (q + 1.0);
        const VecF64 log_s = min(VecF64{}, z) - log1p(q);
        const VecF64 rest = select(z < 0.0, z * t, select(q == 0.0, VecF64{}, z * (q * t))) + 1.0;
        sign = select(rest < 0.0, constant<VecF64>(-1.0), constant<VecF64>(1.0));
        return log_s + log(abs(rest));
    }
};

struct Erf {
    static constexpr double kSlope = 1.1283791670955126;  // 2 / sqrt(pi)
    static constexpr ActivationInfo info{"erf", kSlope, NearZero::linear, kSlope, kSlope, -13, -28, false};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        const V size = abs(z), half = constant<V>(0.5), end = constant<V>(kErfcEnd<V> + 0.3);
        const V y = min(end, size), square = y * y;
        const V gauss = exp(-square), exact = gauss - gauss * product_error(y, y, square);
        const V tail = Element<V>(1) - exact * erfcx(max(half, y));
        a = copy_sign(select(size < half, erf_series(size), tail), z);
        derivative = exact * constant<V>(kSlope);
    }
    GT_INLINE static VecF64 log_derivative(VecF64 z, VecF64& sign) {
        constexpr double kLogSlope = 0.1207822376352452;
        sign = constant<VecF64>(1.0);
        return kLogSlope - z * z;
    }
};

struct HardTanh {
    static constexpr ActivationInfo info{"hard_tanh", 1, NearZero::linear, 1, 1, -1, -1, true};
    template <class V>
    GT_INLINE static void forward(V z, V& a, V& derivative) {
        const V one = constant<V>(1.0);
        a = clamp(-one, z, one);
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
