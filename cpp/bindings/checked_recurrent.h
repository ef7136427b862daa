// The arrays of a recurrent network, checked once and held uncopied.
#pragma once

#include <memory>

#include "bindings/array_check.h"
#include "ops/recurrent_tracer.h"

namespace gt {

struct RecurrentParameters {
    CellKind kind = CellKind::lstm;
    bool is_float32 = true;
    std::size_t inputs = 0, directions = 1;
    std::vector<py::array> weight_ih, weight_hh;
    std::vector<py::object> bias_ih, bias_hh;  // arrays or None

    const CellShape& cell() const { return cell_shape(kind); }
    std::size_t layers() const { return weight_ih.size(); }
    std::size_t hidden(std::size_t layer) const { return static_cast<std::size_t>(weight_hh[layer].shape(1)); }
    std::size_t outputs() const { return directions * hidden(layers() - 1); }
    // Whether all layers are as wide: what has one array for each layer is then one array.
    bool uniform() const {
        for (std::size_t k = 1; k < layers(); ++k)
            if (hidden(k) != hidden(0)) return false;
        return true;
    }

    template <class T>
    RecurrentNetwork<T> network() const {
        RecurrentNetwork<T> net{kind, inputs, directions, {}};
        const auto data = [](const py::object& array) {
            return array.is_none() ? nullptr : static_cast<const T*>(py::array(array).data());
        };
        for (std::size_t k = 0; k < layers(); ++k)
            net.layers.push_back({.inputs = static_cast<std::size_t>(weight_ih[k].shape(1)),
                                  .hidden = hidden(k),
                                  .weight_ih = static_cast<const T*>(weight_ih[k].data()),
                                  .weight_hh = static_cast<const T*>(weight_hh[k].data()),
                                  .bias_ih = data(bias_ih[k]),
                                  .bias_hh = data(bias_hh[k])});
        return net;
    }
};

// The cell of that name: "lstm", "gru", "rnn_tanh", "rnn_relu"; ValueError.
CellKind cell_kind(const std::string& name);

// Throws TypeError or ValueError that names the array. `kind` as `cell_kind` has it; weights: one
// array or a list; biases: the same, or None, or a list with None.
std::shared_ptr<RecurrentParameters> make_recurrent(const std::string& kind, const py::object& weight_ih,
                                                    const py::object& weight_hh, const py::object& bias_ih,
                                                    const py::object& bias_hh, bool bidirectional);

// One array (batch, hidden) for each layer, checked and held; none at all where there were none.
template <class T>
struct States {
    std::vector<py::array> held;
    LayerArrays<const T> layers;
};

// Sequences that are read as they are needed: read(first, end) -> x[first:end], (end - first, batch, inputs).
struct StepReader {
    std::size_t steps, batch;
    py::object read;
};

// What one call brings: checked, held while the core reads it.
template <class T>
struct Sequences {
    py::array x;      // or, where that is read as it is needed:
    py::object read;  // of a StepReader
    States<T> h0, c0;
    py::object lengths;  // an array or None
    std::size_t steps = 0, batch = 0;

    const std::int64_t* ends() const {
        return lengths.is_none() ? nullptr : static_cast<const std::int64_t*>(py::array(lengths).data());
    }
    // Takes the GIL where it reads; this must stay while it does.
    RecurrentInput<T> input(const RecurrentParameters& net) const;
    std::string what() const { return std::to_string(batch) + " sequences of " + std::to_string(steps) + " steps"; }
};

// x (steps, batch, inputs), or a StepReader; h0, c0 as `checked_state` has them; lengths int64
// (batch,).
template <class T>
Sequences<T> checked_sequences(const RecurrentParameters& net, const py::object& x, const py::object& h0,
                               const py::object& c0, const py::object& lengths);

// (layers, batch, hidden), or (batch, hidden) for a single layer, or None; of layers of different widths a list with a
// (batch, hidden) for each.
template <class T>
States<T> checked_states(const RecurrentParameters& net, std::size_t batch, const py::object& object,
                         const std::string& name);

}  // namespace gt
