#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "core/aligned_buffer.h"
#include "isa/dispatch.h"
#include "ops/parallel.h"

namespace gt {

namespace py = pybind11;

void bind_isa(py::module_& module) {
    module.def("isa_active", [] { return std::string(active_isa().name); });
    module.def("isa_supported", &supported_isas);
    module.def("isa_for_tests", &isas_for_tests);
    module.def("isa_compiled", &compiled_isas);
    module.def("isa_use", &use_isa, py::arg("name"));
    module.def("precision_is_high", [] { return precision() == Precision::high; });
    module.def(
        "set_precision_high", [](bool high) { set_precision(high ? Precision::high : Precision::highest); },
        py::arg("high"));
    module.def("set_thread_limit", &set_thread_limit, py::arg("threads"));
    module.def("thread_limit", &thread_limit);
    module.def("threads_in_use", &threads_in_use);
    module.def("build_facts", [] {
        py::dict facts;
        facts["version"] = GT_VERSION;
        facts["compiler"] = GT_COMPILER;
        facts["thread_count_source"] = thread_count_source();
        return facts;
    });
    module.def("physical_memory", &physical_memory_bytes);
}

}  // namespace gt
