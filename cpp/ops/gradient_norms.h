// Norms of the batch's weight and bias gradients of one layer, dW = sum_b delta_b a_b^T and db = sum_b delta_b, from
// the kept tiles of a chunk of blocks. Without forming dW where that is less work:
//
//   |dW|^2 = sum over pairs of samples of (delta_b . delta_b') (a_b . a_b'),   |db|^2 = sum of (delta_b . delta_b')
#pragma once

#include <vector>

#include "core/aligned_buffer.h"
#include "ops/dense_stack.h"

namespace gt {

// A gradient that grows over chunks: value * 2^exponent, exponent -inf while it is zero.
template <class V>
struct GradientSum {
    AlignedBuffer<V> value;
    double exponent = kNegativeInfinity;

    void reset(std::size_t count);
    // Makes room for a term at `other`: the values are moved to the larger exponent, which is returned.
    double align(double other);
    double log2_norm() const;
};

template <class T>
struct LayerGradient {
    double log2_weight = kNegativeInfinity, log2_bias = kNegativeInfinity;  // of the last chunk, when nothing is summed
    GradientSum<T> weight;     // (outputs, inputs); empty unless it is kept or there are several chunks
    GradientSum<double> bias;  // (outputs,); likewise
};

constexpr std::size_t kGradientStripRows = 32;  // of dW at a time

// Memory of one worker.
template <class T>
struct GradientScratch {
    AlignedBuffer<T> left, right, strip;
    void* product = nullptr;  // lent to products; the trace's
    void reserve(std::size_t left_count, std::size_t right_count, std::size_t strip_count);
};

// Squares under this share of (sum of |delta| |a|)^2 have cancelled: the pair sums are then mostly rounding.
constexpr double kCancelled = 1e-3;

// Whether a layer's gradient norm takes the pair sums: decided by shapes.
bool pairs_are_cheaper(std::size_t samples, std::size_t inputs, std::size_t outputs);

// Adds to the sums of `out` that have a size, or leaves the norms in it. `log2_delta` and `log2_activation`: norms of
// delta[l] and a[l], one entry per sample of the chunk.
template <class T>
void layer_gradient(const KernelTable<T>& kernels, const StackNetwork<T>& network, std::size_t l,
                    const std::vector<StackBlock<T>>& blocks, std::size_t block_count, const double* log2_delta,
                    const double* log2_activation, GradientScratch<T>& scratch, LayerGradient<T>& out);

}  // namespace gt
