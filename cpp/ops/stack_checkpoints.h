// Where a stack is cut so that its trace fits a given memory. A *stretch* is the layers between two cuts: what a trace
// leaves at each layer is in memory for one stretch at a time, and at the cuts a checkpoint waits from which the
// stretch behind it is computed forward again, before its backward pass. Of L layers, stretches of about sqrt(L) take
// least (Griewank and Walther, "Algorithm 799: revolve", 2000, for one level).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "ops/stack_tracer.h"

namespace gt {

struct MemoryTooSmall {  // thrown where no cut fits
    std::size_t least;   // bytes that do
};

// What the layers of a stack take in memory, beside the figures that are returned.
class StretchCosts {
  public:
    template <class T>
    StretchCosts(const StackSource<T>& source, const StackUnits& units, const BatchShape& shape, bool sums_gradients);

    std::size_t whole() const { return checked_add(behind_.back(), fixed_); }  // of a trace without cuts
    // The first layer of every stretch, and the depth: the longest stretches within `memory` bytes, or those that take
    // least where it is 0. Throws MemoryTooSmall.
    std::vector<std::size_t> cut(std::size_t memory) const;

  private:
    struct Cuts {
        std::vector<std::size_t> starts;
        std::size_t bytes = 0;
    };
    Cuts cut_at(std::size_t stretch_bytes) const;

    std::vector<std::size_t> behind_;      // (depth + 1,): bytes of all layers before l
    std::vector<std::size_t> checkpoint_;  // (depth,): bytes of one before layer l
    std::size_t fixed_ = 0;                // whatever the cuts are
};

// As StackTracer, but stretch by stretch, with the same bits; weights may be drawn ones. Those of a stretch are drawn
// once on the way forward and, but for the last stretch, once more when it is computed again; then they stay until its
// backward pass is done.
template <class T>
class CheckpointTracer final : public AnyStackTracer<T> {
  public:
    CheckpointTracer(const IsaKernels& isa, const StackSource<T>& source, TraceOptions options,
                     std::vector<std::size_t> starts);
    void add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
             Interrupt& interrupt) override;

  private:
    struct Call;
    struct Rows;
    std::size_t stretches() const { return starts_.size() - 1; }
    StackNetwork<T> network_of(std::size_t s, Interrupt& interrupt);
    StackTotals<T>& totals_of(std::size_t s, const StackNetwork<T>& network);
    typename StackChunk<T>::OnPass load_rows(const Call& call, std::size_t s) const;
    void run_forward(Call& call, std::size_t s);
    void trace_stretch(Call& call, std::size_t s);
    const LayerGradient<T>& gradient(std::size_t l) const override;

    const StackSource<T>& source_;
    std::vector<std::size_t> starts_;
    DrawnArrays<T> arrays_;
    std::vector<std::unique_ptr<StackTotals<T>>> totals_;  // of every stretch; null while nothing is summed
    bool keeps_totals_;                                    // over calls, or for the gradients
};

// The tracer that suits: all layers at once where they fit `memory` bytes, by checkpoints where they do not. 0: where
// they are no burden to this machine, or, of drawn ones, small. Throws MemoryTooSmall.
template <class T>
std::unique_ptr<AnyStackTracer<T>> open_tracer(const IsaKernels& isa, const StackSource<T>& source,
                                               const TraceOptions& options, std::size_t batch, std::size_t memory);

}  // namespace gt
