#include "bindings/checked_stack.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

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

namespace {

std::size_t activation_index(const std::string& wanted, const std::string& name, const std::string& got) {
    const ActivationKernels<float>& kernels = *active_isa().f32.activation;
    std::string known;
    for (std::size_t i = 0; i < kernels.count; ++i) {
        if (wanted == kernels.info[i].name) return i;
        known += (i ? ", " : "") + std::string(kernels.info[i].name);
    }
    fail_value(name, "one of " + known, got);
}

double checked_parameter(const std::string& text, const ActivationInfo& info, const std::string& name,
                         const std::string& got) {
    const std::string expected = std::string("a number, the ") + info.parameter +
                                 ", 0 or between 1e-20 and 1e20 in size, behind " + info.name + ":";
    const double value = PyOS_string_to_double(text.c_str(), nullptr, nullptr);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        fail_value(name, expected, got);
    }
    const double size = std::fabs(value);
    if (!(size == 0 || (size >= kLeastParameter && size <= kMostParameter))) fail_value(name, expected, got);
    return value;
}

std::string shortest(double value) {
    const std::unique_ptr<char, void (*)(void*)> text(PyOS_double_to_string(value, 'r', 0, Py_DTSF_ADD_DOT_0, nullptr),
                                                      &PyMem_Free);
    return text.get();
}

}  // namespace

CheckedActivation checked_activation(const py::object& object, const std::string& name) {
    if (!py::isinstance<py::str>(object)) fail_type(name, "the name of an activation", type_name(object));
    const auto wanted = object.attr("encode")("unicode_escape").cast<std::string>();
    const std::string got = "'" + shortened(wanted) + "'";
    const ActivationKernels<float>& kernels = *active_isa().f32.activation;
    const std::size_t colon = wanted.find(':'), index = activation_index(wanted.substr(0, colon), name, got);
    const ActivationInfo& usual = kernels.info[index];
    if (colon == std::string::npos) return {index, usual.usual, usual, usual.name};
    if (usual.parameter == nullptr)
        fail_value(name, std::string(usual.name) + " alone, which has no parameter", got,
                   "leaky_relu:slope and elu:alpha have one");
    const double value = checked_parameter(wanted.substr(colon + 1), usual, name, got);
    if (value == usual.usual) return {index, value, usual, usual.name};
    if (value == 0) return checked_activation(py::str("relu"), name);
    return {index, value, kernels.described[index](value), usual.name + (":" + shortest(value))};
}

namespace {

void check_activations(DenseStack& stack, const py::object& activation) {
    const std::size_t depth = stack.depth();
    stack.activation.assign(depth, 0);
    if (py::isinstance<py::str>(activation)) {
        stack.activations.push_back(checked_activation(activation, "activation"));
        return;
    }
    const py::sequence list = checked_list(activation, "activation", "names, or one name");
    if (list.size() != depth)
        fail_value("activation", "one name, or a list of " + std::to_string(depth) + ", one name for each weight",
                   "a list of " + std::to_string(list.size()));
    std::map<std::string, std::uint32_t> known;
    const PyObject* before = nullptr;  // names of a deep stack are mostly one object
    for (std::size_t l = 0; l < depth; ++l) {
        const py::object given = list[l];
        if (given.ptr() == before) {
            stack.activation[l] = stack.activation[l - 1];
            continue;
        }
        CheckedActivation one = checked_activation(given, indexed("activation", l));
        const auto at = known.emplace(one.name, static_cast<std::uint32_t>(stack.activations.size()));
        if (at.second) stack.activations.push_back(std::move(one));
        stack.activation[l] = at.first->second;
        before = given.ptr();
    }
}

bool is_off(const py::object& object) { return object.is_none() || object.is(py::bool_(false)); }
bool is_on(const py::object& object) { return object.is(py::bool_(true)); }

// The scale of the branch beside the skip connection; 0 for none.
double checked_scale(const py::object& object, const std::string& name) {
    if (is_off(object)) return 0;
    if (is_on(object)) return 1;
    if (!PyNumber_Check(object.ptr()) || py::isinstance<py::array>(object))
        fail_type(name, "None, True or a number, the branch's scale", type_name(object));
    const double scale = PyFloat_AsDouble(object.ptr());
    if (PyErr_Occurred()) {  // complex, or a number beyond double
        const bool large = PyErr_ExceptionMatches(PyExc_OverflowError);
        PyErr_Clear();
        if (!large) fail_type(name, "None, True or a number, the branch's scale", type_name(object));
        fail_value(name, "a finite scale other than 0", "one beyond float64", "None is no skip connection");
    }
    if (!(std::fabs(scale) > 0 && std::isfinite(scale)))
        fail_value(name, "a finite scale other than 0", shortened(py::str(object)), "None is no skip connection");
    return scale;
}

std::size_t count_of(const DenseStack& stack) { return stack.depth(); }

py::sequence checked_entries(const DenseStack& stack, const py::object& object, const std::string& name,
                             const std::string& of) {
    const py::sequence list = checked_list(object, name, of);
    if (list.size() != count_of(stack))
        fail_value(name, "a list of " + std::to_string(count_of(stack)) + ", one entry for each weight",
                   "a list of " + std::to_string(list.size()), "an entry may be None");
    return list;
}

// One value for all: the layers that have as many outputs as inputs. In a list every layer says for itself.
void check_residual(DenseStack& stack, const py::object& residual) {
    stack.residual.assign(count_of(stack), 0.0);
    const auto square = [&](std::size_t l) { return stack.sizes[l] == stack.sizes[l + 1]; };
    if (is_off(residual)) return;
    if (!py::isinstance<py::list>(residual) && !py::isinstance<py::tuple>(residual)) {
        const double scale = checked_scale(residual, "residual");
        bool any = false;
        for (std::size_t l = 0; l < count_of(stack); ++l) {
            if (square(l)) stack.residual[l] = scale;
            any |= square(l);
        }
        if (!any) fail_value("residual", "a layer with as many outputs as inputs", "none");
        return;
    }
    const py::sequence list = checked_entries(stack, residual, "residual", "scales, True or None");
    for (std::size_t l = 0; l < list.size(); ++l) {
        stack.residual[l] = checked_scale(py::object(list[l]), indexed("residual", l));
        if (stack.residual[l] != 0 && !square(l))
            fail_value(
                indexed("residual", l), "None where a layer has not as many outputs as inputs",
                std::to_string(stack.sizes[l]) + " inputs and " + std::to_string(stack.sizes[l + 1]) + " outputs");
    }
}

template <class T>
py::object checked_parameter(const DenseStack& stack, std::size_t l, const py::object& object,
                             const std::string& name) {
    if (object.is_none()) return object;
    const std::string units = std::to_string(stack.sizes[l + 1]);
    const py::array array = checked_array<T>(object, name, " (the weights')");
    require_shape(array, name, {stack.sizes[l + 1]}, "(" + units + ",)");
    return array;
}

// True for all: the hidden layers. In a list every layer says for itself.
void check_layer_norm(DenseStack& stack, const py::object& layer_norm) {
    const std::size_t depth = count_of(stack);
    stack.normalised.assign(depth, false);
    if (is_off(layer_norm)) return;
    stack.norm_weights.assign(depth, py::none());
    stack.norm_biases.assign(depth, py::none());
    if (is_on(layer_norm)) {
        if (depth == 1) fail_value("layer_norm", "a hidden layer", "none", "layer_norm=[True] takes the only one");
        std::fill(stack.normalised.begin(), stack.normalised.end() - 1, true);
        return;
    }
    const py::sequence list = checked_entries(stack, layer_norm, "layer_norm", "True, pairs (weight, bias) or None");
    for (std::size_t l = 0; l < depth; ++l) {
        const py::object entry = list[l];
        const std::string name = indexed("layer_norm", l);
        stack.normalised[l] = !is_off(entry);
        if (is_off(entry) || is_on(entry)) continue;
        const py::sequence pair = checked_list(entry, name, "two, weight and bias; or True or None");
        if (pair.size() != 2)
            fail_value(name, "a pair (weight, bias)", "a list of " + std::to_string(pair.size()), "either may be None");
        const auto parameter = [&](std::size_t i, const char* part) {
            const std::string part_name = name + "[" + std::to_string(i) + "] (" + part + ")";
            return stack.is_float32 ? checked_parameter<float>(stack, l, py::object(pair[i]), part_name)
                                    : checked_parameter<double>(stack, l, py::object(pair[i]), part_name);
        };
        stack.norm_weights[l] = parameter(0, "weight");
        stack.norm_biases[l] = parameter(1, "bias");
    }
}

}  // namespace

template <class T>
void DenseStack::make_source() {
    StackSource<T> source;
    source.sizes.assign(sizes.begin(), sizes.end());
    std::map<std::tuple<std::uint32_t, double, bool>, std::uint32_t> known;
    for (std::size_t l = 0; l < depth(); ++l) {
        const auto at = known.emplace(std::make_tuple(activation[l], residual[l], normalised[l]),
                                      static_cast<std::uint32_t>(source.kinds.size()));
        const CheckedActivation& of = activations[activation[l]];
        if (at.second)
            source.kinds.push_back({.inputs = 0,
                                    .outputs = 0,
                                    .weight = nullptr,
                                    .bias = nullptr,
                                    .activation = of.index,
                                    .parameter = of.parameter,
                                    .info = of.info,
                                    .residual = residual[l],
                                    .normalised = normalised[l],
                                    .norm_weight = nullptr,
                                    .norm_bias = nullptr});
        source.kind.push_back(at.first->second);
    }
    const auto pointers = [](const auto& arrays, std::vector<const T*>* to) {
        for (const py::object& array : arrays)
            to->push_back(array.is_none() ? nullptr : static_cast<const T*>(py::array(array).data()));
    };
    pointers(weights, &source.weight);
    pointers(biases, &source.bias);
    pointers(norm_weights, &source.norm_weight);
    pointers(norm_biases, &source.norm_bias);
    source.drawn = drawn;
    source_ = std::move(source);
}

template void DenseStack::make_source<float>();
template void DenseStack::make_source<double>();

namespace {

void finish_stack(DenseStack* stack, const py::object& activation, const py::object& residual,
                  const py::object& layer_norm) {
    check_activations(*stack, activation);
    check_residual(*stack, residual);
    check_layer_norm(*stack, layer_norm);
    stack->is_float32 ? stack->make_source<float>() : stack->make_source<double>();
}

}  // namespace

std::shared_ptr<DenseStack> make_stack(const py::object& weights, const py::object& biases,
                                       const py::object& activation, const py::object& residual,
                                       const py::object& layer_norm) {
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
    finish_stack(stack.get(), activation, residual, layer_norm);
    return stack;
}

std::shared_ptr<DenseStack> make_drawn_stack(const std::vector<py::ssize_t>& sizes, bool is_float32,
                                             const std::string& weight_law, std::uint64_t seed,
                                             const std::vector<double>& weight_factor, const std::string& bias_law,
                                             const std::vector<double>& bias_factor, const py::object& activation,
                                             const py::object& residual, const py::object& layer_norm) {
    auto stack = std::make_shared<DenseStack>();
    stack->sizes = sizes;
    stack->is_float32 = is_float32;
    const MatrixLaw law = weight_law == "orthogonal" ? MatrixLaw::orthogonal
                          : weight_law == "normal"   ? MatrixLaw::normal
                                                     : MatrixLaw::uniform;
    stack->drawn = std::make_shared<const DrawnParameters>(DrawnParameters{.seed = seed,
                                                                           .weight_law = law,
                                                                           .weight_factor = weight_factor,
                                                                           .normal_biases = bias_law == "normal",
                                                                           .bias_factor = bias_factor});
    finish_stack(stack.get(), activation, residual, layer_norm);
    return stack;
}

template <class T>
Cotangent<T> checked_cotangent(const DenseStack& stack, py::ssize_t batch, const py::object& target,
                               const std::string& loss, const py::object& cotangent, std::uint64_t seed,
                               std::size_t samples_before, const std::string& label) {
    const std::string shape = "(" + std::to_string(batch) + ", " + std::to_string(stack.sizes.back()) + ")";
    Cotangent<T> result{CotangentKind::random};
    result.seed = seed;
    result.first_sample = samples_before;
    const auto rows = [&](const py::object& object, const std::string& name) {
        const py::array array = checked_array<T>(object, name, " (the network's)");
        require_shape(array, name, {batch, stack.sizes.back()}, shape);
        require_finite<T>(array, name);
        return static_cast<const T*>(array.data());
    };
    if (loss == "cross_entropy") {
        const std::string name = "target" + label;
        const py::array labels = checked_array<std::int64_t>(target, name, " (labels)");
        require_shape(labels, name, {batch}, "(" + std::to_string(batch) + ",)");
        const auto* given = static_cast<const std::int64_t*>(labels.data());
        result.labels.assign(given, given + batch);  // before the check: another thread may write to the caller's
        require_labels(result.labels, name, stack.sizes.back());
        result.kind = CotangentKind::cross_entropy;
    } else if (loss == "mse") {
        result.kind = CotangentKind::mse;
        result.rows = rows(target, "target" + label);
    } else if (!cotangent.is_none()) {
        result.kind = CotangentKind::given;
        result.rows = rows(cotangent, "cotangent" + label);
    }
    return result;
}

template Cotangent<float> checked_cotangent<float>(const DenseStack&, py::ssize_t, const py::object&,
                                                   const std::string&, const py::object&, std::uint64_t, std::size_t,
                                                   const std::string&);
template Cotangent<double> checked_cotangent<double>(const DenseStack&, py::ssize_t, const py::object&,
                                                     const std::string&, const py::object&, std::uint64_t, std::size_t,
                                                     const std::string&);

}  // namespace gt
