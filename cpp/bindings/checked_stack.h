// A stack's arrays, checked once and held uncopied.
#pragma once

#include <memory>
#include <variant>

#include "bindings/array_check.h"
#include "ops/loss.h"
#include "ops/stack_source.h"

namespace gt {

// An activation as the user named it.
struct CheckedActivation {
    std::size_t index;    // into ActivationKernels
    double parameter;     // 0 where it has none
    ActivationInfo info;  // with that parameter
    std::string name;     // with its parameter where that is not the usual one
};

// A checked network that holds the caller's arrays, uncopied, or what its parameters are drawn from.
struct DenseStack {
    std::vector<py::array> weights;              // empty where they are drawn
    std::vector<py::object> biases;              // arrays or None; likewise
    std::vector<CheckedActivation> activations;  // those that differ
    std::vector<std::uint32_t> activation;       // of every layer: which of them
    std::vector<double> residual;                // of every layer; 0: no skip connection
    std::vector<bool> normalised;
    std::vector<py::object> norm_weights, norm_biases;  // arrays or None
    std::vector<py::ssize_t> sizes;
    bool is_float32 = true;
    std::shared_ptr<const DrawnParameters> drawn;  // null: stored

    std::size_t depth() const { return sizes.size() - 1; }
    // What the ops read; the arrays stay here.
    template <class T>
    const StackSource<T>& source() const {
        return std::get<StackSource<T>>(source_);
    }
    // All layers at once, in `own` where they are drawn.
    template <class T>
    std::vector<DenseLayer<T>> layers(DrawnArrays<T>* own, Interrupt& interrupt) const {
        return source<T>().layers(active_isa(), 0, depth(), own, interrupt);
    }
    template <class T>
    void make_source();  // once everything is checked

  private:
    std::variant<StackSource<float>, StackSource<double>> source_;
};

// Throws TypeError or ValueError that names the argument.
CheckedActivation checked_activation(const py::object& object, const std::string& name);

// Throws TypeError or ValueError that names the argument. `biases`: None, or a list with arrays or None; `activation`:
// one name or a list; `residual`: None, True, a number, or a list of these; `layer_norm`: None, True, or a list of
// these and pairs (weight, bias) of arrays or None.
std::shared_ptr<DenseStack> make_stack(const py::object& weights, const py::object& biases,
                                       const py::object& activation, const py::object& residual,
                                       const py::object& layer_norm);

// One whose parameters are drawn: sizes and laws are checked by the caller. Factors (depth,); without biases those are
// None.
std::shared_ptr<DenseStack> make_drawn_stack(const std::vector<py::ssize_t>& sizes, bool is_float32,
                                             const std::string& weight_law, std::uint64_t seed,
                                             const std::vector<double>& weight_factor, const std::string& bias_law,
                                             const std::vector<double>& bias_factor, const py::object& activation,
                                             const py::object& residual, const py::object& layer_norm);

// What one call's samples start their backward pass from; the arrays stay with the caller.
template <class T>
Cotangent<T> checked_cotangent(const DenseStack& stack, py::ssize_t batch, const py::object& target,
                               const std::string& loss, const py::object& cotangent, std::uint64_t seed,
                               std::size_t samples_before, const std::string& label);

}  // namespace gt
