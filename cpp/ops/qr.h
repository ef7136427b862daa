// QR by Householder reflections, rows taken in the order of their sizes: what rounding does to a row is then small
// beside that row, not only beside the largest (Cox and Higham 1998).
#pragma once

#include <cstddef>
#include <vector>

#include "core/aligned_buffer.h"
#include "isa/dispatch.h"

namespace gt {

class Qr {
  public:
    explicit Qr(const IsaKernels& isa) : isa_(&isa) {}

    // y (rows, n), rows >= n, row stride ld, becomes Q, with orthonormal columns. ld is a multiple of kColumnMultiple,
    // entries from n to there are 0; or ld and n are 1.
    void run(std::size_t rows, std::size_t n, std::size_t ld, double* y);
    // Of the last run: row i of the triangle, from its entry i on; value * 2^exponent.
    const double* triangle(std::size_t i) const { return work_.data() + i * ld_; }
    double exponent() const { return exponent_; }

  private:
    void reserve(std::size_t rows, std::size_t n, std::size_t ld);
    void load(std::size_t rows, std::size_t n, const double* y);
    void reflect_all(std::size_t rows, std::size_t n);
    void form(std::size_t rows, std::size_t n);

    const IsaKernels* isa_;
    std::size_t ld_ = 0;
    double exponent_ = 0;
    std::vector<std::size_t> order_;  // of y's rows in work_
    std::vector<double> size_, tau_, sum_;
    AlignedBuffer<double> work_, q_, reflectors_, products_;
};

}  // namespace gt
