// Norms of a watched model's tensors, which are seen as arrays.
#include "bindings/array_check.h"
#include "bindings/bind.h"
#include "bindings/run_op.h"
#include "ops/measures.h"

namespace gt {
namespace {

constexpr py::ssize_t kLarge = 1 << 16;  // entries from which on others may run meanwhile

template <class F>
double measured(const py::array& x, F&& f) {
    const auto run = [&](auto zero) {
        using T = decltype(zero);
        const T* data = static_cast<const T*>(checked_array<T>(x, "x", "").data());
        if (x.size() < kLarge) return f(data);
        const GilReleased unlocked;
        return f(data);
    };
    return py::isinstance<py::array_t<float>>(x) ? run(float{}) : run(double{});
}

double sum_of_squares_of(const py::array& x) {
    return measured(x, [&](const auto* data) { return sum_of_squares(static_cast<std::size_t>(x.size()), data); });
}

// Over all entries of the square of what is left of them without their mean over the axis.
double squares_apart_of(const py::array& x, py::ssize_t axis) {
    if (axis < 0 || axis >= x.ndim()) fail_value("axis", "an axis of x", std::to_string(axis));
    std::size_t outer = 1, columns = 1;
    for (py::ssize_t i = 0; i < x.ndim(); ++i)
        if (i != axis) (i < axis ? outer : columns) *= static_cast<std::size_t>(x.shape(i));
    const auto rows = static_cast<std::size_t>(x.shape(axis));
    return measured(x, [&](const auto* data) { return squares_apart(outer, rows, columns, data); });
}

}  // namespace

void bind_measures(py::module_& module) {
    module.def("sum_of_squares", &sum_of_squares_of, py::arg("x"));
    module.def("squares_apart", &squares_apart_of, py::arg("x"), py::arg("axis"));
}

}  // namespace gt
