// The batch's weight and bias gradients of one layer, dW = sum_b delta_b a_b^T and db = sum_b delta_b, from the kept
// tiles of a chunk of blocks: their norms, and the gradients themselves where they are kept.
#pragma once

#include <vector>

#include "ops/dense_stack.h"
#include "ops/scaled_sum.h"

namespace gt {

template <class T>
struct LayerGradient {
    double log2_weight = kNegativeInfinity, log2_bias = kNegativeInfinity;  // of the last chunk, when nothing is summed
    ScaledSum<T> weight;     // (outputs, inputs); empty unless it is kept or there are several chunks
    ScaledSum<double> bias;  // (outputs,); likewise
};

constexpr std::size_t kGradientStripRows = 32;  // of dW at a time

// Memory of one worker.
template <class T>
struct GradientScratch {
    GradientScratch(std::size_t columns, std::size_t blocks, std::size_t max_units);

    AlignedBuffer<T> left, right, strip;
    AlignedBuffer<double> row;  // an entry for each unit
    ScaledTerms weight, bias;
    void* product = nullptr;  // scratch of products; the trace's
};

// Adds to the sums of `out` that have a size, or leaves the norms in it. `log2_delta` and `log2_activation`: norms of
// delta[l] and a[l], one entry per sample of the chunk.
template <class T>
void layer_gradient(const KernelTable<T>& kernels, const StackNetwork<T>& network, std::size_t l,
                    const std::vector<StackBlock<T>>& blocks, std::size_t block_count, const double* log2_delta,
                    const double* log2_activation, GradientScratch<T>& scratch, LayerGradient<T>& out);

}  // namespace gt
