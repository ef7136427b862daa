// Every check of an argument and every message: "name: expected ..., got ...; remedy". The only place that knows them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa/dispatch.h"

namespace gt {

namespace py = pybind11;

// Texts from the caller are cut and in ASCII: no message may run away, and a lone surrogate has no UTF-8.
inline std::string shortened(const std::string& text, std::size_t limit = 60) {
    return text.size() <= limit ? text : text.substr(0, limit) + "...";
}

inline std::string shortened(const py::str& text) {
    return shortened(text.attr("encode")("unicode_escape").cast<std::string>());
}

inline std::string type_name(const py::handle& object) {
    return shortened(py::str(py::type::handle_of(object).attr("__name__")));
}

inline std::string shape_text(const py::array& array) {
    std::string text = "(";
    const py::ssize_t shown = array.ndim() < 6 ? array.ndim() : 6;
    for (py::ssize_t i = 0; i < shown; ++i)
        text += std::to_string(array.shape(i)) + (i + 1 < shown ? ", " : array.ndim() == 1 ? "," : "");
    return text + (shown < array.ndim() ? ", ...)" : ")");
}

inline std::string message(const std::string& name, const std::string& expected, const std::string& got,
                           const std::string& remedy) {
    return name + ": expected " + expected + ", got " + got + (remedy.empty() ? "" : "; " + remedy);
}

[[noreturn]] inline void fail_value(const std::string& name, const std::string& expected, const std::string& got,
                                    const std::string& remedy = "") {
    throw py::value_error(message(name, expected, got, remedy));
}

[[noreturn]] inline void fail_type(const std::string& name, const std::string& expected, const std::string& got,
                                   const std::string& remedy = "") {
    throw py::type_error(message(name, expected, got, remedy));
}

[[noreturn]] inline void fail_overflow(const std::string& name, const std::string& expected, const std::string& got) {
    throw std::overflow_error(message(name, expected, got, ""));  // Python's OverflowError
}

[[noreturn]] inline void fail_memory(const std::string& name, const std::string& need, const std::string& remedy) {
    PyErr_SetString(PyExc_MemoryError, (name + ": " + need + "; " + remedy).c_str());
    throw py::error_already_set();
}

inline py::array as_array(const py::handle& object, const std::string& name) {
    if (!py::isinstance<py::array>(object))
        fail_type(name, "a NumPy array", type_name(object), "numpy.asarray makes one");
    // A subclass may mean something else by its values; only a mask must not get lost.
    if (py::hasattr(object, "mask") && py::isinstance(object, py::module_::import("numpy.ma").attr("MaskedArray")))
        fail_type(name, "a plain array", "a masked one", "use .filled or .compressed");
    return py::reinterpret_borrow<py::array>(object);
}

template <class T>
constexpr const char* kDtypeName = "float64";
template <>
inline constexpr const char* kDtypeName<float> = "float32";
template <>
inline constexpr const char* kDtypeName<std::int64_t> = "int64";
template <>
inline constexpr const char* kDtypeName<std::uint64_t> = "uint64";

// "dtype (why)", contiguous, aligned, native byte order: what a kernel may read in place.
template <class T>
py::array checked_array(const py::handle& object, const std::string& name, const std::string& why) {
    const py::array array = as_array(object, name);
    const std::string dtype = kDtypeName<T>;
    if (!py::isinstance<py::array_t<T>>(array))
        fail_type(name, "dtype " + dtype + why, shortened(py::str(array.dtype())), "use .astype('" + dtype + "')");
    if (!(array.flags() & py::array::c_style))
        fail_value(name, "a C-contiguous array", "a strided one of shape " + shape_text(array),
                   "use numpy.ascontiguousarray");
    if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
        fail_value(name, "an aligned array", "one at an odd address", "use .copy()");
    return array;
}

inline void require_shape(const py::array& array, const std::string& name, const std::vector<py::ssize_t>& shape,
                          const std::string& expected, const std::string& remedy = "") {
    bool equal = array.ndim() == static_cast<py::ssize_t>(shape.size());
    for (std::size_t i = 0; equal && i < shape.size(); ++i)
        equal = shape[i] < 0 || array.shape(static_cast<py::ssize_t>(i)) == shape[i];
    if (!equal) fail_value(name, "shape " + expected, shape_text(array), remedy);
}

// "[3, 5]" of a flat index.
inline std::string index_text(const py::array& array, py::ssize_t flat) {
    std::string text;
    for (py::ssize_t i = array.ndim(); i-- > 0;) {
        text = std::to_string(flat % array.shape(i)) + (text.empty() ? "" : ", ") + text;
        flat /= array.shape(i);
    }
    return "[" + text + "]";
}

template <class T>
void require_finite(const py::array& array, const std::string& name) {
    const T* data = static_cast<const T*>(array.data());
    if (active_isa().get<T>().reduce->all_finite(static_cast<std::size_t>(array.size()), data)) return;
    for (py::ssize_t i = 0; i < array.size(); ++i)
        if (!std::isfinite(data[i]))
            fail_value(name, "finite values",
                       (std::isnan(data[i]) ? "nan at "
                        : data[i] < T(0)    ? "-inf at "
                                            : "inf at ") +
                           index_text(array, i),
                       "numpy.isfinite finds them");
}

inline void require_labels(const std::vector<std::int64_t>& label, const std::string& name, std::int64_t classes) {
    for (std::size_t i = 0; i < label.size(); ++i)
        if (label[i] < 0 || label[i] >= classes)
            fail_value(name, "labels from 0 to " + std::to_string(classes - 1),
                       std::to_string(label[i]) + " at [" + std::to_string(i) + "]",
                       "the last layer has " + std::to_string(classes) + " units");
}

}  // namespace gt
