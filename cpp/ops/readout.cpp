#include "ops/readout.h"

#include <algorithm>
#include <cmath>

namespace gt {

template <class T>
ReadoutRows<T>::ReadoutRows(const RecurrentTracer<T>& tracer, bool every_step)
    : every_step_(every_step),
      width_(tracer.network().outputs()),
      all_(tracer.sequence().batch() * (every_step ? tracer.sequence().steps() : 1)) {
    every_step ? read_every(tracer) : read_last(tracer);
}

// h at each sample's end, the last layer's directions side by side.
template <class T>
void ReadoutRows<T>::read_last(const RecurrentTracer<T>& tracer) {
    const RecurrentNetwork<T>& network = tracer.network();
    const std::size_t layers = network.layers.size(), directions = network.directions, n = network.layers.back().hidden;
    std::vector<std::vector<T>> last(layers);
    LayerArrays<T> to;
    for (std::size_t k = 0; k < layers; ++k) {
        last[k].resize(checked_multiply(all_, network.layers[k].hidden));
        to.push_back(last[k].data());
    }
    tracer.store_final(to, {});
    rows_.resize(checked_multiply(all_, width_));
    for (std::size_t d = 0; d < directions; ++d)
        for (std::size_t sample = 0; sample < all_; ++sample)
            std::copy_n(last[layers - directions + d].data() + sample * n, n, rows_.data() + sample * width_ + d * n);
    for (std::size_t sample = 0; sample < all_; ++sample) source_.push_back(static_cast<std::int64_t>(sample));
}

template <class T>
void ReadoutRows<T>::read_every(const RecurrentTracer<T>& tracer) {
    std::vector<T> y(checked_multiply(all_, width_));
    tracer.store_output(y.data());
    tracer.sequence().for_each(
        [&](std::size_t, std::size_t source) { source_.push_back(static_cast<std::int64_t>(source)); });
    std::sort(source_.begin(), source_.end());
    for (const std::int64_t source : source_) {
        const T* row = y.data() + static_cast<std::size_t>(source) * width_;
        rows_.insert(rows_.end(), row, row + width_);
    }
}

// The factor in two parts: it may leave T.
template <class T>
void ReadoutRows<T>::send_back(const T* rows, const double* exponent, double factor) {
    int power = 0;
    const T mantissa = static_cast<T>(std::frexp(factor, &power));
    back_.assign(checked_multiply(all_, width_), T(0));
    exponent_.assign(all_, 0);
    std::vector<T> row(width_);
    for (std::size_t i = 0; i < count(); ++i) {
        const auto to = static_cast<std::size_t>(source_[i]);
        for (std::size_t c = 0; c < width_; ++c) row[c] = rows[i * width_ + c] * mantissa;
        exponent_[to] = normalise_row(width_, row.data(), exponent[i] + power, back_.data() + to * width_);
    }
}

template <class T>
typename RecurrentTracer<T>::Cotangent ReadoutRows<T>::cotangent() const {
    return {back_.data(), exponent_.data(), every_step_, {}, {}};
}

template class ReadoutRows<float>;
template class ReadoutRows<double>;

}  // namespace gt
