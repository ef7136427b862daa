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

// What a vector of the layer became, and its terms in the sums.
template <class T>
struct Activated {
    Vec<T> z, a, derivative, size;
};

template <class T>
struct LayerSums {
    Vec<T> z{}, z_squared{}, a{}, a_squared{}, derivative{}, saturated{}, on{};

    // `at` takes out what lies beyond the layer's units.
    template <class A, class At>
    GT_INLINE void add(const A& phi, const Activated<T>& v, At at) {
        const Vec<T> one = broadcast(T(1)), threshold = broadcast(T(kSaturatedShare * described(phi).derivative_sup));
        z += at.keep(v.z);
        z_squared += at.keep(v.z * v.z);
        a += at.keep(v.a);
        a_squared += at.keep(v.a * v.a);
        derivative += at.keep(v.size);
        saturated += at.keep(keep_if(v.size < threshold, one));
        if (A::info.can_die) on += at.keep(keep_if(v.size != T(0), one));
    }
    template <class A, class Put>
    GT_INLINE void put(ForwardSums& sums, Put&& put) const {
        put(sums.z, z);
        put(sums.z_squared, z_squared);
        put(sums.a, a);
        put(sums.a_squared, a_squared);
        put(sums.derivative, derivative);
        put(sums.saturated, saturated);
        if (A::info.can_die) put(sums.on, on);
    }
};

// The scale of a vector's samples: see PreactivationScale.
template <class T>
struct VectorScale {
    Vec<T> scale, bias_scale;
    decltype(Vec<T>{} != Vec<T>{}) linear;
};

template <class T, class A, bool kScaled>
GT_INLINE Activated<T> activate(const A& phi, Vec<T> product, Vec<T> bias, const VectorScale<T>& s) {
    Activated<T> v;
    v.z = kScaled ? product * s.scale + bias * s.bias_scale : product + bias;
    phi.forward(v.z, v.a, v.derivative);
    if (kScaled && A::info.near_zero != NearZero::homogeneous) {
        const ActivationInfo info = described(phi);
        const Vec<T> slope = select(v.z > T(0), broadcast(T(info.slopes.above)), broadcast(T(info.slopes.below)));
        Vec<T> near = slope * v.z, unused;
        if (A::info.near_zero == NearZero::offset) phi.forward(Vec<T>{}, near, unused);  // z may be a mantissa
        v.a = select(s.linear, near, v.a);
        v.derivative = select(s.linear, slope, v.derivative);
    }
    v.size = abs(v.derivative);
    return v;
}

// Which samples the unit would be on for without its bias.
template <class T, class A>
GT_INLINE auto on_without_bias(const A& phi, Vec<T> product) {
    Vec<T> value, derivative;
    phi.forward(product, value, derivative);
    return derivative != T(0);
}

// Many samples: one vector of them down all rows.
template <class T, class A, bool kScaled>
GT_INLINE void forward_samples(const ForwardTile<T>& t, std::size_t column) {
    const A phi = made<A>(t.parameter);
    VectorScale<T> scale{};
    if (kScaled)
        scale = {load(t.scale->scale + column), load(t.scale->bias_scale + column),
                 load(t.scale->linear + column) != T(0)};
    const auto valid = load(t.valid + column) != T(0);
    for (std::size_t group = 0; group < t.rows; group += kGroup) {
        const std::size_t end = group + kGroup < t.rows ? group + kGroup : t.rows;
        LayerSums<T> sums;
        for (std::size_t row = group; row < end; ++row) {
            const std::size_t at = row * t.ld + column;
            const Vec<T> bias = t.bias ? broadcast(t.bias[row]) : Vec<T>{}, product = load(t.z + at);
            const Activated<T> v = activate<T, A, kScaled>(phi, product, bias, scale);
            store(t.z + at, v.z);
            store(t.a + at, v.a);
            store(t.derivative + at, v.derivative);
            sums.template add<A>(phi, v, WholeVector{});
            if (!A::info.can_die) continue;
            if (any((v.size != T(0)) & valid)) t.alive[row] |= kOn;
            if (t.bias && any(on_without_bias<T, A>(phi, kScaled ? product * scale.scale : product) & valid))
                t.alive[row] |= kOnWithoutBias;
        }
        sums.template put<A>(*t.add_sums,
                             [&](double* to, Vec<T> sum) GT_INLINE_LAMBDA { accumulate(to + column, sum); });
    }
}

// One sample: its units are what lies side by side.
template <class T, class A, bool kScaled>
GT_INLINE void forward_units(const ForwardTile<T>& t) {
    const A phi = made<A>(t.parameter);
    VectorScale<T> scale{};
    if (kScaled)
        scale = {broadcast(t.scale->scale[0]), broadcast(t.scale->bias_scale[0]),
                 broadcast(t.scale->linear[0]) != T(0)};
    for (std::size_t group = 0; group < t.rows; group += kGroup * kLanes<T>) {
        const std::size_t left = t.rows - group, length = left < kGroup * kLanes<T> ? left : kGroup * kLanes<T>;
        LayerSums<T> sums;
        for_each_strip<T>(length, [&](std::size_t i, auto at) GT_INLINE_LAMBDA {
            const std::size_t row = group + i;
            const Vec<T> bias = t.bias ? at.load(t.bias + row) : Vec<T>{}, product = at.load(t.z + row);
            const Activated<T> v = activate<T, A, kScaled>(phi, product, bias, scale);
            at.store(t.z + row, v.z);
            at.store(t.a + row, v.a);
            at.store(t.derivative + row, v.derivative);
            sums.template add<A>(phi, v, at);
            if (!A::info.can_die) return;
            at.mark(t.alive + row, v.size != T(0), kOn);
            if (t.bias)
                at.mark(t.alive + row, on_without_bias<T, A>(phi, kScaled ? product * scale.scale : product),
                        kOnWithoutBias);
        });
        sums.template put<A>(*t.add_sums, [](double* to, Vec<T> sum) GT_INLINE_LAMBDA { *to += reduce_add(sum); });
    }
}

template <class T, class A, bool kScaled>
GT_INLINE void forward_tile(const ForwardTile<T>& t) {
    if (t.columns == 1) return forward_units<T, A, kScaled>(t);
    for (std::size_t c = 0; c < t.columns; c += kLanes<T>) forward_samples<T, A, kScaled>(t, c);
}

template <class T, class A>
void activation_forward(const ForwardTile<T>& t) {
    t.scale ? forward_tile<T, A, true>(t) : forward_tile<T, A, false>(t);
}

template <class T>
struct BackwardSums {
    Vec<T> da_squared{}, delta_squared{};
};

template <class T, class At>
GT_INLINE void backward_vector(const BackwardTile<T>& t, std::size_t i, At at, BackwardSums<T>& sums, Vec<T>& largest) {
    const Vec<T> da = at.load(t.da + i), delta = at.load(t.delta + i) * da;
    at.store(t.delta + i, delta);
    sums.da_squared += da * da;
    sums.delta_squared += delta * delta;
    largest = max(abs(delta), largest);
}

template <class T>
GT_INLINE void backward_samples(const BackwardTile<T>& t, std::size_t column) {
    Vec<T> largest{};
    double da_squared[kLanes<T>] = {}, delta_squared[kLanes<T>] = {};
    for (std::size_t group = 0; group < t.rows; group += kGroup) {
        const std::size_t end = group + kGroup < t.rows ? group + kGroup : t.rows;
        BackwardSums<T> sums;
        for (std::size_t row = group; row < end; ++row)
            backward_vector(t, row * t.ld + column, WholeVector{}, sums, largest);
        accumulate(da_squared, sums.da_squared);
        accumulate(delta_squared, sums.delta_squared);
    }
    store(t.delta_max + column, largest);
    for (std::size_t i = 0; i < kLanes<T>; ++i) {
        t.da_squared[column + i] = da_squared[i];
        t.delta_squared[column + i] = delta_squared[i];
    }
}

template <class T>
GT_INLINE void backward_units(const BackwardTile<T>& t) {
    Vec<T> largest{};
    *t.da_squared = *t.delta_squared = 0;
    for (std::size_t group = 0; group < t.rows; group += kGroup * kLanes<T>) {
        const std::size_t left = t.rows - group, length = left < kGroup * kLanes<T> ? left : kGroup * kLanes<T>;
        BackwardSums<T> sums;
        for_each_strip<T>(
            length, [&](std::size_t i, auto at) GT_INLINE_LAMBDA { backward_vector(t, group + i, at, sums, largest); });
        *t.da_squared += reduce_add(sums.da_squared);
        *t.delta_squared += reduce_add(sums.delta_squared);
    }
    *t.delta_max = largest_lane<T>(largest);
}

template <class T>
void activation_backward(const BackwardTile<T>& t) {
    if (t.columns == 1) return backward_units(t);
    for (std::size_t column = 0; column < t.columns; column += kLanes<T>) backward_samples(t, column);
}

template <class A>
void log_derivative(double parameter, std::size_t count, const double* z, double* log_magnitude, double* sign) {
    const A phi = made<A>(parameter);
    for_each_vector(count, z, 0.0, [&](VecF64 v, std::size_t first) GT_INLINE_LAMBDA {
        VecF64 s;
        store_vector(count, log_magnitude, phi.log_derivative(v, s), first);
        store_vector(count, sign, s, first);
    });
}

template <class A>
void log_value(std::size_t count, const double* z, double* log_magnitude, double* sign) {
    if constexpr (A::info.fades)
        for_each_vector(count, z, 0.0, [&](VecF64 v, std::size_t first) GT_INLINE_LAMBDA {
            VecF64 s;
            store_vector(count, log_magnitude, A::log_value(v, s), first);
            store_vector(count, sign, s, first);
        });
}

template <class A>
ActivationInfo described_with(double parameter) {
    return described(made<A>(parameter));
}

template <class T, class A>
void evaluate(double parameter, std::size_t count, const T* z, T* a, T* derivative) {
    const A phi = made<A>(parameter);
    for_each_vector(count, z, T(0), [&](Vec<T> v, std::size_t first) GT_INLINE_LAMBDA {
        Vec<T> value, slope;
        phi.forward(v, value, slope);
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
    static constexpr void (*log_derivatives[])(double, std::size_t, const double*, double*,
                                               double*) = {log_derivative<A>...};
    static constexpr void (*log_values[])(std::size_t, const double*, double*, double*) = {log_value<A>...};
    static constexpr ActivationInfo (*descriptions[])(double) = {described_with<A>...};
    template <class T>
    struct Of {
        static constexpr void (*forward[])(const ForwardTile<T>&) = {activation_forward<T, A>...};
        static constexpr void (*evaluates[])(double, std::size_t, const T*, T*, T*) = {evaluate<T, A>...};
    };
};
using All = Tables<Activations>;

template <class T>
constexpr ActivationKernels<T> table{.info = All::info,
                                     .count = All::count,
                                     .described = All::descriptions,
                                     .forward = All::Of<T>::forward,
                                     .backward = activation_backward<T>,
                                     .log_derivative = All::log_derivatives,
                                     .log_value = All::log_values,
                                     .evaluate = All::Of<T>::evaluates};

}  // namespace

GT_DEFINE_KERNELS(ActivationKernels, activation, table)

}  // namespace GT_ISA
}  // namespace gt
