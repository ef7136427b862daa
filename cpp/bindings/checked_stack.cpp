#include "bindings/checked_stack.h"

#include "isa/dispatch.h"

namespace gt {
namespace {

py::sequence checked_list(const py::object& object, const std::string& name, const std::string& of) {
    if (!py::isinstance<py::list>(object) && !py::isinstance<py::tuple>(object))
        fail_type(name, "a list of " + of, type_name(object));
    return py::reinterpret_borrow<py::sequence>(object);
}

std::string indexed(const std::string& name, std::size_t i) { return name + "[" + std::to_string(i) + "]"; }

template <class T>
void check_weights(DenseStack& stack, const py::sequence& weights) {
    const std::string why = " (the first weight's)";
    for (std::size_t l = 0; l < weights.size(); ++l) {
        const std::string name = indexed("weights", l);
        const py::array w = checked_array<T>(py::object(weights[l]), name, why);
        require_shape(w, name, {-1, -1}, "(outputs, inputs)");
        if (l > 0)
            require_shape(w, name, {-1, stack.sizes.back()},
                          "(outputs, " + std::to_string(stack.sizes.back()) + ") to follow weights[" +
                              std::to_string(l - 1) + "]",
                          "rows are outputs, as in torch.nn.Linear");
        if (w.size() == 0) fail_value(name, "at least one row and one column", "shape " + shape_text(w));
        if (l == 0) stack.sizes.push_back(w.shape(1));
        stack.sizes.push_back(w.shape(0));
        stack.weights.push_back(w);
    }
}

template <class T>
void check_biases(DenseStack& stack, const py::object& biases) {
    stack.biases.assign(stack.weights.size(), py::none());
    if (biases.is_none()) return;
    const py::sequence list = checked_list(biases, "biases", "arrays or None");
    if (list.size() != stack.weights.size())
        fail_value("biases", "a list of " + std::to_string(stack.weights.size()) + ", one entry for each weight",
                   "a list of " + std::to_string(list.size()), "an entry may be None");
    for (std::size_t l = 0; l < list.size(); ++l) {
        const py::object bias = list[l];
        if (bias.is_none()) continue;
        const std::string name = indexed("biases", l);
        stack.biases[l] = checked_array<T>(bias, name, " (the weights')");
        require_shape(stack.biases[l], name, {stack.sizes[l + 1]}, "(" + std::to_string(stack.sizes[l + 1]) + ",)");
    }
}

}  // namespace

std::size_t checked_activation(const py::object& object, const std::string& name) {
    if (!py::isinstance<py::str>(object)) fail_type(name, "the name of an activation", type_name(object));
    const auto wanted = object.attr("encode")("unicode_escape").cast<std::string>();
    const ActivationKernels<float>& kernels = *active_isa().f32.activation;
    std::string known;
    for (std::size_t i = 0; i < kernels.count; ++i) {
        if (wanted == kernels.info[i].name) return i;
        known += (i ? ", " : "") + std::string(kernels.info[i].name);
    }
    fail_value(name, "one of " + known, "'" + shortened(wanted) + "'");
}

namespace {

void check_activations(DenseStack& stack, const py::object& activation) {
    if (py::isinstance<py::str>(activation)) {
        stack.activations.assign(stack.weights.size(), checked_activation(activation, "activation"));
        return;
    }
    const py::sequence list = checked_list(activation, "activation", "names, or one name");
    if (list.size() != stack.weights.size())
        fail_value("activation",
                   "one name, or a list of " + std::to_string(stack.weights.size()) + ", one name for each weight",
                   "a list of " + std::to_string(list.size()));
    for (std::size_t l = 0; l < list.size(); ++l)
        stack.activations.push_back(checked_activation(list[l], indexed("activation", l)));
}

}  // namespace

std::shared_ptr<DenseStack> make_stack(const py::object& weights, const py::object& biases,
                                       const py::object& activation) {
    auto stack = std::make_shared<DenseStack>();
    const py::sequence list = checked_list(weights, "weights", "arrays, one (outputs, inputs) for each layer");
    if (list.size() == 0) fail_value("weights", "at least one array", "none");
    const py::array first = as_array(py::object(list[0]), "weights[0]");
    stack->is_float32 = py::isinstance<py::array_t<float>>(first);
    if (!stack->is_float32 && !py::isinstance<py::array_t<double>>(first))
        fail_type("weights[0]", "dtype float32 or float64", shortened(py::str(first.dtype())),
                  "use .astype('float32')");
    stack->is_float32 ? check_weights<float>(*stack, list) : check_weights<double>(*stack, list);
    stack->is_float32 ? check_biases<float>(*stack, biases) : check_biases<double>(*stack, biases);
    check_activations(*stack, activation);
    return stack;
}

}  // namespace gt
