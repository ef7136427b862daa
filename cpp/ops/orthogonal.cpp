// Orthogonal matrices: the Q of a Gaussian matrix by Householder reflections (Stewart 1980), columns signed by R's
// diagonal, which makes the law Haar (Mezzadri 2007). Plain C++ of one compilation and with contraction off rather than
// LAPACK, whose bits depend on its version, the CPU and the number of threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/aligned_buffer.h"
#include "ops/parallel.h"
#include "ops/random.h"

namespace gt {
namespace {

// Columns of length n stand contiguously: column j at q + j * n.
double dot(std::size_t n, const double* x, const double* y) {
    double sum[4] = {};  // four chains in fixed order
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (std::size_t c = 0; c < 4; ++c) sum[c] += x[i + c] * y[i + c];
    for (; i < n; ++i) sum[0] += x[i] * y[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// column -= tau * (v . column) v, for the columns from `first` on, from row `top` down.
void reflect(std::size_t n, std::size_t top, const double* v, double tau, std::size_t first, std::size_t columns,
             double* q) {
    const double operations = 4.0 * static_cast<double>(n - top) * static_cast<double>(columns - first);
    parallel_for({columns - first, operations}, [&](std::size_t item, std::size_t) {
        double* column = q + (first + item) * n + top;
        const double projection = tau * dot(n - top, v + top, column);
        for (std::size_t i = top; i < n; ++i) column[i - top] -= projection * v[i];
    });
}

// The reflector that maps column j, from row j down, onto a multiple of the j-th unit vector: v over the column itself
// (v . v = 2 / tau), the multiple's sign returned.
double make_reflector(std::size_t n, std::size_t j, double* column, double* tau) {
    const double norm = std::sqrt(dot(n - j, column + j, column + j));
    const double sign = column[j] < 0 ? -1.0 : 1.0;
    column[j] += sign * norm;
    const double squared = dot(n - j, column + j, column + j);
    *tau = squared > 0 ? 2.0 / squared : 0.0;
    return -sign;
}

// q (n, k), n >= k, Gaussian in, orthonormal columns out.
void orthonormalise(std::size_t n, std::size_t k, double* q, Interrupt& interrupt) {
    AlignedBuffer<double> v(checked_multiply(n, k));
    std::vector<double> tau(k), sign(k);
    for (std::size_t j = 0; j < k; ++j) {
        if (interrupt.requested(0)) throw Interrupted{};
        double* reflector = v.data() + j * n;
        std::copy(q + j * n, q + (j + 1) * n, reflector);
        sign[j] = make_reflector(n, j, reflector, &tau[j]);
        if (j + 1 < k) reflect(n, j, reflector, tau[j], j + 1, k, q);
    }
    std::fill(q, q + n * k, 0.0);
    for (std::size_t j = 0; j < k; ++j) q[j * n + j] = sign[j];
    for (std::size_t j = k; j-- > 0;) {
        if (interrupt.requested(0)) throw Interrupted{};
        reflect(n, j, v.data() + j * n, tau[j], j, k, q);
    }
}

}  // namespace

template <class T>
void fill_orthogonal(const IsaKernels& isa, std::uint64_t seed, std::uint32_t stream, double factor, std::size_t rows,
                     std::size_t columns, T* out, Interrupt& interrupt) {
    const std::size_t n = std::max(rows, columns), k = std::min(rows, columns);
    AlignedBuffer<double> q(checked_multiply(n, k));
    fill_random(isa, Law::normal, seed, stream, Draw::weight, 1.0, n * k, q.data(), interrupt);
    orthonormalise(n, k, q.data(), interrupt);
    // The k vectors of length n are the rows of a wide matrix or the columns of a tall one.
    for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < columns; ++c)
            out[r * columns + c] = static_cast<T>(factor * (rows <= columns ? q[r * n + c] : q[c * n + r]));
}

template void fill_orthogonal<float>(const IsaKernels&, std::uint64_t, std::uint32_t, double, std::size_t, std::size_t,
                                     float*, Interrupt&);
template void fill_orthogonal<double>(const IsaKernels&, std::uint64_t, std::uint32_t, double, std::size_t, std::size_t,
                                      double*, Interrupt&);

}  // namespace gt
