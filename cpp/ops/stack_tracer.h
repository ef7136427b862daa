// The op behind Stack.trace: batches cut into chunks and blocks (core/shape.h), carried through the stack, and what is
// summed over all samples. One tracer is one trace; `add` may be called for any number of batches.
#pragma once

#include <vector>

#include "ops/dense_gradients.h"
#include "ops/dense_stack.h"
#include "ops/directions.h"
#include "ops/figures.h"
#include "ops/parallel.h"
#include "ops/scaled_rows.h"

namespace gt {

struct TraceOptions {
    Names keep;            // "deltas", "activations", "derivatives", "grad_weights", "grad_biases", "grad_input"
    bool one_call = true;  // `add` is called once: norms need no sum over calls

    bool keeps(const char* name) const { return keep.count(name) != 0; }
};

template <class T>
struct CallOutputs {
    SampleOutputs samples;
    std::vector<KeptRows<T>> deltas, activations, derivatives;  // depth entries, or empty
    KeptRows<T> grad_input;                                     // (batch, n_0), or null
};

template <class T>
class StackTracer {
  public:
    StackTracer(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, TraceOptions options);

    // x (batch, n_0). Throws Interrupted, std::bad_alloc, std::overflow_error (a kept exponent beyond int64).
    void add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
             Interrupt& interrupt);

    CallOutputs<T> outputs(std::size_t batch, Figures<T>& figures) const;  // what one call of `add` writes
    CountedFigures<T> memory(std::size_t batch) const;                     // that they take, gradients included
    bool results(Figures<T>& figures) const;  // of all samples; false where a kept exponent is beyond int64
    MeanFactors mean() const { return mean_factors(kind_, samples_, network_.units(network_.depth())); }
    double loss() const { return loss_ * mean().value; }  // the mean
    double feature_share() const { return directions_.feature_share(); }
    std::size_t first_nonfinite() const { return nonfinite_; }  // depth where there is none
    std::size_t samples() const { return samples_; }
    std::size_t depth() const { return network_.depth(); }

  private:
    struct Chunk;
    using Passes = std::vector<StackPass<T>>;
    void trace_chunk(Chunk& chunk);
    std::vector<Passes> cut(Chunk& chunk);
    std::vector<std::size_t> segments(bool alone, std::size_t workers) const;
    void gradients_of(Chunk& chunk, std::size_t l, std::size_t worker);
    void merge(const Chunk& chunk);
    void count_dead(std::vector<double>* dead, std::vector<double>* by_bias) const;
    bool keep_gradients(Figures<T>& figures) const;
    // stack_kept.cpp; false where an exponent is beyond int64.
    bool keep_derivative(const CallOutputs<T>& out, const StackPass<T>& pass, std::size_t l) const;
    bool keep_rows(const CallOutputs<T>& out, const BlockPart<T>& part, std::size_t l) const;
    bool keep_input_gradient(const CallOutputs<T>& out, const StackPass<T>& pass) const;

    const IsaKernels& isa_;
    StackNetwork<T> network_;
    TraceOptions options_;
    bool prepared_ = false;
    std::vector<LayerGradient<T>> gradients_;
    std::vector<LayerStatistics> statistics_;
    Directions<T> directions_;
    std::vector<std::uint8_t> alive_;
    CotangentKind kind_ = CotangentKind::given;
    double loss_ = 0;
    std::size_t nonfinite_, samples_ = 0;
};

// y (batch, n_L) in plain values.
template <class T>
void stack_forward(const IsaKernels& isa, std::vector<DenseLayer<T>> layers, const T* x, std::size_t batch, T* y,
                   Interrupt& interrupt);

}  // namespace gt
