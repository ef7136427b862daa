// A stack's arrays, checked once and held uncopied.
#pragma once

#include <memory>

#include "bindings/array_check.h"
#include "ops/dense_stack.h"

namespace gt {

// A checked network that holds the caller's arrays, uncopied.
struct DenseStack {
    std::vector<py::array> weights;
    std::vector<py::object> biases;  // arrays or None
    std::vector<std::size_t> activations;
    std::vector<py::ssize_t> sizes;
    bool is_float32 = true;

    template <class T>
    std::vector<DenseLayer<T>> layers() const {
        std::vector<DenseLayer<T>> all;
        for (std::size_t l = 0; l < weights.size(); ++l)
            all.push_back({static_cast<std::size_t>(sizes[l]), static_cast<std::size_t>(sizes[l + 1]),
                           static_cast<const T*>(weights[l].data()),
                           biases[l].is_none() ? nullptr : static_cast<const T*>(py::array(biases[l]).data()),
                           activations[l]});
        return all;
    }
};

// The activation's index; TypeError or ValueError that names the argument.
std::size_t checked_activation(const py::object& object, const std::string& name);

// Throws TypeError or ValueError that names the array. `biases`: None, or a list with arrays or None; `activation`: one
// name or a list.
std::shared_ptr<DenseStack> make_stack(const py::object& weights, const py::object& biases,
                                       const py::object& activation);

}  // namespace gt
