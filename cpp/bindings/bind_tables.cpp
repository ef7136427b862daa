// What the core knows of activations and cells, as rows: Python's tables begin with these.
#include "bindings/bind.h"
#include "core/cells.h"
#include "isa/dispatch.h"

namespace py = pybind11;

namespace gt {
namespace {

py::list activations() {
    const ActivationKernels<float>& kernels = *active_isa().f32.activation;
    py::list rows;
    for (std::size_t i = 0; i < kernels.count; ++i) {
        const ActivationInfo& info = kernels.info[i];
        py::dict row;
        row["name"] = info.name;
        row["sup"] = info.derivative_sup;
        row["homogeneous"] = info.near_zero == NearZero::homogeneous;
        row["zero_at_origin"] = info.near_zero != NearZero::offset;
        row["can_die"] = info.can_die;
        row["fades"] = info.fades;
        row["parameter"] = info.parameter ? py::object(py::float_(info.usual)) : py::object(py::none());
        rows.append(row);
    }
    return rows;
}

py::list cells() {
    py::list rows;
    for (const CellShape* cell : kCells) {
        py::dict row;
        row["name"] = cell->name;
        row["blocks"] = cell->weight_blocks;
        py::list gates;
        for (std::size_t i = 0; i < cell->gates; ++i) gates.append(cell->gate_names[i]);
        row["gates"] = py::tuple(gates);
        row["carry_gate"] = cell->carries ? py::object(py::int_(cell->carry_gate)) : py::object(py::none());
        row["has_cell_state"] = cell->has_cell_state;
        row["separate_biases"] = cell->separate_biases;
        rows.append(row);
    }
    return rows;
}

}  // namespace

void bind_tables(py::module_& module) {
    module.def("activations", &activations, "A dict for each activation, with its usual parameter.");
    module.def("cells", &cells, "A dict for each cell.");
}

}  // namespace gt
