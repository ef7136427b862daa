// Layer normalisation over the units of a tile (Ba, Kiros and Hinton 2016), and the sum of two tiles for skip
// connections. Every column is one sample; where there is a single one, vectors run over the units.
#include "kernels/kernel_table.h"
#include "simd/map.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

// Rows summed in T before the sum moves to float64.
constexpr std::size_t kGroup = 16;

// f(index of a strip's first element, its unit, its column, how to read and write it) for all strips of some units.
template <class T, class F>
GT_INLINE void for_units(std::size_t first, std::size_t end, std::size_t column, std::size_t columns, std::size_t ld,
                         F&& f) {
    if (columns == 1) {
        for_each_strip<T>(end - first, [&](std::size_t i, auto at) GT_INLINE_LAMBDA { f(first + i, first + i, at); });
        return;
    }
    for (std::size_t unit = first; unit < end; ++unit) f(unit * ld + column, unit, WholeVector{});
}

// A parameter of the units that a strip holds: of one unit for all samples, or of many units of a sample.
template <class T, class At>
GT_INLINE Vec<T> of_units(bool one_sample, const T* parameter, std::size_t unit, At at) {
    return one_sample ? at.load(parameter + unit) : broadcast(parameter[unit]);
}

template <class T>
GT_INLINE Vec<T> of_samples(bool one_sample, const T* factor, std::size_t column) {
    return one_sample ? broadcast(*factor) : load(factor + column);
}

// Sums over the units in float64: of vectors down a column, or over the lanes of a single sample.
template <class T>
GT_INLINE void add_sum(bool one_sample, double* sums, std::size_t column, Vec<T> sum) {
    if (one_sample)
        *sums += reduce_add(sum);
    else
        accumulate(sums + column, sum);
}

template <class T>
constexpr std::size_t group_units(bool one_sample) {
    return one_sample ? kGroup * kLanes<T> : kGroup;
}

template <class T>
void centre_columns(std::size_t column, const CentreTile<T>& t) {
    const bool one = t.columns == 1;
    const std::size_t step = group_units<T>(one);
    const Vec<T> scale = of_samples(one, t.scale, column), bias_scale = of_samples(one, t.bias_scale, column);
    for (std::size_t group = 0; group < t.rows; group += step) {
        const std::size_t end = group + step < t.rows ? group + step : t.rows;
        Vec<T> sum{};
        for_units<T>(group, end, column, t.columns, t.ld,
                     [&](std::size_t i, std::size_t unit, auto at) GT_INLINE_LAMBDA {
                         Vec<T> z = at.load(t.z + i) * scale;
                         if (t.bias) z += of_units(one, t.bias, unit, at) * bias_scale;
                         at.store(t.z + i, z);
                         sum += at.keep(z);
                     });
        add_sum<T>(one, t.mean, column, sum);
    }
    const std::size_t lanes = one ? 1 : kLanes<T>;
    T mean[kLanes<T>];
    for (std::size_t i = 0; i < lanes; ++i) {
        t.mean[column + i] /= static_cast<double>(t.rows);
        mean[i] = static_cast<T>(t.mean[column + i]);
    }
    const Vec<T> shift = one ? broadcast(mean[0]) : load(mean);
    for (std::size_t group = 0; group < t.rows; group += step) {
        const std::size_t end = group + step < t.rows ? group + step : t.rows;
        Vec<T> square{};
        for_units<T>(group, end, column, t.columns, t.ld, [&](std::size_t i, std::size_t, auto at) GT_INLINE_LAMBDA {
            const Vec<T> centred = at.load(t.z + i) - shift;
            at.store(t.z + i, centred);
            square += at.keep(centred * centred);
        });
        add_sum<T>(one, t.squares, column, square);
    }
}

// Two passes: a variance from the sum of squares would cancel where the mean is large.
template <class T>
void centre(const CentreTile<T>& t) {
    for (std::size_t c = 0; c < t.columns; ++c) t.mean[c] = t.squares[c] = 0;
    for (std::size_t column = 0; column < t.columns; column += t.columns == 1 ? 1 : kLanes<T>)
        centre_columns(column, t);
}

template <class T>
void layer_norm_forward(const LayerNormForward<T>& t) {
    const bool one = t.columns == 1;
    for (std::size_t column = 0; column < t.columns; column += one ? 1 : kLanes<T>) {
        const Vec<T> factor = of_samples(one, t.factor, column);
        for_units<T>(0, t.rows, column, t.columns, t.ld,
                     [&](std::size_t i, std::size_t unit, auto at) GT_INLINE_LAMBDA {
                         const Vec<T> normal = at.load(t.z + i) * factor;
                         at.store(t.normal + i, normal);
                         at.store(t.z + i, t.weight ? normal * of_units(one, t.weight, unit, at) : normal);
                     });
    }
}

// With d = weight * dz: delta = factor * (d - mean(d) - normal * mean(d normal)), means over the units.
template <class T>
void layer_norm_backward(const LayerNormBackward<T>& t) {
    const bool one = t.columns == 1;
    const std::size_t step = group_units<T>(one), lanes = one ? 1 : kLanes<T>;
    for (std::size_t column = 0; column < t.columns; column += lanes) {
        double sum_d[kLanes<T>] = {}, sum_dn[kLanes<T>] = {}, squares[kLanes<T>] = {};
        for (std::size_t group = 0; group < t.rows; group += step) {
            const std::size_t end = group + step < t.rows ? group + step : t.rows;
            Vec<T> d_sum{}, dn_sum{};
            for_units<T>(group, end, column, t.columns, t.ld,
                         [&](std::size_t i, std::size_t unit, auto at) GT_INLINE_LAMBDA {
                             Vec<T> d = at.load(t.delta + i);
                             if (t.weight) {
                                 d *= of_units(one, t.weight, unit, at);
                                 at.store(t.delta + i, d);
                             }
                             d_sum += at.keep(d);
                             dn_sum += at.keep(d * at.load(t.normal + i));
                         });
            add_sum<T>(one, sum_d, 0, d_sum);
            add_sum<T>(one, sum_dn, 0, dn_sum);
        }
        T mean_d[kLanes<T>], mean_dn[kLanes<T>];
        for (std::size_t i = 0; i < lanes; ++i) {
            mean_d[i] = static_cast<T>(sum_d[i] / static_cast<double>(t.rows));
            mean_dn[i] = static_cast<T>(sum_dn[i] / static_cast<double>(t.rows));
        }
        const Vec<T> factor = of_samples(one, t.factor, column), m = of_samples(one, mean_d, 0),
                     mn = of_samples(one, mean_dn, 0);
        Vec<T> largest{};
        for (std::size_t group = 0; group < t.rows; group += step) {
            const std::size_t end = group + step < t.rows ? group + step : t.rows;
            Vec<T> square{};
            for_units<T>(
                group, end, column, t.columns, t.ld, [&](std::size_t i, std::size_t, auto at) GT_INLINE_LAMBDA {
                    const Vec<T> delta = at.keep((at.load(t.delta + i) - m - at.load(t.normal + i) * mn) * factor);
                    at.store(t.delta + i, delta);
                    square += delta * delta;
                    largest = max(abs(delta), largest);
                });
            add_sum<T>(one, squares, 0, square);
        }
        for (std::size_t i = 0; i < lanes; ++i) t.delta_squared[column + i] = squares[i];
        if (one)
            *t.delta_max = largest_lane<T>(largest);
        else
            store(t.delta_max + column, largest);
    }
}

template <class T>
void add_tiles(std::size_t rows, std::size_t columns, std::size_t ld, T* x, const T* x_factor, const T* y,
               const T* y_factor) {
    const bool one = columns == 1;
    for (std::size_t column = 0; column < columns; column += one ? 1 : kLanes<T>) {
        const Vec<T> fx = of_samples(one, x_factor, column), fy = of_samples(one, y_factor, column);
        for_units<T>(0, rows, column, columns, ld, [&](std::size_t i, std::size_t, auto at) GT_INLINE_LAMBDA {
            at.store(x + i, at.load(x + i) * fx + at.load(y + i) * fy);
        });
    }
}

template <class T>
constexpr LayerNormKernels<T> table{.centre = centre<T>,
                                    .forward = layer_norm_forward<T>,
                                    .backward = layer_norm_backward<T>,
                                    .add_tiles = add_tiles<T>};

}  // namespace

GT_DEFINE_KERNELS(LayerNormKernels, layer_norm, table)

}  // namespace GT_ISA
}  // namespace gt
