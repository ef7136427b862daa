// The ops behind LSTM, GRU and RNN: stacked layers of one or two directions, forward over all steps, and backward with
// everything that a trace wants to know.
#pragma once

#include <algorithm>
#include <functional>
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

// x (steps, batch, inputs) of a sequence: all of it, or steps [first, end) written to `to` when they are asked for.
template <class T>
struct RecurrentInput {
    RecurrentInput(const T* rows) : whole(rows) {}
    explicit RecurrentInput(std::function<void(std::size_t first, std::size_t end, T* to)> rows)
        : read(std::move(rows)) {}

    const T* whole = nullptr;
    std::function<void(std::size_t first, std::size_t end, T* to)> read;
};

template <class T>
class RecurrentTracer {
  public:
    enum class Purpose { trace, forward };  // a forward pass alone keeps one layer's gates at a time

    // `windows`: the first step of each, and `steps`; by default a single one. Several, of networks of one direction
    // only (ops/recurrent_windows.h): the states before each are kept, the rest of it is there for one at a time, and
    // is computed again for its backward pass, all with the same bits.
    RecurrentTracer(const IsaKernels& isa, RecurrentNetwork<T> network, std::size_t steps, std::size_t batch,
                    const std::int64_t* lengths, Purpose purpose, std::vector<std::size_t> windows = {});

    // h0, c0 empty for zero; all must stay until `backward` is done.
    void forward(const RecurrentInput<T>& x, const LayerArrays<const T>& h0, const LayerArrays<const T>& c0,
                 Interrupt& interrupt);

    void store_output(T* y) const;  // (steps, batch, outputs), 0 past an end; of a single window
    void store_final(const LayerArrays<T>& h_n, const LayerArrays<T>& c_n) const;  // c_n empty without a cell state
    bool store_forward(std::size_t layer, const ForwardOutputs<T>& out) const;     // of a single window
    std::size_t first_nonfinite() const { return first_nonfinite_; }               // a state's index; 0: none
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
    // `forwards`: what `store_forward` writes, of several windows; null: not wanted.
    bool backward(const Cotangent& cotangent, const std::vector<DirectionOutputs<T>>& out, double* log2_dx,
                  const KeptRows<T>& kept_dx, Interrupt& interrupt,
                  const std::vector<ForwardOutputs<T>>* forwards = nullptr);
    // In PyTorch's block order, after `backward`.
    const DirectionGradients<T>& gradients(std::size_t layer) const { return gradients_[layer]; }

    // log2 norms of the gradient of u . h_s with respect to the states of `layer`, (steps + 1, steps + 1, batch)
    // entries [s, t]; dc null without a cell state. u (batch, hidden).
    void influence(std::size_t layer, const T* u, double* log2_dh, double* log2_dc, Interrupt& interrupt) const;

  private:
    struct InputGradient;
    struct PackedCotangent;
    struct LastGradient;
    struct LayerPass;
    struct BackwardCall;
    // States of one layer by slot, in T with an exponent each.
    struct StateRows {
        std::vector<T> h, c;
        std::vector<double> exponent;
        WideCarry wide;
    };

    // recurrent_windows.cpp
    std::size_t windows() const { return windows_.size() - 1; }
    std::size_t most_rows() const;  // of a window
    void open_window(std::size_t w);
    void run_window(std::size_t w, bool again, Interrupt& interrupt);
    void save_states(std::size_t w);  // behind the window under way, which w follows
    void restore_states(std::size_t layer, const StateRows& from);
    void collect_last();
    void store_retention(std::size_t layer, const ForwardOutputs<T>& out, std::vector<double>* kept) const;
    void store_half_life(std::size_t layer, const ForwardOutputs<T>& out, const std::vector<double>& kept) const;

    void backward_window(BackwardCall& call, std::size_t w);
    void backward_layer(BackwardCall& call, std::size_t layer, InputGradient& above, InputGradient* below);
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
    void load_input();
    void load_states(std::size_t layer, const LayerArrays<const T>& h0, const LayerArrays<const T>& c0);
    static bool leaves_format(double log2_norm);
    void carry_exponents(std::size_t rows, std::size_t n, T* x, double* exponent, double* log2) const;
    SequenceRows<T> layer_input(std::size_t stacked) const {
        if (stacked > 0) return layer_output(stacked - 1);
        const std::size_t row = sequence_.first_row(first_);
        return {x_, x_exponent_.empty() ? nullptr : x_exponent_.data() - row, x_log2_.data() - row};
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
    std::vector<std::size_t> windows_;
    std::size_t first_ = 0, end_ = 0;  // steps of the window under way
    RecurrentInput<T> input_{nullptr};
    LayerArrays<const T> h0_, c0_;
    Arena arena_;
    std::vector<std::unique_ptr<CellWeights<T>>> weights_;
    std::vector<DirectionState<T>> memory_, states_;   // as placed, and as rows of the whole sequence count
    std::vector<std::vector<StateRows>> checkpoints_;  // before each window but the first, of all layers
    std::vector<StateRows> last_;                      // at each slot's end
    std::vector<WideCarry> carries_;                   // behind the window under way
    std::vector<double> spare_units_;
    std::vector<T*> joined_;  // outputs of both directions, for each stacked layer
    std::vector<double*> joined_exponent_;
    const T* x_ = nullptr;
    T* packed_x_ = nullptr;
    AlignedBuffer<T> scaled_x_, read_x_;
    std::vector<double> x_exponent_;  // of the window's rows; empty: 0
    std::vector<double> x_log2_;      // likewise: norms, exponents apart
    std::vector<WideRows> wide_z_;    // for each direction of a layer
    std::vector<DirectionGradients<T>> gradients_;
    std::size_t first_nonfinite_ = 0;
};

}  // namespace gt
