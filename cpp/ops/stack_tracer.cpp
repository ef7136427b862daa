#include "ops/stack_tracer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "core/shape.h"
#include "ops/workspace.h"

namespace gt {
namespace {

// What one sample occupies: activations of the input and all layers, deltas of all layers.
template <class T>
BatchShape shape_of(const StackNetwork<T>& network, std::size_t batch) {
    const std::size_t bytes = checked_multiply(network.total_units(), 2 * sizeof(T));
    return cut_batch(batch, bytes, kColumnMultiple, kMaxColumns);
}

// Two operations for each weight and sample, and of that about three times in a trace.
template <class T>
Loop loop_over_blocks(const StackNetwork<T>& network, std::size_t blocks, std::size_t samples) {
    return {blocks, 4 * network.total_weights() * static_cast<double>(samples)};
}

template <class T>
Loop loop_over_layers(const StackNetwork<T>& network, std::size_t samples) {
    return {network.depth(), 2 * network.total_weights() * static_cast<double>(samples)};
}

template <class T>
void prepare_layers(StackNetwork<T>& network) {
    parallel_for(loop_over_layers(network, 1), [&](std::size_t l, std::size_t) { network.prepare(l); });
}

std::size_t samples_of_block(const BatchShape& shape, std::size_t block) {
    return std::min(shape.block_samples, shape.samples - block * shape.block_samples);
}

}  // namespace

// One chunk under way: its blocks, and the memory of its workers.
template <class T>
struct StackTracer<T>::Chunk {
    const T* x;
    const Cotangent<T>& cotangent;
    const CallOutputs<T>& out;
    Interrupt& interrupt;
    std::vector<StackBlock<T>> blocks;
    std::vector<StackScratch<T>> scratch;
    std::vector<GradientScratch<T>> gradient_scratch;
    std::size_t block_count = 0;
    Loop over_blocks, over_layers;
    bool fused = false;  // gradients at once, while the rows are warm
    std::atomic<bool> exponent_lost{false};
};

template <class T>
StackTracer<T>::StackTracer(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, TraceOptions options)
    : isa_(isa),
      network_(isa, std::move(layers)),
      options_(options),
      gradients_(network_.depth()),
      statistics_(network_.depth()),
      alive_(network_.total_units(), 0),
      nonfinite_(network_.depth()) {}

template <class T>
void StackTracer<T>::add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
                         Interrupt& interrupt) {
    const BatchShape shape = shape_of(network_, batch);
    const std::size_t depth = network_.depth(), per_chunk = std::min(shape.chunk_blocks, shape.blocks());
    const bool summed = !options_.one_call || shape.chunks() > 1;
    Chunk chunk{x,
                cotangent,
                out,
                interrupt,
                {},
                {},
                {},
                0,
                loop_over_blocks(network_, per_chunk, batch),
                loop_over_layers(network_, batch)};
    for (std::size_t l = 0; l < depth; ++l) {
        const DenseLayer<T>& layer = network_.layer(l);
        if ((summed || options_.form_weights) && gradients_[l].weight.value.size() == 0)
            gradients_[l].weight.reset(checked_multiply(layer.inputs, layer.outputs));
        if ((summed || options_.form_biases) && gradients_[l].bias.value.size() == 0)
            gradients_[l].bias.reset(layer.outputs);
    }
    for (std::size_t i = 0; i < per_chunk; ++i)
        chunk.blocks.emplace_back(network_, shape.block_samples, Keep::all_layers);
    const std::size_t block_elements = chunk.blocks[0].arena_size, columns = chunk.blocks[0].columns;
    Workspace arena(checked_multiply(checked_multiply(per_chunk, block_elements), sizeof(T)));
    for (std::size_t i = 0; i < chunk.over_blocks.workers(); ++i) chunk.scratch.emplace_back(network_, columns);
    chunk.gradient_scratch.resize(chunk.over_layers.workers());
    const std::size_t widest = round_up(network_.max_units(), kColumnMultiple);
    for (GradientScratch<T>& scratch : chunk.gradient_scratch)
        scratch.reserve(columns * kMaxColumns,
                        std::max(columns * kMaxColumns, checked_multiply(per_chunk * columns, widest)),
                        kGradientStripRows * widest);
    // A single block prepares each layer right before it needs it, while it waits in the cache.
    if (!prepared_ && shape.blocks() > 1) {
        prepare_layers(network_);
        prepared_ = true;
    }

    for (std::size_t first = 0; first < shape.blocks(); first += per_chunk) {
        chunk.block_count = std::min(per_chunk, shape.blocks() - first);
        for (std::size_t i = 0; i < chunk.block_count; ++i)
            chunk.blocks[i].start(arena.as<T>() + i * block_elements, (first + i) * shape.block_samples,
                                  samples_of_block(shape, first + i));
        trace_chunk(chunk);
        if (interrupt.stopped()) throw Interrupted{};
        if (chunk.exponent_lost) throw std::overflow_error("keep: an exponent of the kept rows is beyond int64");
    }
    prepared_ = true;
    samples_ += batch;
}

template <class T>
void StackTracer<T>::trace_chunk(Chunk& chunk) {
    chunk.fused = chunk.block_count == 1 && chunk.over_layers.workers() == 1;
    // How many blocks go side by side changes no bit: every worker gets some, and none more than the caches like.
    constexpr std::size_t kSideBySide = 4;
    const std::size_t workers = chunk.over_blocks.workers(), share = (chunk.block_count + workers - 1) / workers;
    const std::size_t group = std::min(kSideBySide, share), groups = (chunk.block_count + group - 1) / group;
    parallel_for(chunk.over_blocks.of(groups), [&](std::size_t i, std::size_t worker) {
        trace_blocks(chunk, i * group, std::min((i + 1) * group, chunk.block_count), worker);
    });
    if (!chunk.fused)
        parallel_for(chunk.over_layers, [&](std::size_t l, std::size_t worker) {
            if (!chunk.interrupt.requested(worker)) gradients_of(chunk, l, worker);
        });
    merge(chunk);
}

// One tile's valid samples as rows normalised to largest magnitude in [1/2, 1).
template <class T>
static bool keep_tile(const KernelTable<T>& kernels, const StackBlock<T>& block, std::size_t units, const T* tile,
                      const double* exponent, const KeptRows<T>& to) {
    constexpr double kInt64 = 9.2e18;
    bool fits = true;
    T largest[kMaxColumns], factor[kMaxColumns];
    kernels.reduce->column_max(units, block.columns, block.columns, tile, largest);
    for (std::size_t b = 0; b < block.samples; ++b) {
        const double top = largest[b];
        const bool plain = !(top > 0) || !std::isfinite(top);
        const double shift = plain ? 0 : exponent_of(top), kept = plain ? 0 : exponent[b] + shift;
        fits &= std::fabs(kept) < kInt64;
        factor[b] = power_of_two<T>(-shift);
        to.exponent[block.first + b] = std::fabs(kept) < kInt64 ? static_cast<std::int64_t>(kept) : 0;
    }
    kernels.reduce->transpose(units, block.samples, tile, block.columns, to.mantissa + block.first * units, units,
                              factor);
    return fits;
}

// Blocks [first, end) side by side, so that each layer's weights come from memory once for all of them.
template <class T>
void StackTracer<T>::trace_blocks(Chunk& chunk, std::size_t first, std::size_t end, std::size_t worker) {
    const std::size_t depth = network_.depth();
    std::vector<StackPass<T>> passes;
    for (std::size_t i = first; i < end; ++i) {
        StackBlock<T>& block = chunk.blocks[i];
        passes.emplace_back(isa_, network_, block, chunk.scratch[worker], chunk.out.samples);
        passes.back().load_input(chunk.x + block.first * network_.units(0));
    }
    for (std::size_t l = 0; l < depth; ++l) {
        if (!prepared_) network_.prepare(l);
        for (StackPass<T>& pass : passes) {
            if (chunk.interrupt.requested(worker)) return;
            pass.forward_layer(l);
        }
    }
    for (StackPass<T>& pass : passes) pass.load_cotangent(chunk.cotangent);
    for (std::size_t l = depth; l-- > 0;) {
        for (std::size_t i = first; i < end; ++i) {
            if (chunk.interrupt.requested(worker)) return;
            passes[i - first].backward_layer(l);
            keep_rows(chunk, chunk.blocks[i], l);
        }
        if (chunk.fused) gradients_of(chunk, l, worker);
    }
    for (std::size_t i = first; i < end; ++i) {
        passes[i - first].finish_backward();
        if (!chunk.out.grad_input) continue;
        const StackBlock<T>& block = chunk.blocks[i];
        if (!keep_tile(isa_.get<T>(), block, network_.units(0), block.da(), passes[i - first].exponent_of_da(),
                       chunk.out.grad_input))
            chunk.exponent_lost = true;
    }
}

template <class T>
void StackTracer<T>::gradients_of(Chunk& chunk, std::size_t l, std::size_t worker) {
    const SampleOutputs& samples = chunk.out.samples;
    const std::size_t at = l * samples.stride + chunk.blocks[0].first;
    layer_gradient(isa_.get<T>(), network_, l, chunk.blocks, chunk.block_count, samples.log2_delta + at,
                   samples.log2_activation + at, chunk.gradient_scratch[worker], gradients_[l]);
}

template <class T>
void StackTracer<T>::keep_rows(Chunk& chunk, StackBlock<T>& block, std::size_t l) {
    const std::size_t units = network_.layer(l).outputs;
    bool fits = true;
    if (!chunk.out.deltas.empty())
        fits &= keep_tile(isa_.get<T>(), block, units, block.delta(l), block.exponent_of_delta(l), chunk.out.deltas[l]);
    if (!chunk.out.activations.empty())
        fits &= keep_tile(isa_.get<T>(), block, units, block.a(l + 1), block.exponent_of_a(l + 1),
                          chunk.out.activations[l]);
    if (!fits) chunk.exponent_lost = true;
}

// In block order, so that the sums do not depend on who computed what when.
template <class T>
void StackTracer<T>::merge(const Chunk& chunk) {
    for (std::size_t i = 0; i < chunk.block_count; ++i) {
        const StackBlock<T>& block = chunk.blocks[i];
        loss_ += block.loss;
        for (std::size_t l = 0; l < network_.depth(); ++l) statistics_[l].merge(block.statistics[l]);
        for (std::size_t u = 0; u < block.alive.size(); ++u) alive_[u] |= block.alive[u];
        for (std::size_t b = 0; b < block.samples; ++b) nonfinite_ = std::min(nonfinite_, block.nonfinite[b]);
    }
}

template <class T>
std::vector<LayerResult> StackTracer<T>::results() {
    std::vector<LayerResult> results(network_.depth());
    std::size_t unit = 0;
    for (std::size_t l = 0; l < network_.depth(); ++l) {
        const DenseLayer<T>& layer = network_.layer(l);
        const LayerGradient<T>& gradient = gradients_[l];
        LayerResult& r = results[l];
        r.log2_weight = network_.log2_weight(l);
        r.log2_grad_weight = gradient.weight.value.size() ? gradient.weight.log2_norm() : gradient.log2_weight;
        r.log2_grad_bias = gradient.bias.value.size() ? gradient.bias.log2_norm() : gradient.log2_bias;
        r.statistics = statistics_[l];
        std::size_t dead = 0;
        for (std::size_t u = 0; u < layer.outputs; ++u, ++unit) dead += alive_[unit] == 0;
        const bool can_die = isa_.get<T>().activation->info[layer.activation].can_die;
        r.dead_units = can_die ? static_cast<double>(dead) / static_cast<double>(layer.outputs) : 0.0;
    }
    return results;
}

template <class T>
void stack_forward(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, const T* x, std::size_t batch, T* y,
                   Interrupt& interrupt) {
    StackNetwork<T> network(isa, std::move(layers));
    const std::size_t depth = network.depth();
    const BatchShape shape = shape_of(network, batch);
    std::vector<StackBlock<T>> blocks;
    std::vector<StackScratch<T>> scratch;
    const Loop over_blocks = loop_over_blocks(network, shape.blocks(), batch);
    for (std::size_t i = 0; i < over_blocks.workers(); ++i) {
        blocks.emplace_back(network, shape.block_samples, Keep::last_layer);
        scratch.emplace_back(network, shape.block_samples);
    }
    Workspace arena(checked_multiply(checked_multiply(blocks.size(), blocks[0].arena_size), sizeof(T)));
    prepare_layers(network);
    const SampleOutputs nothing;
    parallel_for(over_blocks, [&](std::size_t i, std::size_t worker) {
        StackBlock<T>& block = blocks[worker];
        block.start(arena.as<T>() + worker * block.arena_size, i * shape.block_samples, samples_of_block(shape, i));
        StackPass<T> pass(isa, network, block, scratch[worker], nothing);
        pass.load_input(x + block.first * network.units(0));
        for (std::size_t l = 0; l < depth && !interrupt.requested(worker); ++l) pass.forward_layer(l);
        pass.store_output(y + block.first * network.units(depth));
    });
    if (interrupt.stopped()) throw Interrupted{};
}

template class StackTracer<float>;
template class StackTracer<double>;
template void stack_forward<float>(const IsaKernels&, std::vector<DenseLayer<float>>, const float*, std::size_t, float*,
                                   Interrupt&);
template void stack_forward<double>(const IsaKernels&, std::vector<DenseLayer<double>>, const double*, std::size_t,
                                    double*, Interrupt&);

}  // namespace gt
