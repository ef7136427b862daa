// Recurrent networks: forward, one trace under way, and the influence map.
#include <pybind11/stl.h>

#include <algorithm>
#include <set>

#include "bindings/bind.h"
#include "bindings/checked_recurrent.h"
#include "bindings/result_array.h"
#include "bindings/run_op.h"
#include "ops/random.h"

namespace gt {
namespace {

using Size = py::ssize_t;

std::string text(std::size_t value) { return std::to_string(value); }

template <class T>
py::tuple forward(const RecurrentParameters& net, const py::object& x, const py::object& h0, const py::object& c0,
                  const py::object& lengths) {
    const Sequences<T> s = checked_sequences<T>(net, x, h0, c0, lengths);
    const auto k = static_cast<Size>(net.layers()), b = static_cast<Size>(s.batch), n = static_cast<Size>(net.hidden);
    py::array_t<T> y({static_cast<Size>(s.steps), b, static_cast<Size>(net.outputs())}), h_n({k, b, n});
    py::object c_n = py::none();
    T *to_y = y.mutable_data(), *to_h = h_n.mutable_data(), *to_c = nullptr;
    if (net.cell().has_cell_state) {
        py::array_t<T> array({k, b, n});
        to_c = array.mutable_data();
        c_n = array;
    }
    const RecurrentNetwork<T> network = net.network<T>();
    const T *from = static_cast<const T*>(s.x.data()), *from_h = s.data(s.h0), *from_c = s.data(s.c0);
    const std::int64_t* ends = s.ends();
    run_op("x", s.what(), [&](Interrupt& interrupt) {
        RecurrentTracer<T> tracer(active_isa(), network, s.steps, s.batch, ends, RecurrentTracer<T>::Purpose::forward);
        tracer.forward(from, from_h, from_c, interrupt);
        tracer.store_output(to_y);
        tracer.store_final(to_h, to_c);
    });
    return py::make_tuple(y, h_n, c_n);
}

// One trace under way: the forward pass at construction, then the backward pass.
template <class T>
class RecurrentTrace {
  public:
    RecurrentTrace(std::shared_ptr<RecurrentParameters> net, const py::object& x, const py::object& h0,
                   const py::object& c0, const py::object& lengths)
        : net_(std::move(net)), s_(checked_sequences<T>(*net_, x, h0, c0, lengths)) {
        const RecurrentNetwork<T> network = net_->network<T>();
        const T *from = static_cast<const T*>(s_.x.data()), *from_h = s_.data(s_.h0), *from_c = s_.data(s_.c0);
        const std::int64_t* ends = s_.ends();
        run_op("x", s_.what(), [&](Interrupt& interrupt) {
            tracer_ = std::make_unique<RecurrentTracer<T>>(active_isa(), network, s_.steps, s_.batch, ends,
                                                           RecurrentTracer<T>::Purpose::trace);
            tracer_->forward(from, from_h, from_c, interrupt);
        });
    }

    py::array output() const {
        py::array_t<T> y({steps(), batch(), static_cast<Size>(net_->outputs())});
        tracer_->store_output(y.mutable_data());
        return y;
    }

    // h at each sample's end, the last layer's directions side by side: (batch, outputs).
    py::array final_output() const {
        const std::size_t k = net_->layers(), d = net_->directions, n = net_->hidden, b = s_.batch;
        std::vector<T> all(k * b * n), cells(net_->cell().has_cell_state ? all.size() : 0);
        tracer_->store_final(all.data(), cells.empty() ? nullptr : cells.data());
        py::array_t<T> last({batch(), static_cast<Size>(net_->outputs())});
        T* to = last.mutable_data();
        for (std::size_t i = 0; i < d; ++i)
            for (std::size_t sample = 0; sample < b; ++sample) {
                const T* from = all.data() + ((k - d + i) * b + sample) * n;
                std::copy(from, from + n, to + sample * d * n + i * n);
            }
        return last;
    }

    // `cotangent`: (batch, outputs) at each end, (steps, batch, outputs) at every step, or None for the seeded one;
    // `exponent`: int64 of each row, or None. Without `input_gradient` log2_dx is left NaN.
    py::dict backward(const py::object& cotangent, const py::object& exponent, const py::object& cotangent_c,
                      std::uint64_t seed, const std::vector<std::string>& keep, bool input_gradient) {
        keep_ = {keep.begin(), keep.end()};
        typename RecurrentTracer<T>::Cotangent start{};
        py::array rows = checked_cotangent(cotangent, seed, exponent.is_none());
        start.rows = static_cast<const T*>(rows.data());
        start.every_step = rows.ndim() == 3;
        start.exponent = exponent.is_none() ? nullptr : static_cast<const std::int64_t*>(py::array(exponent).data());
        const py::object c = checked_state<T>(*net_, s_.batch, cotangent_c, "cotangent_c");
        start.dc_last = s_.data(c);

        py::dict figures;
        std::vector<DirectionOutputs<T>> directions(net_->layers());
        std::vector<ForwardOutputs<T>> forwards(net_->layers());
        allocate_states(&figures, &directions);
        allocate_gates(&figures, &forwards);
        allocate_steps(&figures, &directions);
        allocate_kept(&figures, &directions, &forwards);
        double* log2_dx = nan_array(&figures, "log2_dx", {steps(), batch()});
        const KeptRows<T> dx = kept(&figures, "dx", {steps(), batch()}, net_->inputs);
        bool fits = true;
        run_op("x", s_.what(), [&](Interrupt& interrupt) {
            for (std::size_t k = 0; k < net_->layers(); ++k) fits &= tracer_->store_forward(k, forwards[k]);
            fits &= tracer_->backward(start, directions, input_gradient ? log2_dx : nullptr, dx, interrupt);
        });
        if (!fits) fail_overflow("keep", "exponents within int64", "one beyond");
        collect_gradients(&figures);
        figures["first_nonfinite"] =
            tracer_->first_nonfinite() ? py::object(py::int_(tracer_->first_nonfinite())) : py::object(py::none());
        return figures;
    }

    py::tuple influence(std::size_t layer, const py::object& cotangent, std::uint64_t seed) {
        const auto states = steps() + 1;
        const auto n = static_cast<Size>(net_->hidden);
        py::array u;
        if (cotangent.is_none()) {
            u = unit_rows(seed);
        } else {
            u = checked_array<T>(cotangent, "cotangent", " (the network's)");
            require_shape(u, "cotangent", {batch(), n}, "(" + text(s_.batch) + ", " + text(net_->hidden) + ")");
            require_finite<T>(u, "cotangent");
        }
        py::dict figures;
        double* dh = nan_array(&figures, "dh", {states, states, batch()});
        double* dc = net_->cell().has_cell_state ? nan_array(&figures, "dc", {states, states, batch()}) : nullptr;
        const T* from = static_cast<const T*>(u.data());
        run_op("x", "the influence of " + text(s_.steps) + " steps on each other",
               [&](Interrupt& interrupt) { tracer_->influence(layer, from, dh, dc, interrupt); });
        return py::make_tuple(figures["dh"], dc ? py::object(figures["dc"]) : py::object(py::none()));
    }

  private:
    Size steps() const { return static_cast<Size>(s_.steps); }
    Size batch() const { return static_cast<Size>(s_.batch); }
    Size layers() const { return static_cast<Size>(net_->layers()); }

    // `given`: by the caller; what a readout sends back may be NaN.
    py::array checked_cotangent(const py::object& object, std::uint64_t seed, bool given) const {
        const auto outputs = static_cast<Size>(net_->outputs());
        if (object.is_none()) {
            py::array_t<T> rows({batch(), outputs});
            normal_rows(seed, static_cast<std::size_t>(rows.size()), rows.mutable_data());
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
        if (given) require_finite<T>(rows, "cotangent");
        return rows;
    }

    static void normal_rows(std::uint64_t seed, std::size_t count, T* to) {
        std::vector<double> numbers(count);
        normal_range(active_isa(), seed, 0, Draw::cotangent, 0, count, numbers.data());
        std::copy(numbers.begin(), numbers.end(), to);
    }

    py::array unit_rows(std::uint64_t seed) const {
        const std::size_t n = net_->hidden;
        py::array_t<T> rows({batch(), static_cast<Size>(n)});
        std::vector<double> numbers(s_.batch * n);
        normal_range(active_isa(), seed, 0, Draw::cotangent, 0, numbers.size(), numbers.data());
        for (std::size_t b = 0; b < s_.batch; ++b) {
            double squares = 0;
            for (std::size_t i = 0; i < n; ++i) squares += numbers[b * n + i] * numbers[b * n + i];
            for (std::size_t i = 0; i < n; ++i)
                rows.mutable_data()[b * n + i] = static_cast<T>(numbers[b * n + i] / std::sqrt(squares));
        }
        return rows;
    }

    // An array of NaN under `name`; what is never written is past a sample's end.
    static double* nan_array(py::dict* figures, const char* name, const std::vector<Size>& shape) {
        py::array_t<double> array = result_array(shape);
        std::fill(array.mutable_data(), array.mutable_data() + array.size(), kNaN);
        (*figures)[name] = array;
        return array.mutable_data();
    }

    // Scaled rows under `name` where they are to be kept, NaN until written.
    KeptRows<T> kept(py::dict* figures, const char* name, std::vector<Size> shape, std::size_t width) const {
        if (!keep_.count(name)) return {};
        py::array_t<std::int64_t> exponent(shape);
        shape.push_back(static_cast<Size>(width));
        py::array_t<T> mantissa(shape);
        std::fill(mantissa.mutable_data(), mantissa.mutable_data() + mantissa.size(), static_cast<T>(kNaN));
        std::fill(exponent.mutable_data(), exponent.mutable_data() + exponent.size(), std::int64_t{0});
        (*figures)[name] = py::make_tuple(mantissa, exponent);
        return {mantissa.mutable_data(), exponent.mutable_data()};
    }
    static KeptRows<T> part(const KeptRows<T>& rows, std::size_t layer, std::size_t rows_each, std::size_t width) {
        if (!rows) return {};
        return {rows.mantissa + layer * rows_each * width, rows.exponent + layer * rows_each};
    }

    void allocate_states(py::dict* figures, std::vector<DirectionOutputs<T>>* out) const {
        const std::size_t each = (s_.steps + 1) * s_.batch;
        const auto table = [&](const char* name, double* DirectionFigures<T>::* field) {
            double* to = nan_array(figures, name, {layers(), steps() + 1, batch()});
            for (std::size_t k = 0; k < out->size(); ++k) (*out)[k].figures.*field = to + k * each;
        };
        using F = DirectionFigures<T>;
        table("log2_dh", &F::dh);
        if (net_->cell().has_cell_state) {
            table("log2_dc", &F::dc);
            table("log2_dc_direct", &F::direct);
            table("log2_dc_gated", &F::gated);
        } else if (net_->cell().carries) {
            table("log2_dh_direct", &F::direct);
            table("log2_dh_gated", &F::gated);
        }
    }

    void allocate_gates(py::dict* figures, std::vector<ForwardOutputs<T>>* out) const {
        const std::size_t gates = net_->cell().gates, per_step = s_.steps * gates, n = net_->hidden;
        if (gates == 0) return;
        const auto g = static_cast<Size>(gates);
        double *mean = nan_array(figures, "gate_mean", {layers(), steps(), g}),
               *saturated = nan_array(figures, "gate_saturated", {layers(), steps(), g}),
               *retention = nan_array(figures, "log2_retention", {layers(), steps() + 1, batch()}),
               *half_life = nan_array(figures, "forget_half_life", {layers()}),
               *by_unit = nan_array(figures, "forget_half_life_unit", {layers(), static_cast<Size>(n)});
        for (std::size_t k = 0; k < out->size(); ++k) {
            ForwardOutputs<T>& o = (*out)[k];
            o.gate_mean = mean + k * per_step;
            o.gate_saturated = saturated + k * per_step;
            o.log2_retention = retention + k * (s_.steps + 1) * s_.batch;
            o.forget_half_life = half_life + k;
            o.half_life_by_unit = by_unit + k * n;
        }
    }

    void allocate_steps(py::dict* figures, std::vector<DirectionOutputs<T>>* out) const {
        const auto table = [&](const char* name, double* StepNorms::* field) {
            double* to = nan_array(figures, name, {layers(), steps()});
            for (std::size_t k = 0; k < out->size(); ++k) (*out)[k].steps.*field = to + k * s_.steps;
        };
        const bool two_biases = net_->cell().separate_biases;
        table("log2_grad_weight_ih_step", &StepNorms::ih);
        table("log2_grad_weight_hh_step", &StepNorms::hh);
        table(two_biases ? "log2_grad_bias_ih_step" : "log2_grad_bias_step", &StepNorms::bias_ih);
        if (two_biases) table("log2_grad_bias_hh_step", &StepNorms::bias_hh);
        if (net_->cell().gates) return;
        const std::size_t each = s_.steps * s_.batch;
        const auto per_sample = [&](const char* name, double* DirectionFigures<T>::* field) {
            double* to = nan_array(figures, name, {layers(), steps(), batch()});
            for (std::size_t k = 0; k < out->size(); ++k) (*out)[k].figures.*field = to + k * each;
        };
        per_sample("log2_dz", &DirectionFigures<T>::dz);
        per_sample("activation_gain", &DirectionFigures<T>::activation_gain);
        per_sample("weight_gain", &DirectionFigures<T>::weight_gain);
    }

    void allocate_kept(py::dict* figures, std::vector<DirectionOutputs<T>>* out,
                       std::vector<ForwardOutputs<T>>* forward) const {
        const std::size_t n = net_->hidden, states = (s_.steps + 1) * s_.batch, each = s_.steps * s_.batch,
                          gates = net_->cell().weight_blocks * n;
        const bool has_c = net_->cell().has_cell_state, carries = net_->cell().carries;
        const std::vector<Size> of_states{layers(), steps() + 1, batch()}, of_steps{layers(), steps(), batch()};
        const KeptRows<T> dh = kept(figures, "dh", of_states, n), dc = kept(figures, "dc", of_states, n),
                          direct = kept(figures, has_c ? "dc_direct" : "dh_direct", of_states, n),
                          gated = kept(figures, has_c ? "dc_gated" : "dh_gated", of_states, n),
                          dgates = kept(figures, carries ? "dgates" : "dz", of_steps, gates),
                          gate_values = kept(figures, "gates", of_steps, gates), h = kept(figures, "h", of_states, n),
                          c = kept(figures, "c", of_states, n);
        for (std::size_t k = 0; k < out->size(); ++k) {
            (*out)[k].figures.kept_dh = part(dh, k, states, n);
            (*out)[k].figures.kept_dc = part(dc, k, states, n);
            (*out)[k].figures.kept_direct = part(direct, k, states, n);
            (*out)[k].figures.kept_gated = part(gated, k, states, n);
            (*out)[k].kept_dgates = part(dgates, k, each, gates);
            (*forward)[k].kept_gates = part(gate_values, k, each, gates);
            (*forward)[k].kept_h = part(h, k, states, n);
            (*forward)[k].kept_c = part(c, k, states, n);
        }
    }

    void collect_gradients(py::dict* figures) const {
        const std::size_t rows = net_->cell().weight_blocks * net_->hidden;
        const auto collect = [&](const char* figure, const char* name, auto&& gradient_of, auto&& columns_of) {
            double* norms = nan_array(figures, figure, {layers()});
            py::list list;
            for (std::size_t k = 0; k < net_->layers(); ++k) {
                const auto& gradient = gradient_of(tracer_->gradients(k));
                norms[k] = gradient.log2_norm;
                if (!keep_.count(name)) continue;
                const std::size_t columns = columns_of(k);
                std::vector<Size> shape{static_cast<Size>(rows)};
                if (columns) shape.push_back(static_cast<Size>(columns));
                py::array_t<T> mantissa(shape);
                std::vector<T> plain(gradient.value.data(), gradient.value.data() + gradient.value.size());
                std::int64_t exponent = 0;
                if (!keep_row(plain.size(), plain.data(), gradient.exponent, mantissa.mutable_data(), &exponent))
                    fail_overflow("keep", "exponents within int64", "one beyond");
                list.append(py::make_tuple(mantissa, exponent));
            }
            if (keep_.count(name)) (*figures)[name] = list;
        };
        using G = DirectionGradients<T>;
        const auto inputs = [&](std::size_t k) { return static_cast<std::size_t>(net_->weight_ih[k].shape(1)); };
        const auto hidden = [&](std::size_t) { return net_->hidden; };
        const auto none = [](std::size_t) { return std::size_t{0}; };
        const bool two_biases = net_->cell().separate_biases;
        collect("log2_grad_weight_ih", "grad_weight_ih", [](const G& g) -> const auto& { return g.ih; }, inputs);
        collect("log2_grad_weight_hh", "grad_weight_hh", [](const G& g) -> const auto& { return g.hh; }, hidden);
        collect(
            two_biases ? "log2_grad_bias_ih" : "log2_grad_bias", two_biases ? "grad_bias_ih" : "grad_bias",
            [](const G& g) -> const auto& { return g.bias_ih; }, none);
        if (two_biases)
            collect("log2_grad_bias_hh", "grad_bias_hh", [](const G& g) -> const auto& { return g.bias_hh; }, none);
    }

    std::shared_ptr<RecurrentParameters> net_;
    Sequences<T> s_;
    std::set<std::string> keep_;
    std::unique_ptr<RecurrentTracer<T>> tracer_;
};

template <class T>
void bind_trace(py::module_& module, const char* name) {
    py::class_<RecurrentTrace<T>>(module, name)
        .def("output", &RecurrentTrace<T>::output)
        .def("final_output", &RecurrentTrace<T>::final_output)
        .def("backward", &RecurrentTrace<T>::backward, py::arg("cotangent"), py::arg("exponent"),
             py::arg("cotangent_c"), py::arg("seed"), py::arg("keep"), py::arg("input_gradient"))
        .def("influence", &RecurrentTrace<T>::influence, py::arg("layer"), py::arg("cotangent"), py::arg("seed"));
}

py::tuple arrays(const std::vector<py::array>& list) { return py::tuple(py::cast(list)); }
py::tuple objects(const std::vector<py::object>& list) { return py::tuple(py::cast(list)); }

}  // namespace

void bind_recurrent(py::module_& module) {
    using P = RecurrentParameters;
    py::class_<P, std::shared_ptr<P>>(module, "Recurrent")
        .def(py::init(&make_recurrent), py::arg("kind"), py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih"),
             py::arg("bias_hh"), py::arg("bidirectional"))
        .def_property_readonly("weight_ih", [](const P& p) { return arrays(p.weight_ih); })
        .def_property_readonly("weight_hh", [](const P& p) { return arrays(p.weight_hh); })
        .def_property_readonly("bias_ih", [](const P& p) { return objects(p.bias_ih); })
        .def_property_readonly("bias_hh", [](const P& p) { return objects(p.bias_hh); })
        .def_property_readonly("input_size", [](const P& p) { return p.inputs; })
        .def_property_readonly("hidden_size", [](const P& p) { return p.hidden; })
        .def_property_readonly("directions", [](const P& p) { return p.directions; })
        .def(
            "forward",
            [](const P& p, const py::object& x, const py::object& h0, const py::object& c0, const py::object& lengths) {
                return p.is_float32 ? forward<float>(p, x, h0, c0, lengths) : forward<double>(p, x, h0, c0, lengths);
            },
            py::arg("x"), py::arg("h0"), py::arg("c0"), py::arg("lengths"))
        .def(
            "trace",
            [](const std::shared_ptr<P>& p, const py::object& x, const py::object& h0, const py::object& c0,
               const py::object& lengths) -> py::object {
                if (p->is_float32) return py::cast(std::make_unique<RecurrentTrace<float>>(p, x, h0, c0, lengths));
                return py::cast(std::make_unique<RecurrentTrace<double>>(p, x, h0, c0, lengths));
            },
            py::arg("x"), py::arg("h0"), py::arg("c0"), py::arg("lengths"));
    bind_trace<float>(module, "RecurrentTraceF32");
    bind_trace<double>(module, "RecurrentTraceF64");
}

}  // namespace gt
