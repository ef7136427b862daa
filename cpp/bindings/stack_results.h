// What a stack's trace says of all its samples, for Python.
#pragma once

#include <cmath>

#include "bindings/array_check.h"
#include "bindings/result_figures.h"
#include "ops/stack_tracer.h"

namespace gt {

inline std::string batch_text(std::size_t samples) { return "a batch of " + std::to_string(samples) + " samples"; }

inline py::object index_or_none(std::size_t index, bool there) {
    return there ? py::object(py::int_(index)) : py::object(py::none());
}

template <class T>
void put_results(AnyStackTracer<T>& tracer, ResultFigures<T>& figures) {
    if (!tracer.results(figures)) fail_overflow("keep", "exponents within int64", "one beyond");
    figures.dict["loss"] = tracer.loss();
    const double share = tracer.feature_share();
    figures.dict["feature_share"] = std::isnan(share) ? py::object(py::none()) : py::object(py::float_(share));
    figures.dict["gradient_factor"] = tracer.mean().gradient;
    figures.dict["samples"] = tracer.samples();
    figures.dict["first_nonfinite"] =
        index_or_none(tracer.first_nonfinite(), tracer.first_nonfinite() < tracer.depth());
}

}  // namespace gt
