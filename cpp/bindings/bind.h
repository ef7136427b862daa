#pragma once

#include <pybind11/pybind11.h>

namespace gt {

void bind_ensemble(pybind11::module_& module);            // many random stacks at a time
void bind_distribution(pybind11::module_& module);        // moments and counts of many networks' figures
void bind_isa(pybind11::module_& module);                 // instruction sets, threads, build facts
void bind_math(pybind11::module_& module);                // kernels one by one, for tests and benchmarks
void bind_measures(pybind11::module_& module);            // norms of a watched model's tensors
void bind_quantiles(pybind11::module_& module);           // over the samples of a trace
void bind_random(pybind11::module_& module);              // random weights
void bind_recurrent(pybind11::module_& module);           // recurrent networks, their traces and influence maps
void bind_recurrent_ensemble(pybind11::module_& module);  // random recurrent networks, one and many
void bind_spectrum(pybind11::module_& module);            // singular values of Jacobians, Lyapunov exponents
void bind_stack(pybind11::module_& module);               // DenseStack and StackTracer
void bind_tables(pybind11::module_& module);              // what the core knows of activations and cells

}  // namespace gt
