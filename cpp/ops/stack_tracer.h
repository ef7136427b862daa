// The op behind Stack.trace: batches cut into chunks and blocks, carried through the stack, and what is summed over all
// samples. One tracer is one trace; `add` may be called for any number of batches.
#pragma once

#include <vector>

#include "ops/dense_stack.h"
#include "ops/gradient_norms.h"
#include "ops/parallel.h"
#include "ops/scaled_rows.h"

namespace gt {

struct TraceOptions {
    bool form_weights = false;  // the batch's weight gradients are kept
    bool form_biases = false;
    bool one_call = true;  // `add` is called once: norms need no sum over calls
};

template <class T>
struct CallOutputs {
    SampleOutputs samples;
    std::vector<KeptRows<T>> deltas, activations, derivatives;  // depth entries, or empty
    KeptRows<T> grad_input;                                     // (batch, n_0), or null
};

struct LayerResult {
    double log2_weight = 0, log2_grad_weight = 0, log2_grad_bias = 0;
    LayerStatistics statistics;
    double dead_units = 0, dead_by_bias = 0;  // shares: dead, and of these such as are on without their bias
};

template <class T>
class StackTracer {
  public:
    StackTracer(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, TraceOptions options);

    // x (batch, n_0). Throws Interrupted, std::bad_alloc, std::overflow_error (a kept exponent beyond int64).
    void add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
             Interrupt& interrupt);

    std::vector<LayerResult> results();
    std::vector<LayerGradient<T>>& gradients() { return gradients_; }
    double loss() const { return loss_; }                       // summed over samples (and units for mse)
    std::size_t first_nonfinite() const { return nonfinite_; }  // depth where there is none
    std::size_t samples() const { return samples_; }
    const StackNetwork<T>& network() const { return network_; }

  private:
    struct Chunk;
    using Passes = std::vector<StackPass<T>>;
    void trace_chunk(Chunk& chunk);
    std::vector<Passes> cut(Chunk& chunk);
    std::vector<std::size_t> segments(bool alone, std::size_t workers) const;
    void finish(Chunk& chunk, StackPass<T>& pass);
    void gradients_of(Chunk& chunk, std::size_t l, std::size_t worker);
    void keep_rows(Chunk& chunk, const BlockPart<T>& part, std::size_t l);
    void keep_derivative(Chunk& chunk, const StackPass<T>& pass, std::size_t l);
    void merge(const Chunk& chunk);

    const IsaKernels& isa_;
    StackNetwork<T> network_;
    TraceOptions options_;
    bool prepared_ = false;
    std::vector<LayerGradient<T>> gradients_;
    std::vector<LayerStatistics> statistics_;
    std::vector<std::uint8_t> alive_;
    double loss_ = 0;
    std::size_t nonfinite_, samples_ = 0;
};

// y (batch, n_L) in plain values.
template <class T>
void stack_forward(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, const T* x, std::size_t batch, T* y,
                   Interrupt& interrupt);

}  // namespace gt
