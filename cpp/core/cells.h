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
    std::size_t row_blocks;                  // of a row
    std::size_t ih_first = 0, hh_first = 0;  // W_ih and W_hh feed weight_blocks blocks from these on
    std::size_t weight_blocks;               // of hidden rows in each weight matrix
    std::size_t ih_order[4];                 // block ih_first + i of a row is this block of PyTorch's weight_ih
    std::size_t hh_order[4];                 // likewise of weight_hh
    std::size_t gates = 0;                   // with statistics, in PyTorch's order; 0: a cell without gates
    std::size_t gate_block[4] = {};          // the block of a row that holds gate i
    const char* gate_names[4] = {};          // of gate i, the letter last
    std::size_t carry_gate = 0;              // the gate through which the state has a direct path
    std::size_t candidate_block = 0;         // the gate among them that is a tanh
    std::size_t coefficient_blocks;          // of the backward step
    bool has_cell_state = false;             // c beside h
    bool carries = false;                    // whether the state has one
    bool separate_biases = false;            // the gradients of bias_ih and bias_hh differ

    constexpr std::size_t carry_block() const { return gate_block[carry_gate]; }
    // Whether a block behind those of the gates holds what a gate multiplies: the GRU's W_hn h + b_hn.
    constexpr bool has_recurrent_block() const { return gates != 0 && row_blocks > gates; }
    constexpr std::size_t recurrent_block() const { return gates; }
};

constexpr CellShape kLstm{.name = "lstm",
                          .row_blocks = 4,
                          .weight_blocks = 4,
                          .ih_order = {0, 1, 2, 3},
                          .hh_order = {0, 1, 2, 3},
                          .gates = 4,
                          .gate_block = {0, 1, 2, 3},
                          .gate_names = {"input i", "forget f", "candidate g", "output o"},
                          .carry_gate = 1,
                          .candidate_block = 2,
                          .coefficient_blocks = 6,
                          .has_cell_state = true,
                          .carries = true};
constexpr CellShape kGru{.name = "gru",
                         .row_blocks = 4,
                         .hh_first = 1,
                         .weight_blocks = 3,
                         .ih_order = {2, 0, 1},
                         .hh_order = {0, 1, 2},
                         .gates = 3,
                         .gate_block = {1, 2, 0},
                         .gate_names = {"reset r", "update z", "candidate n"},
                         .carry_gate = 1,
                         .candidate_block = 0,
                         .coefficient_blocks = 5,
                         .carries = true,
                         .separate_biases = true};
constexpr CellShape rnn_shape(const char* name) {
    return {
        .name = name, .row_blocks = 1, .weight_blocks = 1, .ih_order = {0}, .hh_order = {0}, .coefficient_blocks = 1};
}
constexpr CellShape kRnnTanh = rnn_shape("rnn_tanh"), kRnnRelu = rnn_shape("rnn_relu");

// In the order of CellKind.
constexpr const CellShape* kCells[kCellKinds] = {&kLstm, &kGru, &kRnnTanh, &kRnnRelu};

constexpr const CellShape& cell_shape(CellKind kind) { return *kCells[static_cast<std::size_t>(kind)]; }

}  // namespace gt
