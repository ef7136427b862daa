#include "ops/stack_tracer.h"

#include <algorithm>
#include <stdexcept>

namespace gt {

template <class T>
StackUnits units_of(const std::vector<DenseLayer<T>>& layers) {
    StackUnits units{.sizes = {layers[0].inputs}, .total = layers[0].inputs};
    for (const DenseLayer<T>& layer : layers) {
        units.sizes.push_back(layer.outputs);
        units.total = checked_add(units.total, layer.outputs);
        units.normalised += layer.normalised * layer.outputs;
    }
    return units;
}

template <class T>
StackUnits units_of(const StackSource<T>& source) {
    StackUnits units{.sizes = source.sizes, .total = source.sizes[0]};
    for (std::size_t l = 0; l < source.depth(); ++l) {
        units.total = checked_add(units.total, source.sizes[l + 1]);
        units.normalised += source.normalised(l) * source.sizes[l + 1];
    }
    return units;
}

template <class T>
AnyStackTracer<T>::AnyStackTracer(const IsaKernels& isa, StackUnits units, TraceOptions options)
    : isa_(isa),
      units_(std::move(units)),
      options_(std::move(options)),
      nonfinite_(units_.depth()),
      figures_(divide_up(units_.depth(), options_.every)) {}

template <class T>
bool AnyStackTracer<T>::trace_chunk(StackChunk<T>& chunk, const Layers& layers, bool prepared) {
    const StackNetwork<T>& network = layers.network;
    const CallOutputs<T>& out = layers.out;
    const auto& blocks = chunk.blocks();
    const bool alone = options_.one_call && chunk.count() == 1 && blocks[0].samples == 1;
    if (!chunk.forward(prepared, layers.load,
                       [&](StackPass<T>& pass, std::size_t l) { expect(keep_derivative(out, network, pass, l)); }))
        return false;
    if (!chunk.backward(
            layers.load_gradient,
            [&](StackPass<T>& pass, std::size_t l) { expect(keep_rows(out, network, pass.part(), l)); },
            [&](std::size_t l, GradientScratch<T>& scratch) {
                layers.totals.add_layer(isa_, network, l, blocks, chunk.count(), out.samples, alone, scratch);
            }))
        return false;
    chunk.for_each_pass(layers.finish);
    layers.totals.add_statistics(blocks, chunk.count());
    return true;
}

template <class T>
void AnyStackTracer<T>::check_exponents() const {
    if (exponent_lost_) throw std::overflow_error("keep: an exponent of the kept rows is beyond int64");
}

template <class T>
void AnyStackTracer<T>::add_loss(const StackChunk<T>& chunk) {
    for (std::size_t i = 0; i < chunk.count(); ++i)
        for (const double part : chunk.blocks()[i].loss) loss_ += part;
}

template <class T>
void AnyStackTracer<T>::count(std::size_t batch, const Cotangent<T>& cotangent) {
    samples_ += batch;
    kind_ = cotangent.kind;
}

template <class T>
void AnyStackTracer<T>::take_figures(const StackNetwork<T>& network, const StackTotals<T>& totals, std::size_t first) {
    for (std::size_t l = 0; l < network.depth(); ++l)
        if ((first + l) % options_.every == 0)
            figures_[(first + l) / options_.every] = totals.figures(network, l, samples_);
    if (first == 0) feature_share_ = totals.feature_share();
}

template <class T>
bool AnyStackTracer<T>::sums_weights(const BatchShape& shape) const {
    return !options_.one_call || shape.chunks() > 1 || options_.keeps("grad_weights");
}

template <class T>
bool AnyStackTracer<T>::sums_biases(const BatchShape& shape) const {
    return !options_.one_call || shape.chunks() > 1 || options_.keeps("grad_biases");
}

template <class T>
StackTracer<T>::StackTracer(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, TraceOptions options)
    : AnyStackTracer<T>(isa, units_of(layers), std::move(options)),
      network_(isa, std::move(layers)),
      totals_(network_, true) {}

template <class T>
void StackTracer<T>::add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
                         Interrupt& interrupt) {
    const BatchShape shape = stack_shape<T>(this->units_.total, this->units_.normalised, batch);
    totals_.sum_gradients(network_, this->sums_weights(shape), this->sums_biases(shape));
    StackChunk<T> chunk(this->isa_, network_, shape, Keep::all_layers, interrupt);
    const typename AnyStackTracer<T>::Layers layers{
        .network = network_,
        .totals = totals_,
        .out = out,
        .load = [&](StackPass<T>& pass) { pass.load_input(x); },
        .load_gradient = [&](StackPass<T>& pass) { pass.load_cotangent(cotangent); },
        .finish =
            [&](StackPass<T>& pass) {
                pass.finish_backward();
                pass.finish_samples();
                this->expect(this->keep_input_gradient(out, pass));
            }};
    for (std::size_t first = 0; first < shape.blocks(); first += chunk.blocks_at_a_time()) {
        chunk.start(first, out.samples);
        if (!this->trace_chunk(chunk, layers, this->prepared_) || interrupt.stopped()) throw Interrupted{};
        this->prepared_ = true;
        this->check_exponents();
        this->add_loss(chunk);
        for (std::size_t i = 0; i < chunk.count(); ++i)
            for (std::size_t b = 0; b < chunk.blocks()[i].samples; ++b)
                this->nonfinite_ = std::min(this->nonfinite_, static_cast<std::size_t>(chunk.blocks()[i].nonfinite[b]));
    }
    this->count(batch, cotangent);
}

template StackUnits units_of<float>(const std::vector<DenseLayer<float>>&);
template StackUnits units_of<double>(const std::vector<DenseLayer<double>>&);
template StackUnits units_of<float>(const StackSource<float>&);
template StackUnits units_of<double>(const StackSource<double>&);
template class AnyStackTracer<float>;
template class AnyStackTracer<double>;
template class StackTracer<float>;
template class StackTracer<double>;

}  // namespace gt
