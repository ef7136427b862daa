// Where the figures and kept arrays of a trace go, by name: an op asks for them before it runs or writes them after,
// and whoever called it makes the arrays; a binding makes NumPy's. python/gradtrace/traces/figures.py says what each
// means.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/aligned_buffer.h"
#include "ops/scaled_rows.h"

namespace gt {

using Names = std::set<std::string>;
using Extents = std::vector<std::size_t>;

// Arrays come as memory does: the op writes all of them. Those of `layers` stand under one name, one for each entry.
template <class T>
class Figures {
  public:
    virtual ~Figures() = default;
    virtual double* figure(const char* name, const Extents& shape) = 0;
    virtual std::vector<double*> figure_of_layers(const char* name, const std::vector<Extents>& shapes) = 0;
    // Of shape (leading..., row...), with an exponent for each entry of the leading axes.
    virtual KeptRows<T> kept(const char* name, const Extents& leading, const Extents& row) = 0;
    virtual std::vector<KeptRows<T>> kept_of_layers(const char* name, const Extents& leading,
                                                    const std::vector<Extents>& rows) = 0;
};

inline std::size_t entries_of(const Extents& shape) {
    std::size_t count = 1;
    for (const std::size_t n : shape) count = checked_multiply(count, n);
    return count;
}

// Counts what an op would write, and makes none of it.
template <class T>
class CountedFigures final : public Figures<T> {
  public:
    double* figure(const char*, const Extents& shape) override {
        figure_bytes = checked_add(figure_bytes, checked_multiply(entries_of(shape), sizeof(double)));
        return nullptr;
    }
    std::vector<double*> figure_of_layers(const char* name, const std::vector<Extents>& shapes) override {
        for (const Extents& shape : shapes) figure(name, shape);
        return std::vector<double*>(shapes.size());
    }
    KeptRows<T> kept(const char*, const Extents& leading, const Extents& row) override {
        kept_bytes = checked_add(kept_bytes,
                                 checked_multiply(checked_multiply(entries_of(leading), entries_of(row)), sizeof(T)));
        return {};
    }
    std::vector<KeptRows<T>> kept_of_layers(const char* name, const Extents& leading,
                                            const std::vector<Extents>& rows) override {
        for (const Extents& row : rows) kept(name, leading, row);
        return std::vector<KeptRows<T>>(rows.size());
    }

    std::size_t figure_bytes = 0, kept_bytes = 0;  // of kept arrays the mantissas
};

}  // namespace gt
