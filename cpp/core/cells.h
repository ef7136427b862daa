// The recurrent cells: the order of the gates in a row, written once, and what an op must know of each cell.
//
// A row of one sample and step holds `row_blocks` blocks of `hidden` numbers: the preactivations after the forward
// pass, their gradients after the backward pass.
#pragma once

#include <cstddef>

namespace gt {

// i, f, g, o: PyTorch's order.
struct LstmBlock {
    static constexpr std::size_t input = 0, forget = 1, candidate = 2, output = 3;
};

// The candidate is tanh(candidate + reset * recurrent) with recurrent = W_hn h + b_hn. In this order W_ih feeds the
// first three blocks and W_hh the last three.
struct GruBlock {
    static constexpr std::size_t candidate = 0, reset = 1, update = 2, recurrent = 3;
};

enum class CellKind : std::size_t { lstm, gru, rnn_tanh, rnn_relu };
constexpr std::size_t kCellKinds = 4;

struct CellShape {
    const char* name;
    std::size_t row_blocks;          // of a row
    std::size_t ih_first, hh_first;  // W_ih and W_hh feed weight_blocks blocks from these on
    std::size_t weight_blocks;       // of hidden rows in each weight matrix
    std::size_t ih_order[4];         // block ih_first + i of a row is this block of PyTorch's weight_ih
    std::size_t hh_order[4];         // likewise of weight_hh
    std::size_t gates;               // with statistics, in PyTorch's order; 0: a cell without gates
    std::size_t gate_block[4];       // the block of a row that holds gate i
    std::size_t candidate_block;     // the gate among them that is a tanh
    std::size_t coefficient_blocks;  // of the backward step
    bool has_cell_state;             // c beside h
    bool carries;                    // the state has a direct path through a gate
    bool separate_biases;            // the gradients of bias_ih and bias_hh differ
};

constexpr CellShape kLstm{"lstm", 4, 0, 0, 4, {0, 1, 2, 3}, {0, 1, 2, 3}, 4, {0, 1, 2, 3}, 2, 6, true, true, false};
constexpr CellShape kGru{"gru", 4, 0, 1, 3, {2, 0, 1}, {0, 1, 2}, 3, {1, 2, 0}, 0, 5, false, true, true};
constexpr CellShape kRnnTanh{"rnn_tanh", 1, 0, 0, 1, {0}, {0}, 0, {}, 0, 1, false, false, false};
constexpr CellShape kRnnRelu{"rnn_relu", 1, 0, 0, 1, {0}, {0}, 0, {}, 0, 1, false, false, false};

// In the order of CellKind.
constexpr const CellShape* kCells[kCellKinds] = {&kLstm, &kGru, &kRnnTanh, &kRnnRelu};

constexpr const CellShape& cell_shape(CellKind kind) { return *kCells[static_cast<std::size_t>(kind)]; }

}  // namespace gt
