// One chunk of samples on its way through a network, some layers of a stack or all of them: blocks cut into parts for
// the workers, forward, backward, and what follows each layer (core/shape.h).
#pragma once

#include <functional>
#include <vector>

#include "core/shape.h"
#include "ops/dense_gradients.h"
#include "ops/dense_stack.h"
#include "ops/parallel.h"
#include "ops/workspace.h"

namespace gt {

// How a batch is cut: `bytes_per_sample` is that of the whole stack, whatever layers a network has of it.
template <class T>
BatchShape stack_shape(std::size_t total_units, std::size_t normalised_units, std::size_t batch);

// Two operations for each weight and sample, and of that about three times in a trace.
template <class T>
Loop loop_over_samples(const StackNetwork<T>& network, std::size_t items, std::size_t samples);
template <class T>
Loop loop_over_layers(const StackNetwork<T>& network, std::size_t samples);

template <class T>
class StackChunk {
  public:
    using OnPass = std::function<void(StackPass<T>&)>;
    using OnLayer = std::function<void(StackPass<T>&, std::size_t l)>;
    using OnGradients = std::function<void(std::size_t l, GradientScratch<T>&)>;

    StackChunk(const IsaKernels& isa, StackNetwork<T>& network, const BatchShape& shape, Keep keep,
               Interrupt& interrupt);
    StackChunk(const StackChunk&) = delete;

    std::size_t blocks_at_a_time() const { return blocks_.size(); }
    // The blocks from `first` on, as many as a chunk has.
    void start(std::size_t first, const SampleOutputs& out);
    const std::vector<StackBlock<T>>& blocks() const { return blocks_; }
    std::size_t count() const { return count_; }  // of the blocks under way

    // False: interrupted. `prepared`: the network's weights are.
    bool forward(bool prepared, const OnPass& load, const OnLayer& after);
    // `gradients`: of a layer that all blocks have passed.
    bool backward(const OnPass& load, const OnLayer& after, const OnGradients& gradients);
    void for_each_pass(const OnPass& body);

  private:
    using Passes = std::vector<StackPass<T>>;
    template <class F>
    bool for_each_worker(F&& body);
    void cut(const SampleOutputs& out);
    std::vector<std::size_t> segments() const;

    const IsaKernels& isa_;
    StackNetwork<T>& network_;
    BatchShape shape_;
    Interrupt& interrupt_;
    Loop over_samples_, over_layers_, over_items_;
    std::vector<StackBlock<T>> blocks_;
    std::vector<StackScratch<T>> scratch_;
    std::vector<GradientScratch<T>> gradient_scratch_;
    Workspace arena_;
    std::size_t count_ = 0;
    std::vector<Passes> items_;
};

}  // namespace gt
