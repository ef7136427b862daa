// Quantiles over samples, of all figures of a trace in one call.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "bindings/result_array.h"
#include "bindings/run_op.h"
#include "ops/quantiles.h"

namespace gt {
namespace {

struct Rows {
    std::size_t count, samples;
    const double* from;
    double* to;
};

// Of each figure (rows, n) or (n,): (rows, probabilities) or (probabilities,).
py::list quantiles(const std::vector<py::array_t<double, py::array::c_style>>& figures,
                   const std::vector<double>& probabilities) {
    const auto count = static_cast<py::ssize_t>(probabilities.size());
    std::vector<Rows> rows;
    py::list all;
    for (const auto& figure : figures) {
        const bool table = figure.ndim() == 2;
        py::array_t<double> result = table ? result_array({figure.shape(0), count}) : result_array({count});
        rows.push_back({static_cast<std::size_t>(table ? figure.shape(0) : 1),
                        static_cast<std::size_t>(figure.shape(figure.ndim() - 1)), figure.data(),
                        result.mutable_data()});
        all.append(result);
    }
    run_op("x", "quantiles over samples", [&](Interrupt& interrupt) {
        for (const Rows& r : rows)
            if (!interrupt.requested(0)) row_quantiles(r.count, r.samples, r.from, probabilities, r.to);
        if (interrupt.stopped()) throw Interrupted{};
    });
    return all;
}

}  // namespace

void bind_quantiles(py::module_& module) {
    module.def("quantiles", &quantiles, py::arg("figures"), py::arg("probabilities"));
}

}  // namespace gt
