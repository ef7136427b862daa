// The parts of dense_stack.h that hold memory: network, scratch, statistics.
#include <algorithm>
#include <cmath>

#include "ops/dense_stack.h"

namespace gt {
namespace {

// log2 of the norm of a flat array whose squares leave their format, from its largest magnitude.
template <class T>
double log2_norm_by_largest(std::size_t count, const T* x, double largest) {
    if (!(largest > 0) || !std::isfinite(largest)) return largest == 0 ? kNegativeInfinity : largest;
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const double ratio = static_cast<double>(x[i]) / largest;
        sum += ratio * ratio;
    }
    return 0.5 * std::log2(sum) + std::log2(largest);
}

// A copy times a power of two, largest magnitude in [1, 2), where the entries are extreme; returns its exponent.
template <class T>
double bring_into_range(std::size_t count, const T* x, double squares, T largest, AlignedBuffer<T>* scaled) {
    const double size = largest;
    if (std::isnan(squares) || !(size > 0) || !std::isfinite(size)) return 0;
    if (size >= Range<T>::weight_low && size <= Range<T>::weight_high) return 0;
    const double exponent = exponent_of(size) - 1;
    *scaled = AlignedBuffer<T>(count);
    for (std::size_t i = 0; i < count; ++i)
        (*scaled)[i] = static_cast<T>(scale_by(static_cast<double>(x[i]), -exponent));
    return exponent;
}

}  // namespace

template <class T>
StackNetwork<T>::StackNetwork(const IsaKernels& isa, std::vector<DenseLayer<T>> layers)
    : isa_(isa),
      layers_(std::move(layers)),
      scaled_weight_(layers_.size()),
      scaled_bias_(layers_.size()),
      weight_exponent_(layers_.size(), 0.0),
      bias_exponent_(layers_.size(), 0.0),
      log2_weight_(layers_.size(), 0.0) {}

template <class T>
std::size_t StackNetwork<T>::total_units() const {
    std::size_t total = layers_[0].inputs;
    for (const DenseLayer<T>& layer : layers_) total = checked_add(total, layer.outputs);
    return total;
}

template <class T>
std::size_t StackNetwork<T>::max_units() const {
    std::size_t most = layers_[0].inputs;
    for (const DenseLayer<T>& layer : layers_) most = std::max(most, layer.outputs);
    return most;
}

template <class T>
double StackNetwork<T>::total_weights() const {
    double total = 0;
    for (const DenseLayer<T>& layer : layers_) total += static_cast<double>(layer.inputs * layer.outputs);
    return total;
}

template <class T>
void StackNetwork<T>::prepare(std::size_t l) {
    const SubnormalMode keep(Subnormals::keep);
    DenseLayer<T>& layer = layers_[l];
    const ReduceKernels<T>& reduce = *isa_.get<T>().reduce;
    const std::size_t count = layer.outputs * layer.inputs;
    double squares = 0;
    T largest = 0;
    reduce.flat_squares(count, layer.weight, &squares, &largest);
    const bool trusted = squares > Range<T>::norm_low && squares < Range<T>::norm_high;
    log2_weight_[l] =
        trusted || std::isnan(squares) ? 0.5 * std::log2(squares) : log2_norm_by_largest(count, layer.weight, largest);
    weight_exponent_[l] = bring_into_range(count, layer.weight, squares, largest, &scaled_weight_[l]);
    if (layer.bias == nullptr) return;
    reduce.flat_squares(layer.outputs, layer.bias, &squares, &largest);
    if (squares == 0 && largest == T(0)) layer.bias = nullptr;
    bias_exponent_[l] = bring_into_range(layer.outputs, layer.bias, squares, largest, &scaled_bias_[l]);
}

template <class T>
StackScratch<T>::StackScratch(const StackNetwork<T>& network, std::size_t columns)
    : z(checked_multiply(network.max_units(), columns)),
      spare_a(z.size()),
      spare_derivative(z.size()),
      row(network.max_units()),
      log_magnitude(network.max_units()),
      sign(network.max_units()) {}

template <class T>
StackBlock<T>::StackBlock(const StackNetwork<T>& network, std::size_t columns_, Keep keep)
    : columns(columns_), arena_size(0) {
    const std::size_t depth = network.depth(), most = network.max_units() * columns;
    std::size_t units = 0;
    for (std::size_t l = 0; l <= depth; ++l) {
        a_offset.push_back(keep == Keep::all_layers ? arena_size : l % 2 * most);
        arena_size += network.units(l) * columns;
    }
    for (std::size_t l = 0; l < depth; ++l) {
        delta_offset.push_back(keep == Keep::all_layers ? arena_size : 2 * most);
        arena_size += network.units(l + 1) * columns;
        first_unit.push_back(units);
        units += network.units(l + 1);
    }
    da_offset = arena_size;
    arena_size = keep == Keep::all_layers ? arena_size + most : 3 * most;
    a_exponent.resize((depth + 1) * kMaxColumns);
    delta_exponent.resize(depth * kMaxColumns);
    statistics.resize(depth);
    alive.resize(units);
}

template <class T>
void StackBlock<T>::start(T* arena_, std::size_t first_, std::size_t samples_) {
    arena = arena_;
    first = first_;
    samples = samples_;
    nonfinite.assign(kMaxColumns, statistics.size());
    std::fill(statistics.begin(), statistics.end(), LayerStatistics{});
    std::fill(alive.begin(), alive.end(), std::uint8_t{0});
    loss = 0;
}

// Parallel form of mean and sum of squared distances: Chan, Golub and LeVeque 1983.
void LayerStatistics::merge(const LayerStatistics& other) {
    if (other.count == 0) return;
    const double total = count + other.count;
    const auto join = [&](double& mean, double& m2, double other_mean, double other_m2) {
        const double distance = other_mean - mean;
        mean += distance * (other.count / total);
        m2 += other_m2 + distance * distance * (count * other.count / total);
    };
    join(z_mean, z_m2, other.z_mean, other.z_m2);
    join(a_mean, a_m2, other.a_mean, other.a_m2);
    derivative += other.derivative;
    saturated += other.saturated;
    dead_samples += other.dead_samples;
    count = total;
}

template class StackNetwork<float>;
template class StackNetwork<double>;
template struct StackBlock<float>;
template struct StackBlock<double>;
template struct StackScratch<float>;
template struct StackScratch<double>;

}  // namespace gt
