// Recurrent networks: forward, one trace under way, and the influence map.
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/bind.h"
#include "bindings/checked_recurrent.h"
#include "bindings/checked_stack.h"
#include "bindings/run_op.h"
#include "bindings/stack_results.h"
#include "ops/random.h"
#include "ops/readout.h"
#include "ops/recurrent_figures.h"
#include "ops/recurrent_windows.h"
#include "ops/wide_states.h"

namespace gt {
namespace {

using Size = py::ssize_t;

std::string text(std::size_t value) { return std::to_string(value); }

// (layers, batch, hidden), or a list with one (batch, hidden) each where the layers differ in width.
template <class T>
py::object state_arrays(const RecurrentParameters& net, Size batch, LayerArrays<T>* to) {
    if (net.uniform()) {
        const auto n = static_cast<Size>(net.hidden(0));
        py::array_t<T> array({static_cast<Size>(net.layers()), batch, n});
        for (std::size_t k = 0; k < net.layers(); ++k)
            to->push_back(array.mutable_data() + static_cast<Size>(k) * batch * n);
        return array;
    }
    py::list list;
    for (std::size_t k = 0; k < net.layers(); ++k) {
        py::array_t<T> array({batch, static_cast<Size>(net.hidden(k))});
        to->push_back(array.mutable_data());
        list.append(array);
    }
    return list;
}

template <class T>
py::tuple forward(const RecurrentParameters& net, const py::object& x, const py::object& h0, const py::object& c0,
                  const py::object& lengths) {
    const Sequences<T> s = checked_sequences<T>(net, x, h0, c0, lengths);
    const auto b = static_cast<Size>(s.batch);
    py::array_t<T> y({static_cast<Size>(s.steps), b, static_cast<Size>(net.outputs())});
    LayerArrays<T> to_h, to_c;
    const py::object h_n = state_arrays(net, b, &to_h);
    const py::object c_n = net.cell().has_cell_state ? state_arrays(net, b, &to_c) : py::none();
    T* to_y = y.mutable_data();
    const RecurrentNetwork<T> network = net.network<T>();
    const T* from = static_cast<const T*>(s.x.data());
    const std::int64_t* ends = s.ends();
    run_op("x", s.what(), [&](Interrupt& interrupt) {
        RecurrentTracer<T> tracer(active_isa(), network, s.steps, s.batch, ends, RecurrentTracer<T>::Purpose::forward);
        tracer.forward(from, s.h0.layers, s.c0.layers, interrupt);
        tracer.store_output(to_y);
        tracer.store_final(to_h, to_c);
    });
    return py::make_tuple(y, h_n, c_n);
}

// What bounds a trace's memory; 0: nothing was said. `why_not`: the option beside which all steps must be there at
// once.
struct WindowOptions {
    std::size_t memory = 0;
    std::string why_not;
};

// One trace under way: the forward pass at construction, then the backward pass.
template <class T>
class RecurrentTrace {
  public:
    RecurrentTrace(std::shared_ptr<RecurrentParameters> net, const py::object& x, const py::object& h0,
                   const py::object& c0, const py::object& lengths, const WindowOptions& options)
        : net_(std::move(net)), s_(checked_sequences<T>(*net_, x, h0, c0, lengths)), memory_(options.memory) {
        const RecurrentNetwork<T> network = net_->network<T>();
        const RecurrentInput<T> input = s_.input(*net_);
        const std::int64_t* ends = s_.ends();
        const std::vector<std::size_t> windows = checked_windows(network, options);
        windowed_ = windows.size() > 2;
        run_op("x", s_.what(), [&](Interrupt& interrupt) {
            tracer_ = std::make_unique<RecurrentTracer<T>>(active_isa(), network, s_.steps, s_.batch, ends,
                                                           RecurrentTracer<T>::Purpose::trace, windows);
            tracer_->forward(input, s_.h0.layers, s_.c0.layers, interrupt);
        });
    }

    // Through a stack behind the outputs, at each sample's last step or at every step: the arrays of its trace. What it
    // sends back is where `backward` starts.
    py::dict read(const DenseStack& stack, const py::object& target, const std::string& loss, bool every_step,
                  const std::vector<std::string>& keep) {
        back_ = std::make_unique<ReadoutRows<T>>(*tracer_, every_step);
        const std::size_t count = back_->count();
        const py::object rows = every_step ? valid_rows(target) : target;
        const Cotangent<T> start =
            checked_cotangent<T>(stack, static_cast<Size>(count), rows, loss, py::none(), 0, 0, "");
        Names names(keep.begin(), keep.end());
        names.insert("grad_input");
        DrawnArrays<T> own;
        std::vector<DenseLayer<T>> layers;
        run_op("readout", "all weights", [&](Interrupt& interrupt) { layers = stack.layers<T>(&own, interrupt); });
        StackTracer<T> behind(active_isa(), std::move(layers), {.keep = names});
        ResultFigures<T> figures;
        CallOutputs<T> out = behind.outputs(count, figures);
        std::vector<double> exponent(count);
        out.grad_input.any_exponent = exponent.data();
        run_op("x", batch_text(count), [&](Interrupt& interrupt) {
            behind.add(back_->rows(), count, start, out, interrupt);
            back_->send_back(out.grad_input.mantissa, exponent.data(), behind.mean().gradient);
        });
        put_results(behind, figures);
        figures.dict.attr("pop")("grad_input");
        return figures.dict;
    }

    // `cotangent`: (batch, outputs) at each end, (steps, batch, outputs) at every step, or None: what a readout sent
    // back, else the seeded one, else none beside `cotangent_h` or `cotangent_c`. Without `input_gradient` log2_dx is
    // left NaN.
    py::dict backward(const py::object& cotangent, const py::object& cotangent_h, const py::object& cotangent_c,
                      std::uint64_t seed, const std::vector<std::string>& keep, bool input_gradient) {
        typename RecurrentTracer<T>::Cotangent start{};
        py::array rows;
        if (back_) {
            start = back_->cotangent();
        } else {
            rows = checked_cotangent_of(cotangent, seed, !cotangent_h.is_none() || !cotangent_c.is_none());
            start = {static_cast<const T*>(rows.data()), nullptr, rows.ndim() == 3, {}, {}};
        }
        const States<T> h = checked_states<T>(*net_, s_.batch, cotangent_h, "cotangent_h"),
                        c = checked_states<T>(*net_, s_.batch, cotangent_c, "cotangent_c");
        start.dh_last = h.layers;
        start.dc_last = c.layers;

        const Names names(keep.begin(), keep.end());
        ResultFigures<T> result;
        RecurrentFigures<T> figures(tracer_->network(), s_.steps, s_.batch, names, result);
        bool fits = true, history_lost = false;
        run_op("x", s_.what(), [&](Interrupt& interrupt) {
            for (std::size_t k = 0; !windowed_ && k < net_->layers(); ++k)
                fits &= tracer_->store_forward(k, figures.forwards[k]);
            try {
                fits &= tracer_->backward(start, figures.directions, input_gradient ? figures.log2_dx : nullptr,
                                          figures.dx, interrupt, windowed_ ? &figures.forwards : nullptr);
            } catch (const HistoryLost&) {
                history_lost = true;
            }
        });
        if (history_lost)
            fail_value("memory",
                       "room for all steps at once, since this GRU's states have settled and what its update gates get "
                       "hangs on how",
                       text(memory_), "trace fewer steps");
        fits &= figures.write_gradients(*tracer_);
        if (!fits) fail_overflow("keep", "exponents within int64", "one beyond");
        result.dict["first_nonfinite"] = index_or_none(tracer_->first_nonfinite(), tracer_->first_nonfinite() != 0);
        return result.dict;
    }

    py::tuple influence(std::size_t layer, const py::object& cotangent, std::uint64_t seed) {
        const auto states = steps() + 1;
        const auto n = static_cast<Size>(net_->hidden(layer));
        py::array u;
        if (cotangent.is_none()) {
            py::array_t<T> drawn({batch(), n});
            unit_rows(active_isa(), seed, s_.batch, net_->hidden(layer), drawn.mutable_data());
            u = drawn;
        } else {
            u = checked_array<T>(cotangent, "cotangent", " (the network's)");
            require_shape(u, "cotangent", {batch(), n}, "(" + text(s_.batch) + ", " + text(net_->hidden(layer)) + ")");
            require_finite<T>(u, "cotangent");
        }
        const bool has_c = net_->cell().has_cell_state;
        const std::vector<Size> shape{states, states, batch()};
        py::array_t<double> dh = blank(shape), dc = blank(has_c ? shape : std::vector<Size>{0});
        double *to_dh = dh.mutable_data(), *to_dc = has_c ? dc.mutable_data() : nullptr;
        const T* from = static_cast<const T*>(u.data());
        run_op("x", "the influence of " + text(s_.steps) + " steps on each other",
               [&](Interrupt& interrupt) { tracer_->influence(layer, from, to_dh, to_dc, interrupt); });
        return py::make_tuple(dh, has_c ? py::object(dc) : py::object(py::none()));
    }

  private:
    std::vector<std::size_t> checked_windows(const RecurrentNetwork<T>& network, const WindowOptions& options) const {
        const WindowCosts costs = window_costs(network, s_.steps, s_.batch);
        const bool given = options.memory != 0, can = options.why_not.empty();
        if (costs.whole() <= (given ? options.memory : physical_memory_bytes() / 4) || (!given && !can)) return {};
        if (!can)
            fail_value("memory", "at least " + text(costs.whole()) + " bytes beside " + options.why_not,
                       text(options.memory));
        try {
            return costs.cut(options.memory);
        } catch (const MemoryTooSmall& small) {
            fail_value("memory", "at least " + text(small.least) + " bytes for this trace", text(options.memory));
        }
    }

    Size steps() const { return static_cast<Size>(s_.steps); }
    Size batch() const { return static_cast<Size>(s_.batch); }

    static py::array_t<double> blank(const std::vector<Size>& shape) {
        py::array_t<double> array = result_array(shape);
        std::fill_n(array.mutable_data(), array.size(), kNaN);
        return array;
    }

    // Of `target` (steps, batch, ...) the rows of valid steps.
    py::object valid_rows(const py::object& target) const {
        const std::string expected = "shape (" + text(s_.steps) + ", " + text(s_.batch) + ", ...) beside at='all'";
        if (!py::isinstance<py::array>(target)) fail_value("target", expected, type_name(target));
        const auto array = py::reinterpret_borrow<py::array>(target);
        if (array.ndim() < 2 || array.shape(0) != steps() || array.shape(1) != batch())
            fail_value("target", expected, shape_text(array));
        std::vector<Size> shape{-1};
        for (Size axis = 2; axis < array.ndim(); ++axis) shape.push_back(array.shape(axis));
        const std::vector<std::int64_t>& source = back_->source();
        return array.attr("reshape")(shape).attr("take")(py::array(static_cast<Size>(source.size()), source.data()), 0);
    }

    // `alone`: a gradient arrives at the last states, so that none is drawn beside it.
    py::array checked_cotangent_of(const py::object& object, std::uint64_t seed, bool alone) const {
        const auto outputs = static_cast<Size>(net_->outputs());
        if (object.is_none()) {
            py::array_t<T> rows({batch(), outputs});
            if (alone)
                std::fill_n(rows.mutable_data(), rows.size(), T(0));
            else
                normal_rows(active_isa(), seed, static_cast<std::size_t>(rows.size()), rows.mutable_data());
            return rows;
        }
        const py::array rows = checked_array<T>(object, "cotangent", " (the network's)");
        const std::string last = "(" + text(s_.batch) + ", " + text(net_->outputs()) + ")";
        if (rows.ndim() == 3)
            require_shape(rows, "cotangent", {steps(), batch(), outputs},
                          "(" + text(s_.steps) + ", " + last.substr(1) + " for every step");
        else
            require_shape(
                rows, "cotangent", {batch(), outputs},
                last + " for the last step, or (" + text(s_.steps) + ", " + last.substr(1) + " for every one");
        require_finite<T>(rows, "cotangent");
        return rows;
    }

    std::shared_ptr<RecurrentParameters> net_;
    Sequences<T> s_;
    std::unique_ptr<RecurrentTracer<T>> tracer_;
    bool windowed_ = false;
    std::size_t memory_;                    // that was given, or 0
    std::unique_ptr<ReadoutRows<T>> back_;  // where there was a readout
};

template <class T>
void bind_trace(py::module_& module, const char* name) {
    py::class_<RecurrentTrace<T>>(module, name)
        .def("read", &RecurrentTrace<T>::read, py::arg("readout"), py::arg("target"), py::arg("loss"),
             py::arg("every_step"), py::arg("keep"))
        .def("backward", &RecurrentTrace<T>::backward, py::arg("cotangent"), py::arg("cotangent_h"),
             py::arg("cotangent_c"), py::arg("seed"), py::arg("keep"), py::arg("input_gradient"))
        .def("influence", &RecurrentTrace<T>::influence, py::arg("layer"), py::arg("cotangent"), py::arg("seed"));
}

// Forward alone; what comes behind is asked for.
py::object run(const std::shared_ptr<RecurrentParameters>& p, const py::object& x, const py::object& h0,
               const py::object& c0, const py::object& lengths) {
    const WindowOptions all{0, "what comes behind"};
    if (p->is_float32) return py::cast(std::make_unique<RecurrentTrace<float>>(p, x, h0, c0, lengths, all));
    return py::cast(std::make_unique<RecurrentTrace<double>>(p, x, h0, c0, lengths, all));
}

std::string why_not_by_windows(const RecurrentParameters& net, const std::vector<std::string>& keep, bool reads_all) {
    if (net.directions == 2) return "bidirectional=True";
    if (reads_all) return "at='all'";
    for (const std::string& name : keep)
        if (name.rfind("grad_", 0) != 0) return "keep=['" + name + "']";
    return "";
}

// All of it: the figures, and the arrays of the readout's trace or None.
py::tuple trace(const std::shared_ptr<RecurrentParameters>& p, const py::object& x, const py::object& h0,
                const py::object& c0, const py::object& lengths, const DenseStack* readout, const py::object& target,
                const std::string& loss, bool every_step, const py::object& cotangent, const py::object& cotangent_h,
                const py::object& cotangent_c, std::uint64_t seed, const std::vector<std::string>& keep,
                bool input_gradient, std::size_t most) {
    const WindowOptions options{most, why_not_by_windows(*p, keep, readout && every_step)};
    const auto passes = [&](auto&& under_way) {
        const py::object behind =
            readout ? py::object(under_way.read(*readout, target, loss, every_step, {})) : py::object(py::none());
        return py::make_tuple(under_way.backward(cotangent, cotangent_h, cotangent_c, seed, keep, input_gradient),
                              behind);
    };
    return p->is_float32 ? passes(RecurrentTrace<float>(p, x, h0, c0, lengths, options))
                         : passes(RecurrentTrace<double>(p, x, h0, c0, lengths, options));
}

// Bytes of a trace's figures, of all that its passes hold where all steps are there at once, and of the arrays that are
// kept.
template <class T>
py::tuple memory(const RecurrentParameters& net, std::size_t steps, std::size_t batch,
                 const std::vector<std::string>& keep) {
    const RecurrentNetwork<T> network = net.network<T>();
    const CountedFigures<T> counted = recurrent_memory<T>(network, steps, batch, Names(keep.begin(), keep.end()));
    const std::size_t states = recurrent_state_bytes(network, steps, batch);
    return py::make_tuple(counted.figure_bytes - states, states, counted.kept_bytes);
}

py::tuple arrays(const std::vector<py::array>& list) { return py::tuple(py::cast(list)); }
py::tuple objects(const std::vector<py::object>& list) { return py::tuple(py::cast(list)); }

}  // namespace

void bind_recurrent(py::module_& module) {
    using P = RecurrentParameters;
    py::class_<StepReader>(module, "StepReader")
        .def(py::init([](std::size_t steps, std::size_t batch, py::object read) {
                 return StepReader{steps, batch, std::move(read)};
             }),
             py::arg("steps"), py::arg("batch"), py::arg("read"));
    py::class_<P, std::shared_ptr<P>>(module, "Recurrent")
        .def(py::init(&make_recurrent), py::arg("kind"), py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih"),
             py::arg("bias_hh"), py::arg("bidirectional"))
        .def_property_readonly("weight_ih", [](const P& p) { return arrays(p.weight_ih); })
        .def_property_readonly("weight_hh", [](const P& p) { return arrays(p.weight_hh); })
        .def_property_readonly("bias_ih", [](const P& p) { return objects(p.bias_ih); })
        .def_property_readonly("bias_hh", [](const P& p) { return objects(p.bias_hh); })
        .def_property_readonly("input_size", [](const P& p) { return p.inputs; })
        .def_property_readonly("uniform", &P::uniform)
        .def_property_readonly("directions", [](const P& p) { return p.directions; })
        .def(
            "check",
            [](const P& p, const py::object& x, const py::object& h0, const py::object& c0, const py::object& lengths) {
                if (p.is_float32)
                    checked_sequences<float>(p, x, h0, c0, lengths);
                else
                    checked_sequences<double>(p, x, h0, c0, lengths);
            },
            py::arg("x"), py::arg("h0"), py::arg("c0"), py::arg("lengths"))
        .def(
            "forward",
            [](const P& p, const py::object& x, const py::object& h0, const py::object& c0, const py::object& lengths) {
                return p.is_float32 ? forward<float>(p, x, h0, c0, lengths) : forward<double>(p, x, h0, c0, lengths);
            },
            py::arg("x"), py::arg("h0"), py::arg("c0"), py::arg("lengths"))
        .def(
            "memory",
            [](const P& p, std::size_t steps, std::size_t batch, const std::vector<std::string>& keep) {
                return p.is_float32 ? memory<float>(p, steps, batch, keep) : memory<double>(p, steps, batch, keep);
            },
            py::arg("steps"), py::arg("batch"), py::arg("keep"))
        .def(
            "influence_memory",
            [](const P& p, std::size_t steps, std::size_t batch) { return influence_bytes(p.cell(), steps, batch); },
            py::arg("steps"), py::arg("batch"))
        .def("run", &run, py::arg("x"), py::arg("h0"), py::arg("c0"), py::arg("lengths"))
        .def("trace", &trace, py::arg("x"), py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("readout"),
             py::arg("target"), py::arg("loss"), py::arg("every_step"), py::arg("cotangent"), py::arg("cotangent_h"),
             py::arg("cotangent_c"), py::arg("seed"), py::arg("keep"), py::arg("input_gradient"),
             py::arg("memory") = 0);
    bind_trace<float>(module, "RecurrentTraceF32");
    bind_trace<double>(module, "RecurrentTraceF64");
}

}  // namespace gt
