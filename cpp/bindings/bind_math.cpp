// Kernels one by one, on the active ISA and without flushing subnormals: what the accuracy tests and benchmarks call.
#include <pybind11/stl.h>

#include "bindings/array_check.h"
#include "bindings/bind.h"
#include "bindings/checked_stack.h"
#include "core/scaled.h"
#include "core/shape.h"
#include "isa/dispatch.h"
#include "ops/qr.h"
#include "ops/workspace.h"

namespace gt {
namespace {

template <class F>
auto with_dtype(const py::array& array, const std::string& name, F&& f) {
    if (py::isinstance<py::array_t<float>>(array)) return f(float{});
    if (py::isinstance<py::array_t<double>>(array)) return f(double{});
    fail_type(name, "dtype float32 or float64", shortened(py::str(array.dtype())));
}

py::object evaluate_math(const std::string& name, const py::array& x) {
    return with_dtype(x, "x", [&](auto zero) -> py::object {
        using T = decltype(zero);
        const py::array in = checked_array<T>(x, "x", "");
        const MathKernels<T>& kernels = *active_isa().get<T>().math;
        for (std::size_t i = 0; i < kernels.count; ++i)
            if (name == kernels.functions[i].name) {
                py::array_t<T> y(in.size());
                kernels.functions[i].evaluate(static_cast<std::size_t>(in.size()), static_cast<const T*>(in.data()),
                                              y.mutable_data());
                return y;
            }
        fail_value("name", "a function of simd/math.h", "'" + shortened(name) + "'");
    });
}

py::object evaluate_activation(const py::object& name, const py::array& z) {
    const CheckedActivation phi = checked_activation(name, "name");
    return with_dtype(z, "z", [&](auto zero) -> py::object {
        using T = decltype(zero);
        const py::array in = checked_array<T>(z, "z", "");
        py::array_t<T> a(in.size()), derivative(in.size());
        active_isa().get<T>().activation->evaluate[phi.index](phi.parameter, static_cast<std::size_t>(in.size()),
                                                              static_cast<const T*>(in.data()), a.mutable_data(),
                                                              derivative.mutable_data());
        return py::make_tuple(a, derivative);
    });
}

py::tuple log_derivative(const py::object& name, const py::array& z) {
    const CheckedActivation phi = checked_activation(name, "name");
    const py::array in = checked_array<double>(z, "z", "");
    py::array_t<double> log_magnitude(in.size()), sign(in.size());
    active_isa().f64.activation->log_derivative[phi.index](phi.parameter, static_cast<std::size_t>(in.size()),
                                                           static_cast<const double*>(in.data()),
                                                           log_magnitude.mutable_data(), sign.mutable_data());
    return py::make_tuple(log_magnitude, sign);
}

py::tuple log_value(const py::object& name, const py::array& z) {
    const CheckedActivation phi = checked_activation(name, "name");
    const py::array in = checked_array<double>(z, "z", "");
    py::array_t<double> log_magnitude(in.size()), sign(in.size());
    active_isa().f64.activation->log_value[phi.index](static_cast<std::size_t>(in.size()),
                                                      static_cast<const double*>(in.data()),
                                                      log_magnitude.mutable_data(), sign.mutable_data());
    return py::make_tuple(log_magnitude, sign);
}

// a (m, k) or, transposed, (k, m); b (k, n), n 1 or a multiple of 16; into out (m, n).
void matrix_product(const py::array& a, const py::array& b, const py::array& out, bool transposed, bool add) {
    with_dtype(a, "a", [&](auto zero) {
        using T = decltype(zero);
        const py::array left = checked_array<T>(a, "a", ""), right = checked_array<T>(b, "b", "");
        py::array_t<T> result = py::reinterpret_borrow<py::array_t<T>>(checked_array<T>(out, "out", ""));
        require_shape(left, "a", {-1, -1}, "(m, k)");
        const py::ssize_t m = left.shape(transposed ? 1 : 0), k = left.shape(transposed ? 0 : 1);
        require_shape(right, "b", {k, -1}, "(k, n)");
        const py::ssize_t n = right.shape(1);
        require_shape(result, "out", {m, n}, "(m, n)");
        if (n != 1 && n % static_cast<py::ssize_t>(kColumnMultiple) != 0)
            fail_value("b", "one column, or columns in multiples of 16", shape_text(right));
        const GemmKernels<T>& kernels = *active_isa().get<T>().gemm;
        const auto columns = static_cast<std::size_t>(n);
        Workspace scratch(kernels.scratch_bytes);
        const GemmColumns<T> set{columns, static_cast<const T*>(right.data()), result.mutable_data()};
        (transposed ? kernels.tn : kernels.nn)(static_cast<std::size_t>(m), static_cast<std::size_t>(k),
                                               static_cast<const T*>(left.data()),
                                               static_cast<std::size_t>(left.shape(1)), &set, 1, columns, columns, add,
                                               nullptr, scratch.as<unsigned char>());
    });
}

// a (m, n), m >= n, as q (m, n) and r (n, n).
py::tuple qr(const py::array& a) {
    const py::array given = checked_array<double>(a, "a", "");
    require_shape(given, "a", {-1, -1}, "(m, n)");
    const auto m = static_cast<std::size_t>(given.shape(0)), n = static_cast<std::size_t>(given.shape(1)),
               ld = n == 1 ? 1 : round_up(n, kColumnMultiple);
    if (m < n || n == 0) fail_value("a", "at least as many rows as columns", shape_text(given));
    std::vector<double> tile(m * ld);
    for (std::size_t i = 0; i < m; ++i)
        std::copy_n(static_cast<const double*>(given.data()) + i * n, n, tile.data() + i * ld);
    Qr found(active_isa());
    found.run(m, n, ld, tile.data());
    py::array_t<double> q({m, n}), r({n, n});
    for (std::size_t i = 0; i < m; ++i) std::copy_n(tile.data() + i * ld, n, q.mutable_data() + i * n);
    std::fill_n(r.mutable_data(), n * n, 0.0);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = i; j < n; ++j)
            r.mutable_data()[i * n + j] = scale_by(found.triangle(i)[j], found.exponent());
    return py::make_tuple(q, r);
}

// The weighted sums of two matrices' products and of the first alone, as weight gradients take them.
py::tuple pair_sums(const py::array& p, const py::array& q, const py::array& rows, const py::array& columns) {
    return with_dtype(p, "p", [&](auto zero) {
        using T = decltype(zero);
        const py::array left = checked_array<T>(p, "p", ""), right = checked_array<T>(q, "q", "");
        require_shape(left, "p", {-1, -1}, "(m, n)");
        const py::ssize_t m = left.shape(0), n = left.shape(1);
        require_shape(right, "q", {m, n}, "(m, n)");
        if (n % static_cast<py::ssize_t>(kColumnMultiple) != 0)
            fail_value("p", "columns in multiples of 16", shape_text(left));
        const py::array down = checked_array<double>(rows, "rows", ""),
                        across = checked_array<double>(columns, "columns", "");
        require_shape(down, "rows", {2, m}, "(2, m)");
        require_shape(across, "columns", {2, n}, "(2, n)");
        const auto *by_row = static_cast<const double*>(down.data()),
                   *by_column = static_cast<const double*>(across.data());
        double sums[2];
        active_isa().get<T>().reduce->pair_sums(static_cast<std::size_t>(m), static_cast<std::size_t>(n),
                                                static_cast<std::size_t>(n), static_cast<const T*>(left.data()),
                                                static_cast<const T*>(right.data()), by_row, by_column, by_row + m,
                                                by_column + n, sums);
        return py::make_tuple(sums[0], sums[1]);
    });
}

// Operations done: multiply-adds in registers, nothing else.
double multiply_add(const std::string& dtype, std::size_t rounds) {
    if (dtype != "float32" && dtype != "float64")
        fail_value("dtype", "float32 or float64", "'" + shortened(dtype) + "'");
    const auto run = [&](const auto& kernels) {
        // The fixed point of x -> x / 2 + 1 is 2: no overflow, no subnormal.
        kernels.multiply_add(rounds, 0.5, 1.0);
        return static_cast<double>(kernels.operations) * static_cast<double>(rounds);
    };
    return dtype == "float32" ? run(*active_isa().f32.peak) : run(*active_isa().f64.peak);
}

// Reads an array so many times; its sum, as often.
double read_array(const py::array& x, std::size_t times) {
    return with_dtype(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const py::array in = checked_array<T>(x, "x", "");
        double total = 0;
        for (std::size_t i = 0; i < times; ++i)
            total +=
                active_isa().get<T>().peak->read(static_cast<std::size_t>(in.size()), static_cast<const T*>(in.data()));
        return total;
    });
}

}  // namespace

void bind_math(py::module_& module) {
    py::module_ kernels = module.def_submodule("kernels", "Kernels one by one, on the active ISA.");
    kernels.def("math", &evaluate_math, py::arg("name"), py::arg("x"));
    kernels.def("activation", &evaluate_activation, py::arg("name"), py::arg("z"));
    kernels.def("log_derivative", &log_derivative, py::arg("name"), py::arg("z"));
    kernels.def("log_value", &log_value, py::arg("name"), py::arg("z"));
    kernels.def("matrix_product", &matrix_product, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("transposed"),
                py::arg("add"));
    kernels.def("qr", &qr, py::arg("a"));
    kernels.def("pair_sums", &pair_sums, py::arg("p"), py::arg("q"), py::arg("rows"), py::arg("columns"));
    kernels.def("multiply_add", &multiply_add, py::arg("dtype"), py::arg("rounds"));
    kernels.def("read", &read_array, py::arg("x"), py::arg("times"));
}

}  // namespace gt
