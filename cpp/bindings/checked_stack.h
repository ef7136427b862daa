// A stack's arrays, checked once and held uncopied.
#pragma once

#include <memory>

#include "bindings/array_check.h"
#include "ops/dense_stack.h"
#include "ops/loss.h"

namespace gt {

// An activation as the user named it.
struct CheckedActivation {
    std::size_t index;    // into ActivationKernels
    double parameter;     // 0 where it has none
    ActivationInfo info;  // with that parameter
    std::string name;     // with its parameter where that is not the usual one
};

// A checked network that holds the caller's arrays, uncopied.
struct DenseStack {
    std::vector<py::array> weights;
    std::vector<py::object> biases;  // arrays or None
    std::vector<CheckedActivation> activations;
    std::vector<double> residual;  // of every layer; 0: no skip connection
    std::vector<bool> normalised;
    std::vector<py::object> norm_weights, norm_biases;  // arrays or None
    std::vector<py::ssize_t> sizes;
    bool is_float32 = true;

    template <class T>
    std::vector<DenseLayer<T>> layers() const {
        std::vector<DenseLayer<T>> all;
        for (std::size_t l = 0; l < weights.size(); ++l)
            all.push_back({.inputs = static_cast<std::size_t>(sizes[l]),
                           .outputs = static_cast<std::size_t>(sizes[l + 1]),
                           .weight = static_cast<const T*>(weights[l].data()),
                           .bias = data<T>(biases[l]),
                           .activation = activations[l].index,
                           .parameter = activations[l].parameter,
                           .info = activations[l].info,
                           .residual = residual[l],
                           .normalised = normalised[l],
                           .norm_weight = data<T>(norm_weights[l]),
                           .norm_bias = data<T>(norm_biases[l])});
        return all;
    }

  private:
    template <class T>
    static const T* data(const py::object& array) {
        return array.is_none() ? nullptr : static_cast<const T*>(py::array(array).data());
    }
};

// Throws TypeError or ValueError that names the argument.
CheckedActivation checked_activation(const py::object& object, const std::string& name);

// Throws TypeError or ValueError that names the argument. `biases`: None, or a list with arrays or None; `activation`:
// one name or a list; `residual`: None, True, a number, or a list of these; `layer_norm`: None, True, or a list of
// these and pairs (weight, bias) of arrays or None.
std::shared_ptr<DenseStack> make_stack(const py::object& weights, const py::object& biases,
                                       const py::object& activation, const py::object& residual,
                                       const py::object& layer_norm);

// What one call's samples start their backward pass from; the arrays stay with the caller.
template <class T>
Cotangent<T> checked_cotangent(const DenseStack& stack, py::ssize_t batch, const py::object& target,
                               const std::string& loss, const py::object& cotangent, std::uint64_t seed,
                               std::size_t samples_before, const std::string& label);

}  // namespace gt
