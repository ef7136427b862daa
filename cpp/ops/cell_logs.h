// The slow path of a backward step: one row from logarithms, where gates are so far shut that their values, or products
// with them, leave the format. Nothing underflows on the way, however large the preactivations are.
#pragma once

#include <vector>

#include "core/cells.h"
#include "ops/wide_states.h"

namespace gt {

// Numbers as log2 of their magnitude and sign (0 for zero).
struct LogNumbers {
    std::vector<double> log2, sign;

    void resize(std::size_t count) {
        log2.resize(count);
        sign.resize(count);
    }
};

// One row's coefficients of the backward step, blocks as the cell's kernels have them (kernels/cell_table.h).
template <class T>
void log_coefficients(CellKind kind, std::size_t hidden, const T* z, const WideFactors& factors, LogNumbers* out);

// row * 2^exponent * coefficient, the coefficients from `block` on, or 1 where there are none.
template <class T>
struct LogTerm {
    const T* row;
    double exponent;
    const LogNumbers* coefficients = nullptr;
    std::size_t block = 0;
};

// to * 2^(returned) = the sum of the terms; largest magnitude of `to` in [1/2, 1) up to cancellation.
template <class T>
double sum_of_terms(std::size_t n, const LogTerm<T>* terms, std::size_t count, T* to);

// The same for `parts` products side by side, which share the exponent: part i goes to to[i * n].
template <class T>
double products_side_by_side(std::size_t n, const LogTerm<T>* terms, std::size_t parts, T* to);

}  // namespace gt
