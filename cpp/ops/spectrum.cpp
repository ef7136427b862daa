// The singular values of a product are not the diagonal of its triangle, which is off by some bits. Here:
//
// 1. Units whose row or column of a factor is zero are left out, again and again. What remains of the chain is mostly
// as
//    narrow somewhere as the product has values other than 0: LQ from there down gives a basis of its row space. Where
//    blocks of zeros take more (structural_rank.cpp), any vectors from there do, as many as there are values: they have
//    turned into the row space once they have been up and down.
// 2. QR of the chain times that basis goes up, QR of the transposed chain times what arrives goes down, and so on (the
//    QR algorithm on the product, which is never formed), until the diagonal of the product of triangles stands still
//    within a bit.
// 3. That product is then well conditioned but for the sizes of its rows, each of which has its own power of two:
//    one-sided Jacobi (graded_rows.cpp) gives every value to its own accuracy (Demmel and Veselic 1992), also such as
//    lie too close for QR to part them.
//
// Only the last way up decides on the accuracy. It multiplies by the factors as they are given, so that one with rows
// of very different sizes, a diagonal of derivatives, costs no digits.
#include "ops/spectrum.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/scaled.h"
#include "ops/qr.h"

namespace gt {
namespace {

constexpr std::size_t kMostSweeps = 8;
constexpr double kStill = 0.5;  // bits

using Chain = std::vector<Matrix>;

// Which of the units between the factors some entry other than 0 leads to from both sides; index 0: the inputs.
std::vector<std::vector<bool>> live_units(const Chain& chain) {
    std::vector<std::vector<bool>> live{std::vector<bool>(chain.front().columns, true)};
    for (const Matrix& a : chain) live.emplace_back(a.rows, true);
    for (bool changed = true; changed;) {
        changed = false;
        for (std::size_t k = 0; k < chain.size(); ++k) {
            const Matrix& a = chain[k];
            std::vector<bool> row(a.rows), column(a.columns);
            for (std::size_t i = 0; i < a.rows; ++i)
                for (std::size_t j = 0; j < a.columns; ++j)
                    if (a.row(i)[j] != 0 && live[k + 1][i] && live[k][j]) row[i] = column[j] = true;
            changed |= row != live[k + 1] || column != live[k];
            live[k + 1] = std::move(row);
            live[k] = std::move(column);
        }
    }
    return live;
}

Matrix without(const Matrix& a, const std::vector<bool>& rows, const std::vector<bool>& columns) {
    const auto count = [](const std::vector<bool>& of) {
        return static_cast<std::size_t>(std::count(of.begin(), of.end(), true));
    };
    Matrix left(count(rows), count(columns));
    left.exponent = a.exponent;
    std::size_t to = 0;
    for (std::size_t i = 0; i < a.rows; ++i) {
        if (!rows[i]) continue;
        double* row = left.row(to++);
        for (std::size_t j = 0; j < a.columns; ++j)
            if (columns[j]) *row++ = a.row(i)[j];
    }
    return left;
}

// The product of triangles as it grows, each row with an exponent of its own.
class RowScaled {
  public:
    RowScaled(const IsaKernels& isa, std::size_t n)
        : rows(Matrix::identity(n)),
          exponent(n, 0.0),
          diagonal(n, 0.0),
          combine_(isa.get<double>().rows->combine),
          sum_(rows.ld),
          factor_(n),
          term_(n) {}

    // By the triangle of a QR, times 2^scale.
    void multiply_by(const Qr& qr, double scale) {
        for (std::size_t i = 0; i < rows.rows; ++i) {  // what is above row i is no longer needed
            const double* factors = qr.triangle(i);
            diagonal[i] += std::log2(std::fabs(factors[i])) + scale;
            replace(i, factors, scale);
        }
    }

    Matrix rows;
    std::vector<double> exponent, diagonal;  // log2 of the product's own diagonal

  private:
    void replace(std::size_t i, const double* factors, double scale) {
        const std::size_t n = rows.rows;
        double top = kNegativeInfinity;
        for (std::size_t j = i; j < n; ++j)
            if (factors[j] != 0) top = std::max(top, exponent_of(factors[j]) + exponent[j]);
        std::size_t terms = 0;
        for (std::size_t j = i; j < n; ++j) {
            if (factors[j] == 0) continue;
            factor_[terms] = factors[j] * power_of_two<double>(exponent[j] - top);
            if (factor_[terms] != 0) term_[terms++] = rows.row(j);
        }
        combine_(terms, rows.ld, term_.data(), factor_.data(), sum_.data());
        std::copy(sum_.begin(), sum_.end(), rows.row(i));
        exponent[i] = top == kNegativeInfinity ? 0 : top + scale;
        exponent[i] += take_exponent(n, rows.row(i));
    }

    decltype(RowKernels<double>::combine) combine_;
    std::vector<double> sum_, factor_;
    std::vector<const double*> term_;
};

class MatrixFactors final : public Factors {
  public:
    MatrixFactors(const IsaKernels& isa, const Chain& chain) : chain_(chain), product_(isa) {}
    std::size_t count() const override { return chain_.size(); }
    std::size_t rows(std::size_t k) const override { return chain_[k].rows; }
    std::size_t columns(std::size_t k) const override { return chain_[k].columns; }
    void multiply(std::size_t k, bool transposed, const Matrix& q, Matrix* y) override {
        transposed ? product_.multiply_transposed(chain_[k], q, y) : product_.multiply(chain_[k], q, y);
    }

  private:
    const Chain& chain_;
    MatrixProduct product_;
};

// All ways up and down; q: where the next one begins.
class Sweeps {
  public:
    // LQ down from q, before factor `at`.
    Sweeps(const IsaKernels& isa, Factors& factors, std::size_t at, Matrix q, Interrupt& interrupt, std::size_t worker)
        : isa_(isa),
          factors_(factors),
          q_(std::move(q)),
          n_(q_.columns),
          qr_(isa),
          interrupt_(interrupt),
          worker_(worker) {
        for (std::size_t k = at; k-- > 0;) step(k, true);
    }

    RowScaled up() {
        RowScaled product(isa_, n_);
        for (std::size_t k = 0; k < factors_.count(); ++k) {
            step(k, false);
            product.multiply_by(qr_, scale_);
        }
        return product;
    }

    // `diagonal` of the way up: which columns are to come first.
    void down(const std::vector<double>& diagonal) {
        std::vector<std::size_t> order(n_);
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return diagonal[a] > diagonal[b]; });
        Matrix ordered(q_.rows, n_);
        for (std::size_t i = 0; i < q_.rows; ++i)
            for (std::size_t j = 0; j < n_; ++j) ordered.row(i)[j] = q_.row(i)[order[j]];
        q_ = std::move(ordered);
        for (std::size_t k = factors_.count(); k-- > 0;) step(k, true);
    }

  private:
    void step(std::size_t k, bool transposed) {
        if (interrupt_.requested(worker_)) throw Interrupted{};
        Matrix y(transposed ? factors_.columns(k) : factors_.rows(k), n_);
        factors_.multiply(k, transposed, q_, &y);
        qr_.run(y.rows, n_, y.ld, y.x.data());
        scale_ = y.exponent + qr_.exponent();
        q_ = std::move(y);
        q_.exponent = 0;
    }

    const IsaKernels& isa_;
    Factors& factors_;
    Matrix q_;
    std::size_t n_;
    Qr qr_;
    double scale_ = 0;  // of the last triangle
    Interrupt& interrupt_;
    std::size_t worker_;
};

// So many directions of a place n units wide: all of them, or some in no special position.
Matrix directions(std::size_t n, std::size_t rank) {
    if (rank == n) return Matrix::identity(n);
    Matrix q(n, rank);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < rank; ++j) q.row(i)[j] = std::sin(static_cast<double>((i + 1) * (i + 3 * j + 2)));
    return q;
}

// How far two diagonals are apart at most, each in descending order.
double moved(std::vector<double> a, std::vector<double> b) {
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
        if (a[i] != b[i]) most = std::max(most, std::fabs(a[i] - b[i]));
    return most;
}

void values_of(Sweeps sweeps, double* log2) {
    RowScaled product = sweeps.up();
    for (std::size_t i = 0; i < kMostSweeps; ++i) {
        const std::vector<double> before = product.diagonal;
        sweeps.down(before);
        product = sweeps.up();
        if (moved(product.diagonal, before) < kStill) break;
    }
    log2_values_of_rows(&product.rows, &product.exponent, log2);
}

}  // namespace

void log2_singular_values(const IsaKernels& isa, Chain* chain, double* log2, Interrupt& interrupt, std::size_t worker) {
    const std::size_t count = std::min(chain->front().columns, chain->back().rows);
    for (Matrix& a : *chain) {
        if (!a.finite()) return void(std::fill_n(log2, count, kNaN));
        a.normalise();
    }
    const std::vector<std::vector<bool>> live = live_units(*chain);
    for (std::size_t k = 0; k < chain->size(); ++k) (*chain)[k] = without((*chain)[k], live[k + 1], live[k]);
    std::size_t n = chain->front().columns, at = 0;
    for (std::size_t k = 0; k < chain->size(); ++k)
        if ((*chain)[k].rows < n) {
            n = (*chain)[k].rows;
            at = k + 1;
        }
    std::fill_n(log2, count, kNegativeInfinity);
    if (n == 0) return;
    const std::size_t rank = structural_rank(*chain);
    if (rank == 0) return;
    MatrixFactors factors(isa, *chain);
    values_of(Sweeps(isa, factors, at, directions(n, rank), interrupt, worker), log2);
}

void log2_singular_values(const IsaKernels& isa, Factors& factors, double* log2, Interrupt& interrupt,
                          std::size_t worker) {
    values_of(Sweeps(isa, factors, 0, Matrix::identity(factors.columns(0)), interrupt, worker), log2);
}

}  // namespace gt
