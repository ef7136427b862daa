// The ops behind LSTM, GRU and RNN: stacked layers of one or two directions, forward over all steps, and backward with
// everything that a trace wants to know.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "ops/recurrent_direction.h"
#include "ops/recurrent_gradients.h"
#include "ops/workspace.h"

namespace gt {

// Layer axis as PyTorch has it, direction fastest; layers above the first take the outputs of both directions below.
// Stacked layers may differ in their hidden sizes, the directions of one do not.
template <class T>
struct RecurrentNetwork {
    CellKind kind;
    std::size_t inputs, directions;
    std::vector<RecurrentLayer<T>> layers;

    std::size_t depth() const { return layers.size() / directions; }  // stacked layers
    std::size_t outputs(std::size_t stacked) const { return directions * layers[stacked * directions].hidden; }
    std::size_t outputs() const { return outputs(depth() - 1); }
    std::size_t widest() const {
        std::size_t most = 0;
        for (const RecurrentLayer<T>& layer : layers) most = std::max(most, layer.hidden);
        return most;
    }
};

// One array (batch, hidden) for each of the layers, or none at all.
template <class T>
using LayerArrays = std::vector<T*>;

// Figures of one direction of one layer, beside those of the backward pass; null: not wanted.
template <class T>
struct DirectionOutputs {
    DirectionFigures<T> figures;
    StepNorms steps;
    KeptRows<T> kept_dgates;  // (steps, batch, ih blocks * hidden), PyTorch's order
    bool gradients = true;    // of the parameters, `steps` among them
};

template <class T>
struct ForwardOutputs {
    double *gate_mean, *gate_saturated;            // (steps, gates)
    double* log2_retention;                        // (steps + 1, batch)
    double *forget_half_life, *half_life_by_unit;  // one value; (hidden,)
    KeptRows<T> kept_gates, kept_h, kept_c;        // (steps, batch, gates * hidden), (steps + 1, batch, hidden)
};

template <class T>
class RecurrentTracer {
  public:
    enum class Purpose { trace, forward };  // a forward pass alone keeps one layer's gates at a time

    RecurrentTracer(const IsaKernels& isa, RecurrentNetwork<T> network, std::size_t steps, std::size_t batch,
                    const std::int64_t* lengths, Purpose purpose);

    // x (steps, batch, inputs); h0, c0 empty for zero.
    void forward(const T* x, const LayerArrays<const T>& h0, const LayerArrays<const T>& c0, Interrupt& interrupt);

    void store_output(T* y) const;  // (steps, batch, outputs), 0 past an end
    void store_final(const LayerArrays<T>& h_n, const LayerArrays<T>& c_n) const;  // c_n empty without a cell state
    bool store_forward(std::size_t layer, const ForwardOutputs<T>& out) const;
    std::size_t first_nonfinite() const { return first_nonfinite_; }  // a state's index; 0: none
    const PackedSequence& sequence() const { return sequence_; }
    const RecurrentNetwork<T>& network() const { return network_; }

    // Gradients arrive at the last layer's h: `rows` (batch, outputs) at each sample's end or (steps, batch, outputs)
    // at every step, times 2^exponent of each row (null: 0), and at the last states of all layers where dh_last and
    // dc_last are not empty. log2_dx (steps, batch), or null: dL/dx is left out, kept_dx too. False where a kept
    // exponent is beyond int64.
    struct Cotangent {
        const T* rows;
        const double* exponent;
        bool every_step;
        LayerArrays<const T> dh_last, dc_last;
    };
    bool backward(const Cotangent& cotangent, const std::vector<DirectionOutputs<T>>& out, double* log2_dx,
                  const KeptRows<T>& kept_dx, Interrupt& interrupt);
    // In PyTorch's block order, after `backward`.
    const DirectionGradients<T>& gradients(std::size_t layer) const { return gradients_[layer]; }

    // log2 norms of the gradient of u . h_s with respect to the states of `layer`, (steps + 1, steps + 1, batch)
    // entries [s, t]; dc null without a cell state. u (batch, hidden).
    void influence(std::size_t layer, const T* u, double* log2_dh, double* log2_dc, Interrupt& interrupt) const;

  private:
    struct InputGradient;
    struct PackedCotangent;
    struct LastGradient;
    void pack_cotangent(const Cotangent& cotangent, PackedCotangent* out) const;
    std::size_t hidden(std::size_t layer) const { return network_.layers[layer].hidden; }
    DirectionContext<T> context(std::size_t layer, Interrupt& interrupt) const {
        return {.isa = isa_,
                .kind = network_.kind,
                .hidden = hidden(layer),
                .sequence = sequence_,
                .reverse = layer % network_.directions == 1,
                .interrupt = interrupt};
    }
    void plan(Purpose purpose);
    void load_input(const T* x);
    void load_states(std::size_t layer, const LayerArrays<const T>& h0, const LayerArrays<const T>& c0);
    static bool leaves_format(double log2_norm);
    void carry_exponents(std::size_t rows, std::size_t n, T* x, double* exponent, double* log2) const;
    SequenceRows<T> layer_input(std::size_t stacked) const {
        return stacked == 0 ? SequenceRows<T>{x_, x_exponent_.empty() ? nullptr : x_exponent_.data(), x_log2_.data()}
                            : layer_output(stacked - 1);
    }
    SequenceRows<T> layer_output(std::size_t stacked) const;  // (rows, outputs)
    void join_directions(std::size_t stacked);
    void find_nonfinite(std::size_t layer);
    void input_gradient(const DirectionContext<T>& context, const DirectionState<T>& state, const PackedMatrix<T>& ih,
                        std::size_t first, std::size_t end, InputGradient* out) const;
    bool keep_states(std::size_t layer, const ForwardOutputs<T>& out) const;
    bool keep_gates(std::size_t layer, const KeptRows<T>& to) const;
    bool keep_dgates(std::size_t layer, const DirectionState<T>& state, const KeptRows<T>& to) const;

    const IsaKernels& isa_;
    RecurrentNetwork<T> network_;
    PackedSequence sequence_;
    Arena arena_;
    std::vector<std::unique_ptr<CellWeights<T>>> weights_;
    std::vector<DirectionState<T>> states_;
    std::vector<T*> joined_;  // outputs of both directions, for each stacked layer
    std::vector<double*> joined_exponent_;
    const T* x_ = nullptr;
    T* packed_x_ = nullptr;
    AlignedBuffer<T> scaled_x_;
    std::vector<double> x_exponent_;  // (rows,); empty: 0
    std::vector<double> x_log2_;      // (rows,): norms of the rows, exponents apart
    std::vector<WideRows> wide_z_;    // for each direction of a layer
    std::vector<DirectionGradients<T>> gradients_;
    std::size_t first_nonfinite_ = 0;
};

}  // namespace gt
