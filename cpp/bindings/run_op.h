// How a binding calls an op: the GIL released in one place, and what an op throws turned into Python's exceptions.
#pragma once

#include <new>
#include <string>

#include "bindings/array_check.h"
#include "ops/parallel.h"

namespace gt {

inline bool python_wants_to_stop() {
    const py::gil_scoped_acquire locked;
    return PyErr_CheckSignals() != 0;
}

// Runs a long op without the GIL; `name` is the argument whose size is to blame where memory runs out. Ctrl-C comes
// back as KeyboardInterrupt, a machine too small as MemoryError.
template <class F>
void run_op(const std::string& name, const std::string& what, F&& op) {
    Interrupt interrupt(python_wants_to_stop);
    try {
        const py::gil_scoped_release unlocked;
        op(interrupt);
    } catch (const Interrupted&) {
        throw py::error_already_set();
    } catch (const std::bad_alloc&) {
        fail_memory(name, what + " needs more memory than this machine has",
                    "use fewer samples at a time or a smaller network");
    }
}

}  // namespace gt
