#include "ops/stack_tracer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "core/shape.h"
#include "ops/workspace.h"

namespace gt {
namespace {

// What one sample occupies: activations of the input and all layers, deltas of all layers, normalised values.
template <class T>
BatchShape shape_of(const StackNetwork<T>& network, std::size_t batch) {
    std::size_t normalised = 0;
    for (std::size_t l = 0; l < network.depth(); ++l) normalised += network.layer(l).normalised * network.units(l + 1);
    const std::size_t bytes = checked_multiply(checked_multiply(network.total_units(), 2) + normalised, sizeof(T));
    return cut_batch(batch, bytes, kColumnMultiple, kMaxColumns);
}

// Two operations for each weight and sample, and of that about three times in a trace.
template <class T>
Loop loop_over_samples(const StackNetwork<T>& network, std::size_t items, std::size_t samples) {
    return {items, 4 * network.total_weights() * static_cast<double>(samples)};
}

template <class T>
Loop loop_over_layers(const StackNetwork<T>& network, std::size_t samples) {
    return {network.depth(), 2 * network.total_weights() * static_cast<double>(samples)};
}

template <class T>
void prepare_layers(StackNetwork<T>& network) {
    parallel_for(loop_over_layers(network, 1), [&](std::size_t l, std::size_t) { network.prepare(l); });
}

// As parallel_for, but for one worker a plain loop: a deep stack would feel the start of a loop at every layer. The
// caller has subnormals flushed.
template <class F>
void for_each(const Loop& loop, F&& body) {
    if (loop.workers() > 1) return parallel_for(loop, body);
    for (std::size_t i = 0; i < loop.items(); ++i) body(i, 0);
}

// Part `index` of `count` of a block.
template <class T>
BlockPart<T> part_of(StackBlock<T>& block, std::size_t index, std::size_t count) {
    if (count == 1) return BlockPart<T>(block);
    const std::size_t first = index * block.quanta() / count, end = (index + 1) * block.quanta() / count;
    return {block, first * kColumnMultiple, (end - first) * kColumnMultiple};
}

// Of so many blocks, each worker's; but none more than the caches like.
std::size_t side_by_side(std::size_t blocks, std::size_t workers) {
    return std::min(kSideBySide, divide_up(blocks, workers));
}

// Of a worker's products.
template <class T>
std::size_t scratch_bytes(const KernelTable<T>& kernels) {
    constexpr std::size_t kLine = 64;
    return round_up(kernels.gemm->scratch_bytes, kLine);
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
    std::vector<StackBlock<T>> blocks{};
    std::vector<StackScratch<T>> scratch{};
    std::vector<GradientScratch<T>> gradient_scratch{};
    std::size_t block_count = 0;
    Loop over_samples, over_layers;
    std::atomic<bool> exponent_lost{false};

    void expect(bool fits) {
        if (!fits) exponent_lost = true;
    }
};

template <class T>
StackTracer<T>::StackTracer(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, TraceOptions options)
    : isa_(isa),
      network_(isa, std::move(layers)),
      options_(std::move(options)),
      gradients_(network_.depth()),
      statistics_(network_.depth()),
      directions_(network_),
      alive_(network_.total_units(), 0),
      nonfinite_(network_.depth()) {}

template <class T>
void StackTracer<T>::add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
                         Interrupt& interrupt) {
    const BatchShape shape = shape_of(network_, batch);
    const std::size_t depth = network_.depth(), per_chunk = std::min(shape.chunk_blocks, shape.blocks());
    const bool summed = !options_.one_call || shape.chunks() > 1;
    const std::size_t quanta = per_chunk * divide_up(shape.block_samples, kColumnMultiple);
    Chunk chunk{.x = x,
                .cotangent = cotangent,
                .out = out,
                .interrupt = interrupt,
                .over_samples = loop_over_samples(network_, quanta, batch),
                .over_layers = loop_over_layers(network_, batch)};
    for (std::size_t l = 0; l < depth; ++l) {
        const DenseLayer<T>& layer = network_.layer(l);
        if ((summed || options_.keeps("grad_weights")) && !gradients_[l].weight.kept())
            gradients_[l].weight.reset(checked_multiply(layer.inputs, layer.outputs));
        if ((summed || options_.keeps("grad_biases")) && !gradients_[l].bias.kept())
            gradients_[l].bias.reset(layer.outputs);
    }
    for (std::size_t i = 0; i < per_chunk; ++i)
        chunk.blocks.emplace_back(network_, shape.block_samples, Keep::all_layers);
    const std::size_t block_bytes = chunk.blocks[0].arena_bytes, columns = chunk.blocks[0].columns;
    // Behind the blocks, the scratch of each worker's products.
    const std::size_t blocks_bytes = checked_multiply(per_chunk, block_bytes), each = scratch_bytes(isa_.get<T>());
    Workspace arena(
        checked_add(blocks_bytes, each * std::max(chunk.over_samples.workers(), chunk.over_layers.workers())));
    const auto product_scratch = [&](std::size_t worker) {
        return arena.as<unsigned char>() + blocks_bytes + worker * each;
    };
    for (std::size_t i = 0; i < chunk.over_samples.workers(); ++i) {
        chunk.scratch.emplace_back(network_, columns, side_by_side(per_chunk, chunk.over_samples.workers()));
        chunk.scratch[i].product = product_scratch(i);
    }
    for (std::size_t i = 0; i < chunk.over_layers.workers(); ++i) {
        chunk.gradient_scratch.emplace_back(columns, per_chunk, network_.max_units());
        chunk.gradient_scratch[i].product = product_scratch(i);
    }
    for (std::size_t first = 0; first < shape.blocks(); first += per_chunk) {
        chunk.block_count = std::min(per_chunk, shape.blocks() - first);
        for (std::size_t i = 0; i < chunk.block_count; ++i)
            chunk.blocks[i].start(arena.as<unsigned char>() + i * block_bytes, (first + i) * shape.block_samples,
                                  samples_of_block(shape, first + i));
        trace_chunk(chunk);
        if (interrupt.stopped()) throw Interrupted{};
        prepared_ = true;
        if (chunk.exponent_lost) throw std::overflow_error("keep: an exponent of the kept rows is beyond int64");
    }
    samples_ += batch;
    kind_ = cotangent.kind;
}

// What one worker carries through the layers: some blocks, or parts of them, side by side, so that each layer's weights
// come from memory once for all of them. Neither changes a bit.
template <class T>
auto StackTracer<T>::cut(Chunk& chunk) -> std::vector<Passes> {
    const std::size_t workers = chunk.over_samples.workers(), count = chunk.block_count,
                      group = side_by_side(count, workers), groups = divide_up(count, group),
                      parts = std::min(divide_up(workers, groups), chunk.blocks[0].quanta());
    std::vector<Passes> items;
    for (std::size_t first = 0; first < count; first += group)
        for (std::size_t part = 0; part < parts; ++part) {
            items.emplace_back();
            for (std::size_t i = first; i < std::min(first + group, count); ++i)
                items.back().emplace_back(isa_, network_, part_of(chunk.blocks[i], part, parts), chunk.out.samples);
        }
    return items;
}

// Layers that all workers pass before any goes on, so that what follows a pass over them finds weights and tiles in the
// cache: the first layer of each, and the depth. Workers meet at each; one alone has nobody to wait for.
template <class T>
std::vector<std::size_t> StackTracer<T>::segments(bool alone, std::size_t workers) const {
    constexpr std::size_t kWeightBytes = std::size_t{512} << 10;
    const std::size_t fewest = workers > 1 ? 2 * workers : 1;  // the gradients of a segment are shared layer by layer
    std::vector<std::size_t> starts{0};
    std::size_t bytes = 0;
    for (std::size_t l = 0; l < network_.depth(); ++l) {
        const std::size_t layer = network_.layer(l).inputs * network_.layer(l).outputs * sizeof(T);
        if (l > starts.back() && (alone || (bytes + layer > kWeightBytes && l - starts.back() >= fewest))) {
            starts.push_back(l);
            bytes = 0;
        }
        bytes += layer;
    }
    starts.push_back(network_.depth());
    return starts;
}

template <class T>
void StackTracer<T>::trace_chunk(Chunk& chunk) {
    const SubnormalMode flush(Subnormals::flush);
    std::vector<Passes> items = cut(chunk);
    const Loop over_items = chunk.over_samples.of(items.size());
    const std::vector<std::size_t> starts = segments(items.size() == 1, over_items.workers());
    const auto for_each_worker = [&](auto&& body) {
        for_each(over_items, [&](std::size_t i, std::size_t worker) {
            for (std::size_t k = 0; k < items[i].size(); ++k) items[i][k].use(chunk.scratch[worker], k);
            body(items[i], [&] { return chunk.interrupt.requested(worker); });
        });
        return !chunk.interrupt.stopped();
    };
    const auto for_each_pass = [&](auto&& body) {
        for_each_worker([&](Passes& passes, auto&& interrupted) {
            for (std::size_t k = 0; k < passes.size() && !interrupted(); ++k) body(passes[k]);
        });
    };
    const auto for_each_layer = [&](std::size_t first, std::size_t end, auto&& body) {
        for_each(chunk.over_layers.of(end - first),
                 [&](std::size_t i, std::size_t worker) { body(first + i, worker); });
    };
    for_each_pass([&](StackPass<T>& pass) { pass.load_input(chunk.x); });
    for (std::size_t s = 0; s + 1 < starts.size(); ++s) {
        if (!prepared_ && chunk.blocks[0].columns > 1)  // a single sample's pass prepares its layers itself
            for_each_layer(starts[s], starts[s + 1], [&](std::size_t l, std::size_t) { network_.prepare(l); });
        if (!for_each_worker([&](Passes& passes, auto&& interrupted) {
                for (std::size_t l = starts[s]; l < starts[s + 1] && !interrupted(); ++l) {
                    StackPass<T>::forward_layer(passes.data(), passes.size(), l);
                    for (const StackPass<T>& pass : passes) chunk.expect(keep_derivative(chunk.out, pass, l));
                }
            }))
            return;
    }
    for_each_pass([&](StackPass<T>& pass) { pass.load_cotangent(chunk.cotangent); });
    for (std::size_t s = starts.size() - 1; s-- > 0;) {
        if (!for_each_worker([&](Passes& passes, auto&& interrupted) {
                for (std::size_t l = starts[s + 1]; l-- > starts[s] && !interrupted();) {
                    StackPass<T>::backward_layer(passes.data(), passes.size(), l);
                    for (const StackPass<T>& pass : passes) chunk.expect(keep_rows(chunk.out, pass.part(), l));
                }
            }))
            return;
        for_each_layer(starts[s], starts[s + 1],
                       [&](std::size_t l, std::size_t worker) { gradients_of(chunk, l, worker); });
    }
    for_each_pass([&](StackPass<T>& pass) {
        pass.finish_backward();
        chunk.expect(keep_input_gradient(chunk.out, pass));
    });
    merge(chunk);
}

template <class T>
void StackTracer<T>::gradients_of(Chunk& chunk, std::size_t l, std::size_t worker) {
    const SampleOutputs& samples = chunk.out.samples;
    const std::size_t at = l * samples.stride + chunk.blocks[0].first;
    layer_gradient(isa_.get<T>(), network_, l, chunk.blocks, chunk.block_count, samples.log2_delta + at,
                   samples.log2_activation + at, chunk.gradient_scratch[worker], gradients_[l]);
    // One sample alone is like nobody; only its features' shares are asked for.
    if (l == 0 || !options_.one_call || chunk.block_count > 1 || chunk.blocks[0].samples > 1)
        directions_.add(isa_.get<T>(), l, chunk.blocks, chunk.block_count, samples.log2_activation + at,
                        chunk.gradient_scratch[worker].row.data());
}

// In the samples' order, so that the sums do not depend on who computed what when.
template <class T>
void StackTracer<T>::merge(const Chunk& chunk) {
    for (std::size_t i = 0; i < chunk.block_count; ++i) {
        const StackBlock<T>& block = chunk.blocks[i];
        for (std::size_t q = 0; q < block.quanta(); ++q) {
            loss_ += block.loss[q];
            for (std::size_t l = 0; l < network_.depth(); ++l)
                statistics_[l].merge(block.statistics[q * network_.depth() + l]);
            for (std::size_t u = 0; block.may_die && u < block.total_units; ++u)
                alive_[u] |= block.alive[q * block.total_units + u];
        }
        for (std::size_t b = 0; b < block.samples; ++b) nonfinite_ = std::min(nonfinite_, block.nonfinite[b]);
    }
}

template <class T>
void stack_forward(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, const T* x, std::size_t batch, T* y,
                   Interrupt& interrupt) {
    StackNetwork<T> network(isa, std::move(layers));
    const std::size_t depth = network.depth();
    const BatchShape shape = shape_of(network, batch);
    std::vector<StackBlock<T>> blocks;
    std::vector<StackScratch<T>> scratch;
    const Loop over_blocks = loop_over_samples(network, shape.blocks(), batch);
    for (std::size_t i = 0; i < over_blocks.workers(); ++i) {
        blocks.emplace_back(network, shape.block_samples, Keep::last_layer);
        scratch.emplace_back(network, shape.block_samples, 1);
    }
    const std::size_t blocks_bytes = checked_multiply(blocks.size(), blocks[0].arena_bytes),
                      each = scratch_bytes(isa.get<T>());
    Workspace arena(checked_add(blocks_bytes, each * scratch.size()));
    for (std::size_t i = 0; i < scratch.size(); ++i)
        scratch[i].product = arena.as<unsigned char>() + blocks_bytes + i * each;
    prepare_layers(network);
    const SampleOutputs nothing;
    parallel_for(over_blocks, [&](std::size_t i, std::size_t worker) {
        StackBlock<T>& block = blocks[worker];
        block.start(arena.as<unsigned char>() + worker * block.arena_bytes, i * shape.block_samples,
                    samples_of_block(shape, i));
        StackPass<T> pass(isa, network, BlockPart<T>(block), nothing);
        pass.use(scratch[worker], 0);
        pass.load_input(x);
        for (std::size_t l = 0; l < depth && !interrupt.requested(worker); ++l)
            StackPass<T>::forward_layer(&pass, 1, l);
        pass.store_output(y);
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
