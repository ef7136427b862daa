// One-sided Jacobi on rows that each have a power of two: rotated until all are orthogonal, their norms are the
// singular values, each to its own accuracy however small it is beside the largest (Demmel and Veselic 1992).
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/scaled.h"
#include "ops/spectrum.h"

namespace gt {
namespace {

constexpr std::size_t kMostSweeps = 60;
constexpr double kFarApart = -400;  // bits, beyond which a rotation of the larger row changes nothing

double dot(std::size_t n, const double* x, const double* y) {
    double sum[4] = {};
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (std::size_t c = 0; c < 4; ++c) sum[c] += x[i + c] * y[i + c];
    for (; i < n; ++i) sum[0] += x[i] * y[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

class GradedRows {
  public:
    GradedRows(Matrix* rows, std::vector<double>* exponent)
        : n_(rows->columns),
          tolerance_(4 * std::numeric_limits<double>::epsilon() * std::sqrt(static_cast<double>(n_))),
          rows_(*rows),
          exponent_(*exponent),
          order_(rows->rows) {
        std::iota(order_.begin(), order_.end(), std::size_t{0});
    }

    void run() {
        bool rotated = true;
        for (std::size_t i = 0; i < kMostSweeps && rotated; ++i) {
            rotated = false;
            sort();
            for (std::size_t a = 0; a < order_.size(); ++a)
                for (std::size_t b = a + 1; b < order_.size(); ++b) rotated |= rotate(order_[a], order_[b]);
        }
        sort();
    }

    double log2_norm(std::size_t place) const {
        const std::size_t i = order_[place];
        return 0.5 * std::log2(dot(n_, rows_.row(i), rows_.row(i))) + exponent_[i];
    }

  private:
    void sort() {
        std::vector<double> size(order_.size());
        for (std::size_t i = 0; i < size.size(); ++i) {
            scale(i);
            size[i] = 0.5 * std::log2(dot(n_, rows_.row(i), rows_.row(i))) + exponent_[i];
        }
        std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) { return size[a] > size[b]; });
    }

    void scale(std::size_t i) { exponent_[i] += take_exponent(n_, rows_.row(i)); }

    // Makes rows i and j orthogonal; whether they were not.
    bool rotate(std::size_t i, std::size_t j) {
        if (exponent_[j] > exponent_[i]) std::swap(i, j);
        double *x = rows_.row(i), *y = rows_.row(j);
        const double xx = dot(n_, x, x), yy = dot(n_, y, y), xy = dot(n_, x, y);
        if (!(std::fabs(xy) > tolerance_ * std::sqrt(xx) * std::sqrt(yy))) return false;
        const double apart = exponent_[j] - exponent_[i];
        if (apart < kFarApart) {
            for (std::size_t c = 0; c < n_; ++c) y[c] -= xy / xx * x[c];
        } else {
            const double ratio = std::ldexp(1.0, static_cast<int>(apart));
            const double zeta = (yy * ratio * ratio - xx) / (2 * xy * ratio);
            const double tangent = std::copysign(1 / (std::fabs(zeta) + std::hypot(1.0, zeta)), zeta);
            const double cosine = 1 / std::hypot(1.0, tangent), sine = cosine * tangent;
            for (std::size_t c = 0; c < n_; ++c) {
                const double before = x[c];
                x[c] = cosine * before - sine * ratio * y[c];
                y[c] = sine / ratio * before + cosine * y[c];
            }
        }
        scale(i);
        scale(j);
        return true;
    }

    std::size_t n_;
    double tolerance_;
    Matrix& rows_;
    std::vector<double>& exponent_;
    std::vector<std::size_t> order_;
};

}  // namespace

void log2_values_of_rows(Matrix* rows, std::vector<double>* exponent, double* log2) {
    GradedRows graded(rows, exponent);
    graded.run();
    for (std::size_t i = 0; i < rows->rows; ++i) log2[i] = graded.log2_norm(i);
}

}  // namespace gt
