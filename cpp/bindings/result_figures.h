// The figures that an op names, as NumPy arrays in one dict.
#pragma once

#include <utility>
#include <vector>

#include "bindings/result_array.h"
#include "ops/figures.h"

namespace gt {

// A figure is an array, a kept array a pair of mantissa and exponent; of layers, a list of these.
template <class T>
class ResultFigures final : public Figures<T> {
  public:
    double* figure(const char* name, const Extents& shape) override { return put(name, numbers(shape)); }

    std::vector<double*> figure_of_layers(const char* name, const std::vector<Extents>& shapes) override {
        return put_list(name, shapes, [](const Extents& shape) { return numbers(shape); });
    }

    KeptRows<T> kept(const char* name, const Extents& leading, const Extents& row) override {
        return put(name, rows(leading, row));
    }

    std::vector<KeptRows<T>> kept_of_layers(const char* name, const Extents& leading,
                                            const std::vector<Extents>& widths) override {
        return put_list(name, widths, [&](const Extents& row) { return rows(leading, row); });
    }

    py::dict dict;

  private:
    template <class To>
    To put(const char* name, const std::pair<py::object, To>& made) {
        dict[name] = made.first;
        return made.second;
    }

    template <class Make>
    auto put_list(const char* name, const std::vector<Extents>& shapes, Make&& make) {
        std::vector<decltype(make(shapes[0]).second)> all;
        py::list list;
        for (const Extents& shape : shapes) {
            const auto made = make(shape);
            list.append(made.first);
            all.push_back(made.second);
        }
        dict[name] = list;
        return all;
    }

    static std::vector<py::ssize_t> shape_of(const Extents& extents) { return {extents.begin(), extents.end()}; }

    static std::pair<py::object, double*> numbers(const Extents& shape) {
        py::array_t<double> array = result_array(shape_of(shape));
        return {array, array.mutable_data()};
    }

    static std::pair<py::object, KeptRows<T>> rows(const Extents& leading, const Extents& row) {
        Extents whole = leading;
        whole.insert(whole.end(), row.begin(), row.end());
        py::array_t<T> mantissa(shape_of(whole));
        py::array_t<std::int64_t> exponent(shape_of(leading));
        return {py::make_tuple(mantissa, exponent), {mantissa.mutable_data(), exponent.mutable_data()}};
    }
};

}  // namespace gt
