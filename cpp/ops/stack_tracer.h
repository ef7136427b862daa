// The op behind Stack.trace: batches cut into chunks and blocks (core/shape.h), carried through the stack, and what is
// summed over all samples. One tracer is one trace; `add` may be called for any number of batches.
#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "ops/dense_stack.h"
#include "ops/figures.h"
#include "ops/parallel.h"
#include "ops/scaled_rows.h"
#include "ops/stack_chunk.h"
#include "ops/stack_source.h"
#include "ops/stack_totals.h"

namespace gt {

struct TraceOptions {
    Names keep;             // "deltas", "activations", "derivatives", "grad_weights", "grad_biases", "grad_input"
    bool one_call = true;   // `add` is called once: norms need no sum over calls
    std::size_t every = 1;  // figures of layers 0, every, 2 every, ... alone

    bool keeps(const char* name) const { return keep.count(name) != 0; }
};

template <class T>
struct CallOutputs {
    SampleOutputs samples;
    std::vector<KeptRows<T>> deltas, activations, derivatives;  // depth entries, or empty
    KeptRows<T> grad_input;                                     // (batch, n_0), or null
};

// Counts the units of some layers, outputs alone, and those of normalised layers.
struct StackUnits {
    std::vector<std::size_t> sizes;  // (depth + 1,)
    std::size_t total = 0, normalised = 0;

    std::size_t depth() const { return sizes.size() - 1; }
};
template <class T>
StackUnits units_of(const std::vector<DenseLayer<T>>& layers);
template <class T>
StackUnits units_of(const StackSource<T>& source);

// What all ways through a stack leave behind.
template <class T>
class AnyStackTracer {
  public:
    virtual ~AnyStackTracer() = default;

    // x (batch, n_0). Throws Interrupted, std::bad_alloc, std::overflow_error (a kept exponent beyond int64).
    virtual void add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
                     Interrupt& interrupt) = 0;

    CallOutputs<T> outputs(std::size_t batch, Figures<T>& figures) const;  // what one call of `add` writes
    CountedFigures<T> memory(std::size_t batch) const;                     // that they take, gradients included
    bool results(Figures<T>& figures);  // of all samples; false where a kept exponent is beyond int64
    MeanFactors mean() const { return mean_factors(kind_, samples_, units_.sizes.back()); }
    double loss() const { return loss_ * mean().value; }  // the mean
    double feature_share() const { return feature_share_; }
    std::size_t first_nonfinite() const { return nonfinite_; }  // depth where there is none
    std::size_t samples() const { return samples_; }
    std::size_t depth() const { return units_.depth(); }

  protected:
    using OnPass = typename StackChunk<T>::OnPass;
    // Some layers of the stack, `out` of them alone.
    struct Layers {
        StackNetwork<T>& network;
        StackTotals<T>& totals;
        const CallOutputs<T>& out;
        OnPass load, load_gradient, finish;
    };

    AnyStackTracer(const IsaKernels& isa, StackUnits units, TraceOptions options);
    // A chunk that has been started, there and back; false: interrupted.
    bool trace_chunk(StackChunk<T>& chunk, const Layers& layers, bool prepared);
    void expect(bool fits) {
        if (!fits) exponent_lost_ = true;
    }
    void check_exponents() const;
    void add_loss(const StackChunk<T>& chunk);
    void count(std::size_t batch, const Cotangent<T>& cotangent);
    // Of layers [first, first + network.depth()), so far.
    void take_figures(const StackNetwork<T>& network, const StackTotals<T>& totals, std::size_t first);
    bool sums_weights(const BatchShape& shape) const;  // over chunks or calls, or kept
    bool sums_biases(const BatchShape& shape) const;
    bool keep_input_gradient(const CallOutputs<T>& out, const StackPass<T>& pass) const;
    virtual void conclude() {}                                          // all samples have been added
    virtual const LayerGradient<T>& gradient(std::size_t l) const = 0;  // summed, where gradients are kept

    const IsaKernels& isa_;
    StackUnits units_;
    TraceOptions options_;
    double feature_share_ = kNaN;
    std::size_t nonfinite_;
    bool prepared_ = false;

  private:
    bool keep_gradients(Figures<T>& figures) const;
    // stack_kept.cpp; false where an exponent is beyond int64.
    bool keep_derivative(const CallOutputs<T>& out, const StackNetwork<T>& network, const StackPass<T>& pass,
                         std::size_t l) const;
    bool keep_rows(const CallOutputs<T>& out, const StackNetwork<T>& network, const BlockPart<T>& part,
                   std::size_t l) const;

    std::vector<LayerFigures> figures_;  // of every layer that is returned
    CotangentKind kind_ = CotangentKind::given;
    double loss_ = 0;
    std::size_t samples_ = 0;
    std::atomic<bool> exponent_lost_{false};
};

// All layers at once: their weights are the caller's, and what a chunk leaves at every layer is in memory.
template <class T>
class StackTracer final : public AnyStackTracer<T> {
  public:
    StackTracer(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, TraceOptions options);
    void add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
             Interrupt& interrupt) override;

  private:
    void conclude() override { this->take_figures(network_, totals_, 0); }
    const LayerGradient<T>& gradient(std::size_t l) const override { return totals_.gradient(l); }

    StackNetwork<T> network_;
    StackTotals<T> totals_;
};

}  // namespace gt
