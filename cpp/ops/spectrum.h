// Singular values of long products of matrices, over any range, and the QR steps behind them.
//
// A chain of factors A_p ... A_1 is carried through as products of an orthogonal matrix and triangles, which never
// leave the format; how the singular values of the triangles' product are got from them stands at the head of
// spectrum.cpp.
#pragma once

#include <cstddef>
#include <vector>

#include "ops/parallel.h"

namespace gt {

// Rows one after the other; value * 2^exponent.
struct Matrix {
    Matrix(std::size_t rows, std::size_t columns) : rows(rows), columns(columns), x(rows * columns) {}
    static Matrix identity(std::size_t n);

    double* row(std::size_t i) { return x.data() + i * columns; }
    const double* row(std::size_t i) const { return x.data() + i * columns; }
    bool finite() const;
    void normalise();  // largest magnitude to [1/2, 1)

    std::size_t rows, columns;
    std::vector<double> x;
    double exponent = 0;
};

// QR by Householder reflections, rows taken in the order of their sizes: what rounding does to a row is then small
// beside that row, not only beside the largest (Cox and Higham 1998).
class Qr {
  public:
    // y (rows, n), rows >= n, becomes Q, with orthonormal columns; r (n, n) its triangle, of y without its exponent.
    void run(Matrix* y, Matrix* r);

  private:
    void reflect_all(std::size_t rows, std::size_t n);
    void form(Matrix* q);

    std::vector<std::size_t> order_;
    std::vector<double> size_, work_, tau_, sum_;
};

// x times 2^exponent.
void shift(std::size_t count, double* x, double exponent);
// The exponent that is taken out of x, so that its largest magnitude lies in [1/2, 1); 0 for zeros.
double take_exponent(std::size_t count, double* x);
// y = a q, or a^T q; exponents add up.
void multiply(const Matrix& a, const Matrix& q, Matrix* y);
void multiply_transposed(const Matrix& a, const Matrix& q, Matrix* y);

// log2 of the min(rows, columns) singular values of chain.back() ... chain.front(), descending; as many -inf as zero
// rows and columns take away; NaN where a factor is not finite. The chain is used up.
void log2_singular_values(std::vector<Matrix>* chain, double* log2, Interrupt& interrupt, std::size_t worker);

// graded_rows.cpp. log2 of the singular values of rows (n, n) * 2^exponents, descending.
void log2_values_of_rows(Matrix* rows, std::vector<double>* exponent, double* log2);

}  // namespace gt
