// The arrays of a recurrent network, checked once and held uncopied.
#pragma once

#include <memory>

#include "bindings/array_check.h"
#include "ops/recurrent_tracer.h"

namespace gt {

struct RecurrentParameters {
    CellKind kind = CellKind::lstm;
    bool is_float32 = true;
    std::size_t inputs = 0, hidden = 0, directions = 1;
    std::vector<py::array> weight_ih, weight_hh;
    std::vector<py::object> bias_ih, bias_hh;  // arrays or None

    const CellShape& cell() const { return cell_shape(kind); }
    std::size_t layers() const { return weight_ih.size(); }
    std::size_t outputs() const { return directions * hidden; }

    template <class T>
    RecurrentNetwork<T> network() const {
        RecurrentNetwork<T> net{kind, inputs, hidden, directions, {}};
        const auto data = [](const py::object& array) {
            return array.is_none() ? nullptr : static_cast<const T*>(py::array(array).data());
        };
        for (std::size_t k = 0; k < layers(); ++k)
            net.layers.push_back({static_cast<std::size_t>(weight_ih[k].shape(1)),
                                  static_cast<const T*>(weight_ih[k].data()),
                                  static_cast<const T*>(weight_hh[k].data()), data(bias_ih[k]), data(bias_hh[k])});
        return net;
    }
};

// Throws TypeError or ValueError that names the array. `kind`: "lstm", "gru", "rnn_tanh", "rnn_relu"; weights: one
// array or a list; biases: the same, or None, or a list with None.
std::shared_ptr<RecurrentParameters> make_recurrent(const std::string& kind, const py::object& weight_ih,
                                                    const py::object& weight_hh, const py::object& bias_ih,
                                                    const py::object& bias_hh, bool bidirectional);

// What one call brings: checked, held while the core reads it.
template <class T>
struct Sequences {
    py::array x;
    py::object h0, c0, lengths;  // arrays or None
    std::size_t steps = 0, batch = 0;

    static const T* data(const py::object& array) {
        return array.is_none() ? nullptr : static_cast<const T*>(py::array(array).data());
    }
    const std::int64_t* ends() const {
        return lengths.is_none() ? nullptr : static_cast<const std::int64_t*>(py::array(lengths).data());
    }
    std::string what() const { return std::to_string(batch) + " sequences of " + std::to_string(steps) + " steps"; }
};

// x (steps, batch, inputs); h0, c0 as `checked_state` has them; lengths int64 (batch,).
template <class T>
Sequences<T> checked_sequences(const RecurrentParameters& net, const py::object& x, const py::object& h0,
                               const py::object& c0, const py::object& lengths);

// (layers, batch, hidden), or (batch, hidden) for a single layer, or None.
template <class T>
py::object checked_state(const RecurrentParameters& net, std::size_t batch, const py::object& object,
                         const std::string& name);

}  // namespace gt
