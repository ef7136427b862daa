// _core: table of contents.
#include "bindings/bind.h"

PYBIND11_MODULE(_core, module) {
    module.doc() = "The C++ core of gradtrace; its interface is private, the package's Python face is the public one.";
    gt::bind_ensemble(module);
    gt::bind_distribution(module);
    gt::bind_isa(module);
    gt::bind_math(module);
    gt::bind_measures(module);
    gt::bind_quantiles(module);
    gt::bind_random(module);
    gt::bind_recurrent(module);
    gt::bind_recurrent_ensemble(module);
    gt::bind_spectrum(module);
    gt::bind_stack(module);
    gt::bind_tables(module);
}
