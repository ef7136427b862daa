#include "ops/stack_chunk.h"

#include <algorithm>

namespace gt {
namespace {

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

template <class T>
std::vector<StackBlock<T>> blocks_of(const StackNetwork<T>& network, const BatchShape& shape, Keep keep) {
    std::vector<StackBlock<T>> blocks;
    const std::size_t count = std::min(shape.chunk_blocks, shape.blocks());
    for (std::size_t i = 0; i < count; ++i) blocks.emplace_back(network, shape.block_samples, keep);
    return blocks;
}

}  // namespace

template <class T>
BatchShape stack_shape(std::size_t total_units, std::size_t normalised_units, std::size_t batch) {
    // What one sample occupies: activations of the input and all layers, deltas of all layers, normalised values.
    const std::size_t bytes =
        checked_multiply(checked_add(checked_multiply(total_units, 2), normalised_units), sizeof(T));
    return cut_batch(batch, bytes, kColumnMultiple, kMaxColumns);
}

template <class T>
Loop loop_over_samples(const StackNetwork<T>& network, std::size_t items, std::size_t samples) {
    return {items, 4 * network.total_weights() * static_cast<double>(samples)};
}

template <class T>
Loop loop_over_layers(const StackNetwork<T>& network, std::size_t samples) {
    return {network.depth(), 2 * network.total_weights() * static_cast<double>(samples)};
}

template <class T>
StackChunk<T>::StackChunk(const IsaKernels& isa, StackNetwork<T>& network, const BatchShape& shape, Keep keep,
                          Interrupt& interrupt)
    : isa_(isa),
      network_(network),
      shape_(shape),
      interrupt_(interrupt),
      over_samples_(loop_over_samples(
          network, std::min(shape.chunk_blocks, shape.blocks()) * divide_up(shape.block_samples, kColumnMultiple),
          shape.samples)),
      over_layers_(loop_over_layers(network, shape.samples)),
      over_items_(over_samples_),
      blocks_(blocks_of(network, shape, keep)),
      // Behind the blocks, the scratch of each worker's products.
      arena_(checked_add(checked_multiply(blocks_.size(), blocks_[0].arena_bytes),
                         scratch_bytes(isa.get<T>()) * std::max(over_samples_.workers(), over_layers_.workers()))) {
    const std::size_t behind = blocks_.size() * blocks_[0].arena_bytes, columns = shape.block_samples;
    const auto product_scratch = [&](std::size_t worker) {
        return arena_.template as<unsigned char>() + behind + worker * scratch_bytes(isa.get<T>());
    };
    for (std::size_t i = 0; i < over_samples_.workers(); ++i) {
        scratch_.emplace_back(network, columns, side_by_side(blocks_.size(), over_samples_.workers()));
        scratch_[i].product = product_scratch(i);
    }
    for (std::size_t i = 0; keep == Keep::all_layers && i < over_layers_.workers(); ++i) {
        gradient_scratch_.emplace_back(columns, blocks_.size(), network.max_units());
        gradient_scratch_[i].product = product_scratch(i);
    }
}

template <class T>
void StackChunk<T>::start(std::size_t first, const SampleOutputs& out) {
    count_ = std::min(blocks_.size(), shape_.blocks() - first);
    for (std::size_t i = 0; i < count_; ++i) {
        const std::size_t sample = (first + i) * shape_.block_samples;
        blocks_[i].start(arena_.template as<unsigned char>() + i * blocks_[i].arena_bytes, sample,
                         std::min(shape_.block_samples, shape_.samples - sample));
    }
    cut(out);
}

// What one worker carries through the layers: some blocks, or parts of them, side by side, so that each layer's weights
// come from memory once for all of them. Neither changes a bit.
template <class T>
void StackChunk<T>::cut(const SampleOutputs& out) {
    const std::size_t workers = over_samples_.workers(), group = side_by_side(count_, workers),
                      groups = divide_up(count_, group),
                      parts = std::min(divide_up(workers, groups), blocks_[0].quanta());
    items_.clear();
    for (std::size_t first = 0; first < count_; first += group)
        for (std::size_t part = 0; part < parts; ++part) {
            items_.emplace_back();
            for (std::size_t i = first; i < std::min(first + group, count_); ++i)
                items_.back().emplace_back(isa_, network_, part_of(blocks_[i], part, parts), out);
        }
    over_items_ = over_samples_.of(items_.size());
}

// Layers that all workers pass before any goes on, so that what follows a pass over them finds weights and tiles in the
// cache: the first layer of each, and the depth. Workers meet at each; one alone has nobody to wait for.
template <class T>
std::vector<std::size_t> StackChunk<T>::segments() const {
    constexpr std::size_t kWeightBytes = std::size_t{512} << 10;
    const bool alone = items_.size() == 1;
    const std::size_t workers = over_items_.workers();
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
template <class F>
bool StackChunk<T>::for_each_worker(F&& body) {
    for_each(over_items_, [&](std::size_t i, std::size_t worker) {
        for (std::size_t k = 0; k < items_[i].size(); ++k) items_[i][k].use(scratch_[worker], k);
        body(items_[i], [&] { return interrupt_.requested(worker); });
    });
    return !interrupt_.stopped();
}

template <class T>
void StackChunk<T>::for_each_pass(const OnPass& body) {
    const SubnormalMode flush(Subnormals::flush);
    for_each_worker([&](Passes& passes, auto&& interrupted) {
        for (std::size_t k = 0; k < passes.size() && !interrupted(); ++k) body(passes[k]);
    });
}

template <class T>
bool StackChunk<T>::forward(bool prepared, const OnPass& load, const OnLayer& after) {
    const SubnormalMode flush(Subnormals::flush);
    const std::vector<std::size_t> starts = segments();
    for_each_pass(load);
    for (std::size_t s = 0; s + 1 < starts.size(); ++s) {
        if (!prepared && blocks_[0].columns > 1)  // a single sample's pass prepares its layers itself
            for_each(over_layers_.of(starts[s + 1] - starts[s]),
                     [&](std::size_t i, std::size_t) { network_.prepare(starts[s] + i); });
        if (!for_each_worker([&](Passes& passes, auto&& interrupted) {
                for (std::size_t l = starts[s]; l < starts[s + 1] && !interrupted(); ++l) {
                    StackPass<T>::forward_layer(passes.data(), passes.size(), l);
                    for (StackPass<T>& pass : passes) after(pass, l);
                }
            }))
            return false;
    }
    return true;
}

template <class T>
bool StackChunk<T>::backward(const OnPass& load, const OnLayer& after, const OnGradients& gradients) {
    const SubnormalMode flush(Subnormals::flush);
    const std::vector<std::size_t> starts = segments();
    for_each_pass(load);
    for (std::size_t s = starts.size() - 1; s-- > 0;) {
        if (!for_each_worker([&](Passes& passes, auto&& interrupted) {
                for (std::size_t l = starts[s + 1]; l-- > starts[s] && !interrupted();) {
                    StackPass<T>::backward_layer(passes.data(), passes.size(), l);
                    for (StackPass<T>& pass : passes) after(pass, l);
                }
            }))
            return false;
        for_each(over_layers_.of(starts[s + 1] - starts[s]),
                 [&](std::size_t i, std::size_t worker) { gradients(starts[s] + i, gradient_scratch_[worker]); });
    }
    return true;
}

template BatchShape stack_shape<float>(std::size_t, std::size_t, std::size_t);
template BatchShape stack_shape<double>(std::size_t, std::size_t, std::size_t);
template Loop loop_over_samples<float>(const StackNetwork<float>&, std::size_t, std::size_t);
template Loop loop_over_samples<double>(const StackNetwork<double>&, std::size_t, std::size_t);
template Loop loop_over_layers<float>(const StackNetwork<float>&, std::size_t);
template Loop loop_over_layers<double>(const StackNetwork<double>&, std::size_t);
template class StackChunk<float>;
template class StackChunk<double>;

}  // namespace gt
