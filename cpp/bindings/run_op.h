// How a binding calls an op: the GIL released in one place, and what an op throws turned into Python's exceptions.
#pragma once

#include <unistd.h>

#include <new>
#include <string>

#include "bindings/array_check.h"
#include "ops/parallel.h"

namespace gt {

// Python ends a daemon thread that asks for the GIL after the main thread is done by pthread_exit. Its unwinding must
// not meet C++, where a destructor or a parallel region would abort the process: such a thread waits here for the end.
template <class F>
auto take_gil_or_stay(F&& take) {
    try {
        return take();
    } catch (...) {
        for (;;) pause();
    }
}

inline bool python_wants_to_stop() {
    const PyGILState_STATE state = take_gil_or_stay([] { return PyGILState_Ensure(); });
    const bool stop = PyErr_CheckSignals() != 0;
    PyGILState_Release(state);
    return stop;
}

class GilReleased {
  public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    ~GilReleased() {
        take_gil_or_stay([&] { PyEval_RestoreThread(state_); });
    }
    GilReleased(const GilReleased&) = delete;
    GilReleased& operator=(const GilReleased&) = delete;

  private:
    PyThreadState* state_;
};

// For a while, in an op that runs without it.
class GilTaken {
  public:
    GilTaken() : state_(take_gil_or_stay([] { return PyGILState_Ensure(); })) {}
    ~GilTaken() { PyGILState_Release(state_); }
    GilTaken(const GilTaken&) = delete;
    GilTaken& operator=(const GilTaken&) = delete;

  private:
    PyGILState_STATE state_;
};

// Runs a long op without the GIL; `name` is the argument whose size is to blame where memory runs out. Ctrl-C comes
// back as KeyboardInterrupt, a machine too small as MemoryError.
template <class F>
void run_op(const std::string& name, const std::string& what, F&& op) {
    Interrupt interrupt(python_wants_to_stop);
    try {
        const GilReleased unlocked;
        op(interrupt);
    } catch (const Interrupted&) {
        throw py::error_already_set();
    } catch (const std::bad_alloc&) {
        fail_memory(name, what + " needs more memory than this machine has",
                    "use fewer samples at a time or a smaller network");
    }
}

}  // namespace gt
