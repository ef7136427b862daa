#include "ops/cell_weights.h"

#include <algorithm>

#include "ops/subnormals.h"

namespace gt {

template <class T>
void PackedMatrix<T>::take(const KernelTable<T>& kernels, const T* weight, std::size_t block_rows, std::size_t blocks,
                           const std::size_t* order, std::size_t columns, std::size_t batch) {
    outputs = blocks * block_rows;
    inputs = columns;
    rows = batch;
    ScaledValues<T> scaled;
    scaled.take(*kernels.reduce, checked_multiply(outputs, inputs), weight);
    exponent = scaled.exponent();
    const T* from = scaled.data();
    AlignedBuffer<T> ordered;
    if (!std::is_sorted(order, order + blocks)) {
        ordered = AlignedBuffer<T>(outputs * inputs);
        const std::size_t block = block_rows * inputs;
        for (std::size_t i = 0; i < blocks; ++i)
            std::copy(from + order[i] * block, from + (order[i] + 1) * block, ordered.data() + i * block);
        from = ordered.data();
    }
    forward = AlignedBuffer<T>(kernels.panel->size(inputs, outputs, rows));
    kernels.panel->pack(inputs, outputs, from, 1, inputs, nullptr, rows, forward.data());
    backward = AlignedBuffer<T>(kernels.panel->size(outputs, inputs, rows));
    kernels.panel->pack(outputs, inputs, from, inputs, 1, nullptr, rows, backward.data());
}

template <class T>
CellWeights<T>::CellWeights(const IsaKernels& isa, const CellShape& cell, const RecurrentLayer<T>& layer,
                            std::size_t batch)
    : bias(checked_multiply(cell.row_blocks, layer.hidden)) {
    const KernelTable<T>& kernels = isa.get<T>();
    const std::size_t hidden = layer.hidden;
    ih.take(kernels, layer.weight_ih, hidden, cell.weight_blocks, cell.ih_order, layer.inputs, batch);
    hh.take(kernels, layer.weight_hh, hidden, cell.weight_blocks, cell.hh_order, hidden, batch);
    const SubnormalMode keep(Subnormals::keep);
    std::fill(bias.data(), bias.data() + bias.size(), T(0));
    const auto add = [&](const T* from, std::size_t first, const std::size_t* order) {
        if (from == nullptr) return;
        for (std::size_t i = 0; i < cell.weight_blocks; ++i)
            for (std::size_t u = 0; u < hidden; ++u) bias[(first + i) * hidden + u] += from[order[i] * hidden + u];
    };
    add(layer.bias_ih, cell.ih_first, cell.ih_order);
    add(layer.bias_hh, cell.hh_first, cell.hh_order);
}

template struct PackedMatrix<float>;
template struct PackedMatrix<double>;
template struct CellWeights<float>;
template struct CellWeights<double>;

}  // namespace gt
