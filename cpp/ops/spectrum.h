// Singular values of long products of matrices, over any range.
//
// A chain of factors A_p ... A_1 is carried through as products of an orthogonal matrix and triangles, which never
// leave the format; how the singular values of the triangles' product are got from them stands at the head of
// spectrum.cpp.
#pragma once

#include <cstddef>
#include <vector>

#include "core/aligned_buffer.h"
#include "core/shape.h"
#include "isa/dispatch.h"
#include "ops/parallel.h"

namespace gt {

// Rows one after the other, ld numbers apart, zeros between; value * 2^exponent.
struct Matrix {
    Matrix(std::size_t rows, std::size_t columns);
    static Matrix identity(std::size_t n);

    double* row(std::size_t i) { return x.data() + i * ld; }
    const double* row(std::size_t i) const { return x.data() + i * ld; }
    bool finite() const;
    void normalise();  // largest magnitude to [1/2, 1)

    std::size_t rows, columns, ld;
    AlignedBuffer<double> x;
    double exponent = 0;
};

// x times 2^exponent.
void shift(std::size_t count, double* x, double exponent);
// The exponent that is taken out of x, so that its largest magnitude lies in [1/2, 1); 0 for zeros.
double take_exponent(std::size_t count, double* x);

class MatrixProduct {
  public:
    explicit MatrixProduct(const IsaKernels& isa) : gemm_(isa.get<double>().gemm), scratch_(gemm_->scratch_bytes) {}

    // y = a q; exponents add up.
    void multiply(const Matrix& a, const Matrix& q, Matrix* y);
    void multiply_transposed(const Matrix& a, const Matrix& q, Matrix* y);  // y = a^T q

  private:
    const GemmKernels<double>* gemm_;
    AlignedBuffer<unsigned char> scratch_;
};

// Factors that are not held as matrices.
class Factors {
  public:
    virtual ~Factors() = default;
    virtual std::size_t count() const = 0;
    virtual std::size_t rows(std::size_t k) const = 0;
    virtual std::size_t columns(std::size_t k) const = 0;
    // y = A_k q, or A_k^T q, with its exponent.
    virtual void multiply(std::size_t k, bool transposed, const Matrix& q, Matrix* y) = 0;
};

// Of finite square factors of full rank: log2 of all singular values of their product, descending.
void log2_singular_values(const IsaKernels& isa, Factors& factors, double* log2, Interrupt& interrupt,
                          std::size_t worker);

// log2 of the min(rows, columns) singular values of chain.back() ... chain.front(), descending; as many -inf as zero
// rows and columns take away; NaN where a factor is not finite. The chain is used up.
void log2_singular_values(const IsaKernels& isa, std::vector<Matrix>* chain, double* log2, Interrupt& interrupt,
                          std::size_t worker);

// structural_rank.cpp. How many values are not 0, by the places alone where the factors are not.
std::size_t structural_rank(const std::vector<Matrix>& chain);

// graded_rows.cpp. log2 of the singular values of rows (n, n) * 2^exponents, descending.
void log2_values_of_rows(Matrix* rows, std::vector<double>* exponent, double* log2);

}  // namespace gt
