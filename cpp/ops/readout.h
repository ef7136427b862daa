// A stack behind the outputs of a recurrent network, at each sample's last step or at every step: the rows that it
// reads, and what it sends back to h.
#pragma once

#include <vector>

#include "ops/recurrent_tracer.h"

namespace gt {

template <class T>
class ReadoutRows {
  public:
    ReadoutRows(const RecurrentTracer<T>& tracer, bool every_step);

    // Rows that a stack takes: of each sample, or of the valid steps, step by step.
    std::size_t count() const { return source_.size(); }
    const T* rows() const { return rows_.data(); }
    // Of each: its sample, or step * batch + sample.
    const std::vector<std::int64_t>& source() const { return source_; }

    // dL/d(rows) (count, width) * 2^exponent of each row as the stack's trace gave it, for a sum over rows, times the
    // factor of the loss's mean. Exponents of any size: where logits lie 1e38 apart, so does the gradient's logarithm.
    void send_back(const T* rows, const double* exponent, double factor);
    // What was sent back, as the recurrent network's backward pass takes it; steps past an end get 0.
    typename RecurrentTracer<T>::Cotangent cotangent() const;

  private:
    void read_last(const RecurrentTracer<T>& tracer);
    void read_every(const RecurrentTracer<T>& tracer);

    bool every_step_;
    std::size_t width_, all_;  // all: batch, or steps * batch
    std::vector<std::int64_t> source_;
    std::vector<T> rows_, back_;
    std::vector<double> exponent_;
};

}  // namespace gt
