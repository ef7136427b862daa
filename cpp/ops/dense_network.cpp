// The parts of dense_stack.h that hold memory: network, scratch, statistics.
#include <algorithm>
#include <cmath>

#include "core/shape.h"
#include "ops/dense_stack.h"

namespace gt {
template <class T>
StackNetwork<T>::StackNetwork(const IsaKernels& isa, std::vector<DenseLayer<T>> layers)
    : isa_(isa), layers_(std::move(layers)), weights_(layers_.size()), biases_(layers_.size()) {}

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
bool StackNetwork<T>::may_die() const {
    return std::any_of(layers_.begin(), layers_.end(), [](const DenseLayer<T>& l) { return l.info.can_die; });
}

template <class T>
bool StackNetwork<T>::has_skip() const {
    return std::any_of(layers_.begin(), layers_.end(), [](const DenseLayer<T>& l) { return l.residual != 0; });
}

template <class T>
double StackNetwork<T>::total_weights() const {
    double total = 0;
    for (const DenseLayer<T>& layer : layers_) total += static_cast<double>(layer.inputs * layer.outputs);
    return total;
}

template <class T>
void StackNetwork<T>::prepare(std::size_t l) {
    DenseLayer<T>& layer = layers_[l];
    const ReduceKernels<T>& reduce = *isa_.get<T>().reduce;
    weights_[l].take(reduce, layer.outputs * layer.inputs, layer.weight);
    if (layer.bias) biases_[l].take(reduce, layer.outputs, layer.bias);
}

template <class T>
bool StackNetwork<T>::prepare_with_product(std::size_t l, const T* x, T* y) {
    DenseLayer<T>& layer = layers_[l];
    const KernelTable<T>& kernels = isa_.get<T>();
    const double squares = kernels.gemm->nv_squares(layer.outputs, layer.inputs, layer.weight, x, y);
    weights_[l].take(*kernels.reduce, layer.outputs * layer.inputs, layer.weight, squares);
    if (layer.bias) biases_[l].take(*kernels.reduce, layer.outputs, layer.bias);
    return weights_[l].exponent() == 0;
}

template <class T>
StackScratch<T>::StackScratch(const StackNetwork<T>& network, std::size_t columns, std::size_t side_by_side)
    : tile_size(checked_multiply(network.max_units(), columns)),
      z(checked_multiply(tile_size, side_by_side)),
      spare_a(tile_size),
      spare_derivative(tile_size),
      row(network.max_units()),
      log_magnitude(network.max_units()),
      sign(network.max_units()) {}

template <class T>
StackBlock<T>::StackBlock(const StackNetwork<T>& network, std::size_t columns_, Keep keep) : columns(columns_) {
    const std::size_t depth = network.depth(), most = network.max_units() * columns;
    std::size_t units = 0, elements = 0;
    for (std::size_t l = 0; l <= depth; ++l) {
        a_offset.push_back(keep == Keep::all_layers ? elements : l % 2 * most);
        elements += network.units(l) * columns;
    }
    for (std::size_t l = 0; l < depth; ++l) {
        delta_offset.push_back(keep == Keep::all_layers ? elements : 2 * most);
        elements += network.units(l + 1) * columns;
        first_unit.push_back(units);
        units += network.units(l + 1);
    }
    if (keep == Keep::last_layer) elements = 3 * most;
    for (std::size_t l = 0; l < depth; ++l) {  // a pass that keeps nothing still needs room for one
        normal_offset.push_back(keep == Keep::all_layers ? elements : 3 * most);
        if (keep == Keep::all_layers && network.layer(l).normalised) elements += network.units(l + 1) * columns;
    }
    if (keep == Keep::last_layer) elements += most;
    for (std::size_t& offset : da_offset) {
        offset = elements;  // a skip connection needs dL/da on both of its sides
        if (keep == Keep::all_layers && (network.has_skip() || &offset != da_offset)) elements += most;
    }
    constexpr std::size_t kLine = 64;
    exponent_offset = round_up(elements * sizeof(T), kLine);
    arena_bytes = exponent_offset + round_up((3 * depth + 1) * columns * sizeof(double), kLine);
    statistics.resize(quanta() * depth);
    may_die = network.may_die();
    total_units = units;
    if (may_die) alive.resize(quanta() * units);
    loss.resize(quanta());
}

template <class T>
void StackBlock<T>::start(unsigned char* arena_, std::size_t first_, std::size_t samples_) {
    arena = arena_;
    first = first_;
    samples = samples_;
    nonfinite.assign(kMaxColumns, static_cast<std::ptrdiff_t>(depth()));
    std::fill(statistics.begin(), statistics.end(), LayerStatistics{});
    std::fill(alive.begin(), alive.end(), std::uint8_t{0});
    std::fill(loss.begin(), loss.end(), 0.0);
}

// std::hypot of three, whose care is needed only where a square may leave float64.
static double norm_of_three(double x, double y, double z) {
    const double squares = x * x + y * y + z * z;
    return squares > 1e-250 && squares < 1e250 ? std::sqrt(squares) : std::hypot(std::hypot(x, y), z);
}

// Parallel form of mean and sum of squared distances: Chan, Golub and LeVeque 1983. As roots: the squares may leave
// float64 where the deviation does not.
void LayerStatistics::merge(const LayerStatistics& other) {
    if (other.count == 0) return;
    if (count == 0) {
        *this = other;
        return;
    }
    const double total = count + other.count, apart = std::sqrt(count * other.count / total);
    const auto join = [&](double& mean, double& spread, double other_mean, double other_spread) {
        const double distance = other_mean - mean;
        mean += distance * (other.count / total);
        spread = norm_of_three(spread, other_spread, distance * apart);
    };
    join(z_mean, z_spread, other.z_mean, other.z_spread);
    join(a_mean, a_spread, other.a_mean, other.a_spread);
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
