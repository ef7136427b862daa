// Matrices of a chain: their range, and their products.
#include <algorithm>
#include <cmath>

#include "core/scaled.h"
#include "ops/spectrum.h"

namespace gt {
namespace {

double largest_of(std::size_t count, const double* x) {
    double most = 0;
    for (std::size_t i = 0; i < count; ++i) most = std::max(most, std::fabs(x[i]));
    return most;
}

}  // namespace

Matrix::Matrix(std::size_t rows, std::size_t columns)
    : rows(rows), columns(columns), ld(round_up(columns, kColumnMultiple)), x(checked_multiply(rows, ld)) {
    std::fill_n(x.data(), x.size(), 0.0);
}

Matrix Matrix::identity(std::size_t n) {
    Matrix one(n, n);
    for (std::size_t i = 0; i < n; ++i) one.row(i)[i] = 1;
    return one;
}

bool Matrix::finite() const {
    double sum = exponent - exponent;
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] - x[i];
    return sum == 0;
}

void Matrix::normalise() { exponent += take_exponent(x.size(), x.data()); }

void shift(std::size_t count, double* x, double exponent) {
    constexpr double kOnePower = 1000;
    if (std::fabs(exponent) > kOnePower) {
        for (std::size_t i = 0; i < count; ++i) x[i] = scale_by(x[i], exponent);
    } else {
        const double power = power_of_two<double>(exponent);
        for (std::size_t i = 0; i < count; ++i) x[i] *= power;
    }
}

double take_exponent(std::size_t count, double* x) {
    const double most = largest_of(count, x), exponent = most == 0 ? 0 : exponent_of(most);
    if (exponent != 0) shift(count, x, -exponent);
    return exponent;
}

void MatrixProduct::multiply(const Matrix& a, const Matrix& q, Matrix* y) {
    const GemmColumns<double> set{q.ld, q.x.data(), y->x.data()};
    y->exponent = a.exponent + q.exponent;
    gemm_->nn(a.rows, a.columns, a.x.data(), a.ld, &set, 1, q.ld, y->ld, false, nullptr, scratch_.data());
}

void MatrixProduct::multiply_transposed(const Matrix& a, const Matrix& q, Matrix* y) {
    const GemmColumns<double> set{q.ld, q.x.data(), y->x.data()};
    y->exponent = a.exponent + q.exponent;
    gemm_->tn(a.columns, a.rows, a.x.data(), a.ld, &set, 1, q.ld, y->ld, false, nullptr, scratch_.data());
}

}  // namespace gt
