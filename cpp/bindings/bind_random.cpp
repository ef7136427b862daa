#include "bindings/array_check.h"
#include "bindings/bind.h"
#include "bindings/run_op.h"
#include "ops/random.h"

namespace gt {
namespace {

template <class T>
void fill(py::array_t<T>& out, const std::string& law, std::uint64_t seed, std::uint32_t stream, std::uint32_t kind,
          double factor) {
    const auto count = static_cast<std::size_t>(out.size());
    const auto rows = static_cast<std::size_t>(out.ndim() == 2 ? out.shape(0) : 1);
    T* data = out.mutable_data();
    const IsaKernels& isa = active_isa();
    run_op("sizes", "a matrix of " + std::to_string(count) + " entries", [&](Interrupt& interrupt) {
        if (law == "orthogonal")
            fill_orthogonal(isa, seed, stream, factor, rows, rows ? count / rows : 0, data, interrupt);
        else
            fill_random(isa, law == "normal" ? Law::normal : Law::uniform, seed, stream, static_cast<Draw>(kind),
                        factor, count, data, interrupt);
    });
}

}  // namespace

void bind_random(py::module_& module) {
    module.attr("DRAW_WEIGHT") = static_cast<std::uint32_t>(Draw::weight);
    module.attr("DRAW_BIAS") = static_cast<std::uint32_t>(Draw::bias);
    module.attr("DRAW_COTANGENT") = static_cast<std::uint32_t>(Draw::cotangent);
    module.attr("DRAW_INPUT") = static_cast<std::uint32_t>(Draw::input);
    module.def(
        "fill_random",
        [](const py::array& out, const std::string& law, std::uint64_t seed, std::uint32_t stream, std::uint32_t kind,
           double factor) {
            if (py::isinstance<py::array_t<float>>(out)) {
                auto typed = py::reinterpret_borrow<py::array_t<float>>(out);
                fill(typed, law, seed, stream, kind, factor);
            } else {
                auto typed = py::reinterpret_borrow<py::array_t<double>>(out);
                fill(typed, law, seed, stream, kind, factor);
            }
        },
        py::arg("out"), py::arg("law"), py::arg("seed"), py::arg("stream"), py::arg("kind"), py::arg("factor"),
        "Fill a contiguous float32 or float64 array: law 'normal', 'uniform' on (-1, 1) or 'orthogonal', times "
        "factor.");
}

}  // namespace gt
