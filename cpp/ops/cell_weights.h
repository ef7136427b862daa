// The parameters of one direction of one recurrent layer, packed once for a whole sequence.
#pragma once

#include "core/aligned_buffer.h"
#include "core/cells.h"
#include "isa/dispatch.h"
#include "ops/scaled_values.h"

namespace gt {

// As the caller has them, PyTorch's layout: weight_ih (B H, inputs), weight_hh (B H, H), biases (B H,) or null, where B
// is the cell's number of weight blocks.
template <class T>
struct RecurrentLayer {
    std::size_t inputs, hidden;
    const T *weight_ih, *weight_hh, *bias_ih, *bias_hh;
};

// One weight matrix (m, n), as W = value * 2^exponent, ready for both passes: x W^T forward, dz W backward.
template <class T>
struct PackedMatrix {
    void take(const KernelTable<T>& kernels, const T* weight, std::size_t block_rows, std::size_t blocks,
              const std::size_t* order, std::size_t columns, std::size_t batch);

    std::size_t outputs = 0, inputs = 0;  // m, n
    std::size_t rows = 0;                 // of a product at most: the samples of a step
    AlignedBuffer<T> forward, backward;   // panels
    double exponent = 0;
};

template <class T>
struct CellWeights {
    CellWeights(const IsaKernels& isa, const CellShape& cell, const RecurrentLayer<T>& layer, std::size_t batch);

    PackedMatrix<T> ih, hh;
    AlignedBuffer<T> bias;  // (row_blocks * hidden,)
};

}  // namespace gt
