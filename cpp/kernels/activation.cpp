// The pointwise half of a layer. Forward: bias, activation, derivative and every statistic of the layer in one pass
// over the product while it is in L1. Backward: delta = phi'(z) * da and the norms on both sides of it in one pass.
#include "kernels/activation.h"

#include "kernels/kernel_table.h"
#include "simd/map.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

// Rows summed in T before the sum moves to float64: few enough to cost no digits, enough to hide the conversion.
constexpr std::size_t kGroup = 16;

template <class T>
struct LayerSums {
    Vec<T> z{}, z_squared{}, a{}, a_squared{}, derivative{}, saturated{}, on{};

    GT_INLINE void add_to(ForwardSums& sums, std::size_t column, bool can_die) const {
        accumulate(sums.z + column, z);
        accumulate(sums.z_squared + column, z_squared);
        accumulate(sums.a + column, a);
        accumulate(sums.a_squared + column, a_squared);
        accumulate(sums.derivative + column, derivative);
        accumulate(sums.saturated + column, saturated);
        if (can_die) accumulate(sums.on + column, on);
    }
};

template <class T, class A, bool kScaled>
GT_INLINE Vec<T> preactivation(const ForwardTile<T>& t, std::size_t row, std::size_t column) {
    const Vec<T> product = load(t.z + row * t.ld + column);
    if (!kScaled) return t.bias ? product + broadcast(t.bias[row]) : product;
    const Vec<T> scaled = product * load(t.scale->scale + column);
    return t.bias ? scaled + broadcast(t.bias[row]) * load(t.scale->bias_scale + column) : scaled;
}

template <class T, class A, bool kScaled>
GT_INLINE void activate(const ForwardTile<T>& t, std::size_t column, Vec<T> z, Vec<T>& a, Vec<T>& derivative) {
    A::forward(z, a, derivative);
    if (kScaled && A::info.near_zero == NearZero::linear) {
        const auto linear = load(t.scale->linear + column) != T(0);
        const Vec<T> slope =
            select(z > T(0), broadcast(T(A::info.slope_positive)), broadcast(T(A::info.slope_negative)));
        a = select(linear, slope * z, a);
        derivative = select(linear, slope, derivative);
    }
}

// One vector of samples down all rows.
template <class T, class A, bool kScaled>
GT_INLINE void forward_column(const ForwardTile<T>& t, std::size_t column) {
    const Vec<T> one = broadcast(T(1));
    const Vec<T> threshold = broadcast(T(kSaturatedShare * A::info.derivative_sup));
    const auto valid = load(t.valid + column) != T(0);
    for (std::size_t group = 0; group < t.rows; group += kGroup) {
        const std::size_t end = group + kGroup < t.rows ? group + kGroup : t.rows;
        LayerSums<T> sums;
        for (std::size_t row = group; row < end; ++row) {
            const std::size_t at = row * t.ld + column;
            const Vec<T> z = preactivation<T, A, kScaled>(t, row, column);
            Vec<T> a, derivative;
            activate<T, A, kScaled>(t, column, z, a, derivative);
            store(t.z + at, z);
            store(t.a + at, a);
            store(t.derivative + at, derivative);
            const Vec<T> size = abs(derivative);
            sums.z += z;
            sums.z_squared += z * z;
            sums.a += a;
            sums.a_squared += a * a;
            sums.derivative += size;
            sums.saturated += keep_if(size < threshold, one);
            if (A::info.can_die) {
                const auto on = size != T(0);
                sums.on += keep_if(on, one);
                if (any(on & valid)) t.alive[row] = 1;
            }
        }
        sums.add_to(*t.add_sums, column, A::info.can_die);
    }
}

template <class T, class A>
void activation_forward(const ForwardTile<T>& t) {
    if (t.scale)
        for (std::size_t c = 0; c < t.columns; c += kLanes<T>) forward_column<T, A, true>(t, c);
    else
        for (std::size_t c = 0; c < t.columns; c += kLanes<T>) forward_column<T, A, false>(t, c);
}

template <class T>
void activation_backward(const BackwardTile<T>& t) {
    for (std::size_t column = 0; column < t.columns; column += kLanes<T>) {
        Vec<T> largest{};
        double da_squared[kLanes<T>] = {}, delta_squared[kLanes<T>] = {};
        for (std::size_t group = 0; group < t.rows; group += kGroup) {
            const std::size_t end = group + kGroup < t.rows ? group + kGroup : t.rows;
            Vec<T> da_group{}, delta_group{};
            for (std::size_t row = group; row < end; ++row) {
                const std::size_t at = row * t.ld + column;
                const Vec<T> da = load(t.da + at), delta = load(t.delta + at) * da;
                store(t.delta + at, delta);
                da_group += da * da;
                delta_group += delta * delta;
                largest = max(abs(delta), largest);
            }
            accumulate(da_squared, da_group);
            accumulate(delta_squared, delta_group);
        }
        store(t.delta_max + column, largest);
        for (std::size_t i = 0; i < kLanes<T>; ++i) {
            t.da_squared[column + i] = da_squared[i];
            t.delta_squared[column + i] = delta_squared[i];
        }
    }
}

template <class A>
void log_derivative(std::size_t count, const double* z, double* log_magnitude, double* sign) {
    for_each_vector(count, z, 0.0, [&](VecF64 v, std::size_t first) GT_INLINE_LAMBDA {
        VecF64 s;
        store_vector(count, log_magnitude, A::log_derivative(v, s), first);
        store_vector(count, sign, s, first);
    });
}

template <class T, class A>
void evaluate(std::size_t count, const T* z, T* a, T* derivative) {
    for_each_vector(count, z, T(0), [&](Vec<T> v, std::size_t first) GT_INLINE_LAMBDA {
        Vec<T> value, slope;
        A::forward(v, value, slope);
        store_vector(count, a, value, first);
        store_vector(count, derivative, slope, first);
    });
}

// The list of activations, expanded into one table per column.
template <class List>
struct Tables;
template <class... A>
struct Tables<ActivationList<A...>> {
    static constexpr std::size_t count = sizeof...(A);
    static constexpr ActivationInfo info[] = {A::info...};
    static constexpr void (*log_derivatives[])(std::size_t, const double*, double*, double*) = {log_derivative<A>...};
    template <class T>
    struct Of {
        static constexpr void (*forward[])(const ForwardTile<T>&) = {activation_forward<T, A>...};
        static constexpr void (*evaluates[])(std::size_t, const T*, T*, T*) = {evaluate<T, A>...};
    };
};
using All = Tables<Activations>;

}  // namespace

extern const ActivationKernels<float> activation_f32;
extern const ActivationKernels<double> activation_f64;
const ActivationKernels<float> activation_f32{All::info,
                                              All::count,
                                              All::Of<float>::forward,
                                              activation_backward<float>,
                                              All::log_derivatives,
                                              All::Of<float>::evaluates};
const ActivationKernels<double> activation_f64{All::info,
                                               All::count,
                                               All::Of<double>::forward,
                                               activation_backward<double>,
                                               All::log_derivatives,
                                               All::Of<double>::evaluates};

}  // namespace GT_ISA
}  // namespace gt
