// Where the figures and kept arrays of a trace go, by name: an op asks for them before it runs or writes them after,
// and whoever called it makes the arrays; a binding makes NumPy's. python/gradtrace/traces/figures.py says what each
// means.
#pragma once

#include <set>
#include <string>
#include <vector>

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

}  // namespace gt
