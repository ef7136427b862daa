// Do samples still point different ways? Sums of the directions a_b / |a_b| of what each layer reads.
#pragma once

#include <cstddef>
#include <vector>

#include "core/aligned_buffer.h"
#include "ops/dense_stack.h"

namespace gt {

// Over all layers of a stack, batch by batch; a layer's sums are taken by one worker at a time, block by block, so that
// they do not depend on the number of workers.
template <class T>
class Directions {
  public:
    // `has_input`: what the first layer reads is the input of the stack.
    Directions(const StackNetwork<T>& network, bool has_input);

    // The samples of a chunk's blocks as layer l reads them. `log2_activation`: their norms; samples of zeros have no
    // direction. `row`: scratch, one entry for each unit.
    void add(const KernelTable<T>& kernels, std::size_t l, const std::vector<StackBlock<T>>& blocks,
             std::size_t block_count, const double* log2_activation, double* row);

    // Mean cosine between two different samples; NaN where there are not two.
    double similarity(std::size_t l) const;
    // Largest share that one input has of the squared norm of x, mean over samples; NaN without samples.
    double feature_share() const;

  private:
    std::size_t units(std::size_t l) const { return first_[l + 1] - first_[l]; }
    void add_shares(const StackBlock<T>& block, const double* factor);

    bool has_input_;
    std::vector<std::size_t> first_;           // of each layer's inputs in `sum_`
    std::vector<double> sum_, count_, share_;  // of directions, of samples, and of squared directions of the input
};

}  // namespace gt
