// What is left of the raw figures of many networks, and how such remains are put together.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "bindings/result_array.h"
#include "bindings/run_op.h"
#include "ops/distribution.h"

namespace gt {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Integers = py::array_t<std::int64_t, py::array::c_style>;

// Counts of several layers as arrays: where each layer's begin (layers + 1,), bins, and how many values each holds.
py::tuple packed(const std::vector<Counts>& layers) {
    Integers offsets(static_cast<py::ssize_t>(layers.size()) + 1);
    std::int64_t total = 0;
    offsets.mutable_at(0) = 0;
    for (std::size_t l = 0; l < layers.size(); ++l)
        offsets.mutable_at(static_cast<py::ssize_t>(l) + 1) = total += static_cast<std::int64_t>(layers[l].bins.size());
    Integers bins(total), counts(total);
    std::int64_t *bin = bins.mutable_data(), *count = counts.mutable_data();
    for (const Counts& layer : layers) {
        bin = std::copy(layer.bins.begin(), layer.bins.end(), bin);
        count = std::copy(layer.counts.begin(), layer.counts.end(), count);
    }
    return py::make_tuple(offsets, bins, counts);
}

std::vector<Counts> unpacked(const py::tuple& arrays) {
    const auto offsets = arrays[0].cast<Integers>(), bins = arrays[1].cast<Integers>(),
               counts = arrays[2].cast<Integers>();
    std::vector<Counts> layers(static_cast<std::size_t>(offsets.size() - 1));
    for (std::size_t l = 0; l < layers.size(); ++l) {
        const std::int64_t first = offsets.at(l), last = offsets.at(l + 1);
        if (first < 0 || last < first || last > bins.size() || last > counts.size())
            fail_value("counts", "offsets that rise within them", std::to_string(last));
        layers[l].bins.assign(bins.data() + first, bins.data() + last);
        layers[l].counts.assign(counts.data() + first, counts.data() + last);
    }
    return layers;
}

RawFigures checked_raw(const Doubles& values) {
    if (values.ndim() != 3) fail_value("values", "shape (networks, samples, layers)", shape_text(values));
    return {static_cast<std::size_t>(values.shape(0)), static_cast<std::size_t>(values.shape(1)),
            static_cast<std::size_t>(values.shape(2)), values.data()};
}

// Moments over values and over networks, (4, layers) each, and the counts (None where the width is 0).
py::tuple distribution_of(const Doubles& values, double width) {
    const RawFigures raw = checked_raw(values);
    const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(kMomentRows), values.shape(2)};
    Doubles of_values = result_array(shape), of_networks = result_array(shape);
    double *to_values = of_values.mutable_data(), *to_networks = of_networks.mutable_data();
    std::vector<Counts> counts(width > 0 ? raw.layers : 0);
    run_op("networks", "moments and counts",
           [&](Interrupt&) { distribution(raw, width, to_values, to_networks, counts); });
    return py::make_tuple(of_values, of_networks, width > 0 ? py::object(packed(counts)) : py::none());
}

// (networks, samples, starts)
Doubles gains_of_courses(const Doubles& values, std::size_t first, const std::vector<std::size_t>& starts) {
    const RawFigures raw = checked_raw(values);
    for (const std::size_t start : starts)
        if (first >= raw.layers || start >= raw.layers - first)
            fail_value("starts", "entries of " + shape_text(values), std::to_string(first + start));
    Doubles result = result_array({values.shape(0), values.shape(1), static_cast<py::ssize_t>(starts.size())});
    course_gains(raw, first, starts, result.mutable_data());
    return result;
}

// (probabilities, layers)
Doubles quantiles_of_values(const Doubles& values, const std::vector<double>& probabilities) {
    const RawFigures raw = checked_raw(values);
    Doubles result = result_array({static_cast<py::ssize_t>(probabilities.size()), values.shape(2)});
    double* to = result.mutable_data();
    run_op("networks", "quantiles", [&](Interrupt&) { value_quantiles(raw, probabilities, to); });
    return result;
}

// Of as many layers each.
py::tuple merge_counts(const py::tuple& one, const py::tuple& other) {
    std::vector<Counts> whole = unpacked(one);
    const std::vector<Counts> more = unpacked(other);
    if (more.size() != whole.size())
        fail_value("other", std::to_string(whole.size()) + " layers", std::to_string(more.size()));
    run_op("networks", "counts", [&](Interrupt&) {
        for (std::size_t l = 0; l < whole.size(); ++l) whole[l] = merged(whole[l], more[l]);
    });
    return packed(whole);
}

// (probabilities, layers)
Doubles quantiles_of_counts(const py::tuple& arrays, double width, const std::vector<double>& probabilities) {
    const std::vector<Counts> layers = unpacked(arrays);
    Doubles result({static_cast<py::ssize_t>(probabilities.size()), static_cast<py::ssize_t>(layers.size())});
    std::vector<double> column(probabilities.size());
    for (std::size_t l = 0; l < layers.size(); ++l) {
        count_quantiles(layers[l], width, probabilities, column.data());
        for (std::size_t p = 0; p < column.size(); ++p) result.mutable_at(p, l) = column[p];
    }
    return result;
}

}  // namespace

void bind_distribution(py::module_& module) {
    module.def("distribution", &distribution_of, py::arg("values"), py::arg("width"));
    module.def("course_gains", &gains_of_courses, py::arg("values"), py::arg("first"), py::arg("starts"));
    module.def("value_quantiles", &quantiles_of_values, py::arg("values"), py::arg("probabilities"));
    module.def("merge_counts", &merge_counts, py::arg("one"), py::arg("other"));
    module.def("count_quantiles", &quantiles_of_counts, py::arg("counts"), py::arg("width"), py::arg("probabilities"));
}

}  // namespace gt
