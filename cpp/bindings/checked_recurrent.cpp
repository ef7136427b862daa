#include "bindings/checked_recurrent.h"

#include "bindings/run_op.h"

namespace gt {
namespace {

using Objects = std::vector<py::object>;

// One array stands for a list of one.
Objects as_list(const py::object& object, const std::string& name) {
    if (!py::isinstance<py::list>(object) && !py::isinstance<py::tuple>(object)) return {object};
    Objects list;
    for (const py::handle& entry : object) list.push_back(py::reinterpret_borrow<py::object>(entry));
    if (list.empty()) fail_value(name, "at least one array", "none");
    return list;
}

std::string name_of(const std::string& argument, std::size_t k, std::size_t count) {
    return count == 1 ? argument : argument + "[" + std::to_string(k) + "]";
}

std::string rows_text(std::size_t blocks) { return blocks == 1 ? "H" : std::to_string(blocks) + "H"; }

void require_count(const Objects& list, const std::string& name, std::size_t count) {
    if (list.size() != count)
        fail_value(name, "a list of " + std::to_string(count) + ", one entry for each weight_hh",
                   "a list of " + std::to_string(list.size()));
}

template <class T>
void check_weights(RecurrentParameters& net, const Objects& weight_ih, const Objects& weight_hh) {
    const std::string why = " (weight_hh's)";
    const std::size_t count = weight_hh.size(), blocks = net.cell().weight_blocks;
    const std::string rows = rows_text(blocks), kind = net.cell().name, cell = kind.substr(0, kind.find('_'));
    for (std::size_t k = 0; k < count; ++k) {
        const std::string name = name_of("weight_hh", k, count);
        const py::array hh = checked_array<T>(weight_hh[k], name, why);
        require_shape(hh, name, {-1, -1}, "(" + rows + ", H)");
        const auto hidden = static_cast<std::size_t>(hh.shape(1));
        if (hidden == 0 || static_cast<std::size_t>(hh.shape(0)) != blocks * hidden)
            fail_value(name, "shape (" + rows + ", H)" + (hidden ? " with H=" + std::to_string(hidden) : ""),
                       shape_text(hh), "the " + cell + " has " + std::to_string(blocks) + " blocks of H rows");
        if (k % net.directions && hidden != net.hidden(k - 1))
            fail_value(name, "H=" + std::to_string(net.hidden(k - 1)) + " as in the layer's other direction",
                       shape_text(hh));
        net.weight_hh.push_back(hh);

        const std::string ih_name = name_of("weight_ih", k, count);
        const py::array ih = checked_array<T>(weight_ih[k], ih_name, why);
        const bool first = k < net.directions;
        if (k == 0 && ih.ndim() == 2) net.inputs = static_cast<std::size_t>(ih.shape(1));
        const std::size_t inputs =
            first ? net.inputs : net.directions * net.hidden((k / net.directions - 1) * net.directions);
        require_shape(
            ih, ih_name, {static_cast<py::ssize_t>(blocks * hidden), k == 0 ? -1 : static_cast<py::ssize_t>(inputs)},
            "(" + rows + ", I) with H=" + std::to_string(hidden) + (k == 0 ? "" : ", I=" + std::to_string(inputs)),
            first || k == 0 ? "" : "layers above the first take all outputs of the layer below");
        if (ih.size() == 0) fail_value(ih_name, "at least one column", "shape " + shape_text(ih));
        net.weight_ih.push_back(ih);
    }
}

template <class T>
void check_biases(RecurrentParameters& net, const py::object& biases, const std::string& argument,
                  std::vector<py::object>* to) {
    to->assign(net.layers(), py::none());
    if (biases.is_none()) return;
    const Objects list = as_list(biases, argument);
    require_count(list, argument, net.layers());
    for (std::size_t k = 0; k < list.size(); ++k) {
        if (list[k].is_none()) continue;
        const std::string name = name_of(argument, k, list.size());
        (*to)[k] = checked_array<T>(list[k], name, " (weight_hh's)");
        require_shape((*to)[k], name, {static_cast<py::ssize_t>(net.cell().weight_blocks * net.hidden(k))},
                      "(" + rows_text(net.cell().weight_blocks) + ",) with H=" + std::to_string(net.hidden(k)));
    }
}

}  // namespace

CellKind cell_kind(const std::string& name) {
    for (std::size_t kind = 0; kind < kCellKinds; ++kind)
        if (name == kCells[kind]->name) return static_cast<CellKind>(kind);
    fail_value("cell", "the name of a cell", shortened(name), "core/cells.h lists them");
}

std::shared_ptr<RecurrentParameters> make_recurrent(const std::string& kind, const py::object& weight_ih,
                                                    const py::object& weight_hh, const py::object& bias_ih,
                                                    const py::object& bias_hh, bool bidirectional) {
    auto net = std::make_shared<RecurrentParameters>();
    net->kind = cell_kind(kind);
    net->directions = bidirectional ? 2 : 1;
    const Objects hh = as_list(weight_hh, "weight_hh"), ih = as_list(weight_ih, "weight_ih");
    if (bidirectional && hh.size() % 2 != 0)
        fail_value("weight_hh", "two arrays for each layer beside bidirectional=True", std::to_string(hh.size()),
                   "the forward direction's first, then the reverse one's");
    require_count(ih, "weight_ih", hh.size());
    const py::array first = as_array(hh[0], name_of("weight_hh", 0, hh.size()));
    net->is_float32 = py::isinstance<py::array_t<float>>(first);
    if (!net->is_float32 && !py::isinstance<py::array_t<double>>(first))
        fail_type(name_of("weight_hh", 0, hh.size()), "dtype float32 or float64", shortened(py::str(first.dtype())),
                  "use .astype('float32')");
    if (net->is_float32) {
        check_weights<float>(*net, ih, hh);
        check_biases<float>(*net, bias_ih, "bias_ih", &net->bias_ih);
        check_biases<float>(*net, bias_hh, "bias_hh", &net->bias_hh);
    } else {
        check_weights<double>(*net, ih, hh);
        check_biases<double>(*net, bias_ih, "bias_ih", &net->bias_ih);
        check_biases<double>(*net, bias_hh, "bias_hh", &net->bias_hh);
    }
    return net;
}

namespace {

py::object checked_lengths(std::size_t steps, std::size_t batch, const py::object& object) {
    if (object.is_none()) return object;
    const py::array given = checked_array<std::int64_t>(object, "lengths", "");
    require_shape(given, "lengths", {static_cast<py::ssize_t>(batch)}, "(" + std::to_string(batch) + ",)");
    // A copy, before the check: another thread may write to the caller's.
    const py::array_t<std::int64_t> lengths(given.size(), static_cast<const std::int64_t*>(given.data()));
    const auto* ends = static_cast<const std::int64_t*>(lengths.data());
    for (std::size_t b = 0; b < batch; ++b)
        if (ends[b] < 1 || ends[b] > static_cast<std::int64_t>(steps))
            fail_value("lengths", "1 to " + std::to_string(steps) + ", the steps of x",
                       std::to_string(ends[b]) + " at [" + std::to_string(b) + "]");
    return lengths;
}

}  // namespace

template <class T>
States<T> checked_states(const RecurrentParameters& net, std::size_t batch, const py::object& object,
                         const std::string& name) {
    States<T> states;
    if (object.is_none()) return states;
    const std::string why = " (the network's)";
    const auto b = static_cast<py::ssize_t>(batch), k = static_cast<py::ssize_t>(net.layers());
    const auto shape_of = [&](std::size_t layer) {
        return "(" + std::to_string(batch) + ", " + std::to_string(net.hidden(layer)) + ")";
    };
    if (net.uniform()) {
        const auto n = static_cast<py::ssize_t>(net.hidden(0));
        const py::array array = checked_array<T>(object, name, why);
        if (!(k == 1 && array.ndim() == 2))
            require_shape(array, name, {k, b, n},
                          "(" + std::to_string(net.layers()) + ", " + shape_of(0).substr(1) +
                              (k == 1 ? " or " + shape_of(0) : ""));
        else
            require_shape(array, name, {b, n}, shape_of(0));
        require_finite<T>(array, name);
        states.held.push_back(array);
        for (py::ssize_t layer = 0; layer < k; ++layer)
            states.layers.push_back(static_cast<const T*>(array.data()) + layer * b * n);
        return states;
    }
    if (!py::isinstance<py::list>(object) && !py::isinstance<py::tuple>(object))
        fail_type(name, "a list of " + std::to_string(k) + " arrays, one for each layer, since they differ in width",
                  type_name(object));
    const Objects list = as_list(object, name);
    if (list.size() != net.layers())
        fail_value(name, "a list of " + std::to_string(k) + ", one array for each layer",
                   "a list of " + std::to_string(list.size()));
    for (std::size_t layer = 0; layer < list.size(); ++layer) {
        const std::string own = name_of(name, layer, list.size());
        const py::array array = checked_array<T>(list[layer], own, why);
        require_shape(array, own, {b, static_cast<py::ssize_t>(net.hidden(layer))}, shape_of(layer));
        require_finite<T>(array, own);
        states.held.push_back(array);
        states.layers.push_back(static_cast<const T*>(array.data()));
    }
    return states;
}

template <class T>
RecurrentInput<T> Sequences<T>::input(const RecurrentParameters& net) const {
    if (!read) return static_cast<const T*>(x.data());
    const auto inputs = static_cast<py::ssize_t>(net.inputs);
    return RecurrentInput<T>([this, inputs](std::size_t first, std::size_t end, T* to) {
        const GilTaken locked;
        const std::string name = "x[" + std::to_string(first) + ":" + std::to_string(end) + "]";
        const py::array part = checked_array<T>(read(first, end), name, " (the network's)");
        const auto count = static_cast<py::ssize_t>(end - first), samples = static_cast<py::ssize_t>(batch);
        require_shape(
            part, name, {count, samples, inputs},
            "(" + std::to_string(count) + ", " + std::to_string(samples) + ", " + std::to_string(inputs) + ")");
        require_finite<T>(part, name);
        std::copy_n(static_cast<const T*>(part.data()), part.size(), to);
    });
}

template <class T>
Sequences<T> checked_sequences(const RecurrentParameters& net, const py::object& x, const py::object& h0,
                               const py::object& c0, const py::object& lengths) {
    Sequences<T> s;
    if (py::isinstance<StepReader>(x)) {
        const auto& reader = x.cast<const StepReader&>();
        s.steps = reader.steps;
        s.batch = reader.batch;
        s.read = reader.read;
        s.h0 = checked_states<T>(net, s.batch, h0, "h0");
        s.c0 = checked_states<T>(net, s.batch, c0, "c0");
        s.lengths = checked_lengths(s.steps, s.batch, lengths);
        return s;
    }
    s.x = checked_array<T>(x, "x", " (the network's)");
    require_shape(s.x, "x", {-1, -1, static_cast<py::ssize_t>(net.inputs)},
                  "(steps, batch, " + std::to_string(net.inputs) + ")",
                  s.x.ndim() == 2 ? "use x[:, None, :] for a single sequence" : "");
    s.steps = static_cast<std::size_t>(s.x.shape(0));
    s.batch = static_cast<std::size_t>(s.x.shape(1));
    if (s.steps == 0) fail_value("x", "at least one step", "shape " + shape_text(s.x));
    if (s.batch == 0) fail_value("x", "at least one sample", "shape " + shape_text(s.x));
    require_finite<T>(s.x, "x");
    s.h0 = checked_states<T>(net, s.batch, h0, "h0");
    s.c0 = checked_states<T>(net, s.batch, c0, "c0");
    s.lengths = checked_lengths(s.steps, s.batch, lengths);
    return s;
}

template struct Sequences<float>;
template struct Sequences<double>;
template Sequences<float> checked_sequences<float>(const RecurrentParameters&, const py::object&, const py::object&,
                                                   const py::object&, const py::object&);
template States<float> checked_states<float>(const RecurrentParameters&, std::size_t, const py::object&,
                                             const std::string&);
template Sequences<double> checked_sequences<double>(const RecurrentParameters&, const py::object&, const py::object&,
                                                     const py::object&, const py::object&);
template States<double> checked_states<double>(const RecurrentParameters&, std::size_t, const py::object&,
                                               const std::string&);

}  // namespace gt
