// Householder QR with rows by size.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/scaled.h"
#include "ops/spectrum.h"

namespace gt {
namespace {

double largest_of(std::size_t count, const double* x) {
    double most = 0;
    for (std::size_t i = 0; i < count; ++i) most = std::max(most, std::fabs(x[i]));
    return most;
}

void add_scaled(std::size_t count, double factor, const double* x, double* y) {
    for (std::size_t i = 0; i < count; ++i) y[i] += factor * x[i];
}

}  // namespace

Matrix Matrix::identity(std::size_t n) {
    Matrix one(n, n);
    for (std::size_t i = 0; i < n; ++i) one.row(i)[i] = 1;
    return one;
}

bool Matrix::finite() const {
    double sum = exponent - exponent;
    for (const double v : x) sum += v - v;
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

void Qr::run(Matrix* y, Matrix* r) {
    const std::size_t rows = y->rows, n = y->columns;
    order_.resize(rows);
    size_.resize(rows);
    work_.resize(rows * n);
    tau_.assign(n, 0);
    sum_.resize(n);
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    for (std::size_t i = 0; i < rows; ++i) size_[i] = largest_of(n, y->row(i));
    std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) { return size_[a] > size_[b]; });
    for (std::size_t i = 0; i < rows; ++i)
        std::copy(y->row(order_[i]), y->row(order_[i]) + n, work_.begin() + static_cast<std::ptrdiff_t>(i * n));
    reflect_all(rows, n);
    for (std::size_t i = 0; i < n; ++i) {
        std::fill(r->row(i), r->row(i) + i, 0.0);
        std::copy(work_.data() + i * n + i, work_.data() + (i + 1) * n, r->row(i) + i);
    }
    r->exponent = y->exponent;
    form(y);
}

// Reflectors, their first entry 1 and left out, below the diagonal; the triangle on and above it.
void Qr::reflect_all(std::size_t rows, std::size_t n) {
    double* w = work_.data();
    for (std::size_t k = 0; k < n; ++k) {
        double most = 0, squares = 0;
        for (std::size_t i = k; i < rows; ++i) most = std::max(most, std::fabs(w[i * n + k]));
        if (most == 0) continue;
        for (std::size_t i = k; i < rows; ++i) squares += (w[i * n + k] / most) * (w[i * n + k] / most);
        const double head = w[k * n + k], end = std::copysign(most * std::sqrt(squares), -head);
        tau_[k] = (end - head) / end;
        for (std::size_t i = k + 1; i < rows; ++i) w[i * n + k] /= head - end;
        w[k * n + k] = end;
        const std::size_t left = n - k - 1;
        double* sum = sum_.data();
        std::copy(w + k * n + k + 1, w + (k + 1) * n, sum);
        for (std::size_t i = k + 1; i < rows; ++i) add_scaled(left, w[i * n + k], w + i * n + k + 1, sum);
        for (std::size_t j = 0; j < left; ++j) sum[j] *= tau_[k];
        add_scaled(left, -1, sum, w + k * n + k + 1);
        for (std::size_t i = k + 1; i < rows; ++i) add_scaled(left, -w[i * n + k], sum, w + i * n + k + 1);
    }
}

// The reflections in reverse on the unit vectors, rows where they came from.
void Qr::form(Matrix* q) {
    const std::size_t rows = q->rows, n = q->columns;
    const double* w = work_.data();
    std::fill(q->x.begin(), q->x.end(), 0.0);
    q->exponent = 0;
    for (std::size_t k = n; k-- > 0;) {
        double* top = q->row(order_[k]);
        double* sum = sum_.data();
        const std::size_t left = n - k - 1;
        std::fill(sum, sum + left, 0.0);
        for (std::size_t i = k + 1; i < rows; ++i) add_scaled(left, w[i * n + k], q->row(order_[i]) + k + 1, sum);
        for (std::size_t j = 0; j < left; ++j) sum[j] *= tau_[k];
        top[k] = 1 - tau_[k];
        for (std::size_t j = 0; j < left; ++j) top[k + 1 + j] = -sum[j];
        for (std::size_t i = k + 1; i < rows; ++i) {
            double* row = q->row(order_[i]);
            const double v = w[i * n + k];
            row[k] = -tau_[k] * v;
            add_scaled(left, -v, sum, row + k + 1);
        }
    }
}

void multiply(const Matrix& a, const Matrix& q, Matrix* y) {
    std::fill(y->x.begin(), y->x.end(), 0.0);
    y->exponent = a.exponent + q.exponent;
    for (std::size_t i = 0; i < a.rows; ++i)
        for (std::size_t j = 0; j < a.columns; ++j)
            if (const double v = a.row(i)[j]; v != 0) add_scaled(q.columns, v, q.row(j), y->row(i));
}

void multiply_transposed(const Matrix& a, const Matrix& q, Matrix* y) {
    std::fill(y->x.begin(), y->x.end(), 0.0);
    y->exponent = a.exponent + q.exponent;
    for (std::size_t i = 0; i < a.rows; ++i)
        for (std::size_t j = 0; j < a.columns; ++j)
            if (const double v = a.row(i)[j]; v != 0) add_scaled(q.columns, v, q.row(i), y->row(j));
}

}  // namespace gt
