// The recurrent part of the seam between ops and kernels: products with packed right operands, and the cells' steps.
//
// Everything here is in rows: a row is one sample (at one step), its units contiguous, rows behind each other. The
// rules of kernel_table.h hold: one thread, no allocation, no exception, outputs written unless the name says `add_`.
#pragma once

#include <cstddef>

namespace gt {

// Right operands are padded with zeros to so many columns: two AVX-512 registers.
template <class T>
constexpr std::size_t kPanelColumns = 128 / sizeof(T);

template <class T>
constexpr std::size_t padded_columns(std::size_t n) {
    return (n + kPanelColumns<T> - 1) / kPanelColumns<T> * kPanelColumns<T>;
}

// Which way a product runs through the panels; it changes no bit. Steps that alternate find the half of a large matrix
// that they met last still in the cache.
enum class PanelOrder { up, down };

// A right operand (k, n) in panels of some columns each, in the kernels' own form. `rows`: how many rows left operands
// have when no thread shares them, the same for an operand throughout; the form may depend on it. `scratch`:
// memory of the caller's, 64-byte aligned.
template <class T>
struct PanelKernels {
    // Numbers of the panels, 64-byte aligned; also where the panels of column n of a wider operand start, n a multiple
    // of kPanelColumns.
    std::size_t (*size)(std::size_t k, std::size_t n, std::size_t rows);
    // panels of b * factor, b[i, j] = b[i * row + j * column], row or column 1; factor (k,) or null, null where row
    // is 1.
    void (*pack)(std::size_t k, std::size_t n, const T* b, std::size_t row, std::size_t column, const T* factor,
                 std::size_t rows, T* panels);
    // c (m, n) [+]= a b, a (m, k) with row stride lda.
    void (*multiply)(std::size_t m, std::size_t n, std::size_t k, const T* a, std::size_t lda, const T* panels, T* c,
                     std::size_t ldc, bool add, PanelOrder order, std::size_t rows, void* scratch);
    // c (m, n) [+]= a^T b, a (k, m) with row stride lda.
    void (*multiply_transposed)(std::size_t m, std::size_t n, std::size_t k, const T* a, std::size_t lda,
                                const T* panels, T* c, std::size_t ldc, bool add, std::size_t rows, void* scratch);
    std::size_t scratch_bytes, transposed_scratch_bytes;  // of the two; 0: it may be null
};

template <class T>
struct RowKernels {
    // squares[r] = sum of x[r, j]^2 over j < n, squared in T.
    void (*squares)(std::size_t rows, std::size_t n, const T* x, std::size_t ld, double* squares);
    // largest[r] = max of |x[r, j]|; NaN may be missed.
    void (*largest)(std::size_t rows, std::size_t n, const T* x, std::size_t ld, T* largest);
    // x[r, j] *= factor[r]
    void (*scale)(std::size_t rows, std::size_t n, T* x, std::size_t ld, const T* factor);
    // gram[i * ld_gram + j] = sum over k of a[i, k] a[j, k], all i, j < rows.
    void (*gram)(std::size_t rows, std::size_t n, const T* a, std::size_t ld, T* gram, std::size_t ld_gram);
    // to[j] = sum over i < count of factor[i] x[i][j], j < n.
    void (*combine)(std::size_t count, std::size_t n, const T* const* x, const T* factor, T* to);
    // add_sums[j] += sum over r of x[r, j] factor[r], in float64.
    void (*add_columns)(std::size_t rows, std::size_t n, const T* x, std::size_t ld, const double* factor,
                        double* add_sums);
};

// One step forward. `z` holds the products W_ih x + W_hh h_previous (GRU: its recurrent block W_hn h_previous alone)
// and becomes the preactivations; blocks as core/cells.h has them.
template <class T>
struct CellForward {
    std::size_t rows, hidden;
    T* z;                 // (rows, row_blocks * hidden), in and out
    const T* bias;        // (row_blocks * hidden,)
    const T* h_previous;  // (rows, hidden)
    const T* c_previous;  // (rows, hidden); without a cell state null, as is c
    T* h;                 // (rows, hidden)
    T* c;
    double* h_squares;  // (rows,): sum over units of h^2, squared in T
    // Cells with gates; otherwise null.
    double* gate_sums;             // (rows, 2 * gates): the sum of each gate over units, then its saturated units
    double* carry_log2;            // (rows,): sum over units of log2 of the carry gate (LSTM forget, GRU update)
    double* add_carry_log2_units;  // (rows, hidden): added to, the same by unit
};

// What the backward step multiplies by, computed from what the forward pass kept: it is linear in the gradients.
//
//   LSTM  f, o sech^2(c), dc -> i, f, g, o:  g i(1-i), c_previous f(1-f), i (1-g^2), tanh(c) o(1-o)  (the last for dh)
//   GRU   z, dh -> n, r, z, recurrent:  A = (1-z)(1-n^2), A recurrent r(1-r), (h_previous - n) z(1-z), A r
//   RNN   phi'(z)
//
// No derivative is taken of a rounded output: sigma(z) sigma(-z) and 1 / cosh^2(z).
template <class T>
struct CellCoefficients {
    std::size_t rows, hidden;
    const T* z;           // (rows, row_blocks * hidden)
    const T* h_previous;  // (rows, hidden)
    const T* c_previous;
    const T* c;
    T* to;  // (rows, coefficient_blocks * hidden)
};

// Powers of two that bring one row's inputs to the common exponents of its outputs.
template <class T>
struct CellScale {
    T u_dh, p_dh;                // dh = u * u_dh + p * p_dh  (GRU: + carried * carried)
    T carried, dh_dc;            // dc = carried * carried + dh * dh_dc * coefficient
    T carried_direct, u_direct;  // direct = carried_direct * carried_direct + u * u_direct [* coefficient]
    T carried_gated, p_gated;    // gated = carried_gated * carried_gated + p * p_gated [* coefficient]
    T dh_dz;                     // LSTM: dz of the output gate from dh, beside those from dc
};

// Outputs of a backward step whose squares are summed, row by row.
enum CellSum : std::size_t { kDh, kDc, kDirect, kGated, kDz, kCarry, kCarryDirect, kCarryGated, kCellSums };

// One step backward: u is dL/dh from outside this recurrence, p what came back through W_hh. Rows of `carried` hold dc
// (GRU: dh) times the carry gate of the step after this one; `carry` times this step's.
template <class T>
struct CellBackward {
    std::size_t rows, hidden;
    std::size_t period;                       // row r takes the coefficients of row r % period
    const T* coefficients;                    // (period, coefficient_blocks * hidden)
    const CellScale<T>* scale;                // (rows,)
    const T* u;                               // (rows, hidden), or null where nothing arrives
    const T* p;                               // (rows, hidden)
    const T* carried;                         // (rows, hidden); cells that carry
    const T *carried_direct, *carried_gated;  // likewise; null: the split is not followed
    T *dh, *dc, *direct, *gated;              // out (rows, hidden); dc with a cell state, the last two with the split
    T *carry, *carry_direct, *carry_gated;    // out (rows, hidden)
    T* dz;                                    // out (rows, row_blocks * hidden)
    double* squares;                          // out (rows, kCellSums), of the mantissas; 0 for what is not there
};

template <class T>
struct CellKernels {
    void (*forward)(const CellForward<T>&);
    void (*coefficients)(const CellCoefficients<T>&);
    void (*backward)(const CellBackward<T>&);
};

}  // namespace gt
