// One sample's state along time, and what its steps do to small changes of it.
#pragma once

#include <vector>

#include "core/aligned_buffer.h"
#include "core/cells.h"
#include "ops/recurrent_tracer.h"

namespace gt {

class RecurrentTangent {
  public:
    // `columns`: of directions at a time at most, 1 or a multiple of kColumnMultiple; `slots`: steps that are held.
    RecurrentTangent(const IsaKernels& isa, const RecurrentNetwork<double>& network, std::size_t columns,
                     std::size_t slots);

    // h0, c0: null for zero.
    void start(std::size_t layer, const double* h0, const double* c0);
    // One step further, which is held in `slot`.
    void advance(const double* x, std::size_t slot);
    // What that step makes of changes of the state before it: directions are the columns of tiles (state size, columns)
    // of row stride ld.
    void apply(std::size_t slot, std::size_t columns, std::size_t ld, const double* before, double* after);
    // The transposed map: gradients of the state after that step become those of the state before it.
    void apply_transposed(std::size_t slot, std::size_t columns, std::size_t ld, const double* after, double* before);
    // Numbers of the state that depend on the one before that step.
    std::size_t live(std::size_t slot) const { return live_[slot]; }
    bool finite(std::size_t slot) const;  // whether no number of that step's map is inf or NaN, weights apart

  private:
    struct Layer {
        RecurrentLayer<double> weights;
        std::size_t first;  // row of h in a tile; c behind it
        std::vector<double> h, c, next_h, next_c, z, bias, units;
        std::vector<double> coefficients;    // (slots, coefficient blocks * hidden)
        AlignedBuffer<double> fed, carried;  // W_ih dx, W_hh dh; (weight blocks * hidden, columns)
    };
    void prepare(Layer* layer, std::size_t columns, std::size_t slots) const;
    void advance_layer(Layer* layer, const double* x, std::size_t slot);
    void add_product(const double* weight, std::size_t columns, const std::size_t* order, std::size_t hidden,
                     const double* x, double* z) const;
    struct Tiles {
        std::size_t columns, ld;
        const double* before;
        double* after;
    };
    struct Gradients {
        std::size_t columns, ld;
        double *after, *before;  // what arrives, which a layer above adds to; what goes on
    };
    void apply_gates(Layer& layer, const double* at, const Tiles& tiles, const double* below);
    void apply_lstm(const Layer& layer, const double* at, const Tiles& tiles) const;
    void apply_gru(const Layer& layer, const double* at, const Tiles& tiles) const;
    void apply_rnn(const Layer& layer, const double* at, const Tiles& tiles, const double* below);
    // What of after's rows of a layer goes on: dz (blocks of W_hh; a GRU's of W_ih apart), what is kept of the state.
    const double* transposed_rnn(Layer& layer, const double* at, const Gradients& g);
    const double* transposed_lstm(Layer& layer, const double* at, const Gradients& g);
    const double* transposed_gru(Layer& layer, const double* at, const Gradients& g);
    // to (inputs, columns) [+]= W^T dz
    void product_transposed(const double* weight, std::size_t rows, std::size_t inputs, std::size_t columns,
                            const double* dz, double* to, std::size_t ld, bool add);
    // to (rows, columns) [+]= W from, row strides to_ld and tiles.ld.
    void product(const double* weight, std::size_t rows, std::size_t inputs, const Tiles& tiles, const double* from,
                 double* to, std::size_t to_ld, bool add);
    std::size_t coefficients_of(const Layer& layer) const { return cell_.coefficient_blocks * layer.weights.hidden; }

    const IsaKernels* isa_;
    CellKind kind_;
    const CellShape& cell_;
    std::vector<Layer> layers_;
    std::size_t size_ = 0;  // of the state
    std::vector<std::size_t> live_;
    AlignedBuffer<double> arriving_;  // (state size, columns), for transposed maps
    AlignedBuffer<unsigned char> scratch_;
};

}  // namespace gt
