// One sample's state along time, and what a step does to small changes of it.
#pragma once

#include <vector>

#include "core/aligned_buffer.h"
#include "core/cells.h"
#include "ops/recurrent_tracer.h"

namespace gt {

class RecurrentTangent {
  public:
    // Directions come as columns of tiles (state size, ld); ld a multiple of kColumnMultiple.
    RecurrentTangent(const IsaKernels& isa, const RecurrentNetwork<double>& network, std::size_t ld);

    // h0, c0: null for zero.
    void start(std::size_t layer, const double* h0, const double* c0);
    void advance(const double* x);
    // What the step just taken makes of changes of the state before it.
    void apply(const double* before, double* after);

  private:
    struct Layer {
        RecurrentLayer<double> weights;
        std::size_t first;                   // row of h in a tile; c behind it
        std::vector<double> h, c, z, q;      // q: W_hh h + b_hh
        std::vector<double> factors;         // of the step, kFactors blocks of hidden
        AlignedBuffer<double> fed, carried;  // W_ih dx, W_hh dh; (weight blocks * hidden, ld)
    };
    void advance_layer(Layer* layer, const double* x);
    void advance_lstm(Layer* layer);
    void advance_gru(Layer* layer);
    void advance_rnn(Layer* layer);
    void apply_lstm(const Layer& layer, const double* before, double* after) const;
    void apply_gru(const Layer& layer, const double* before, double* after) const;
    void apply_rnn(const Layer& layer, double* after) const;
    void product(const double* weight, std::size_t rows, std::size_t columns, const double* from, double* to, bool add);

    const IsaKernels* isa_;
    CellKind kind_;
    std::size_t ld_;
    std::vector<Layer> layers_;
    AlignedBuffer<unsigned char> scratch_;
};

}  // namespace gt
