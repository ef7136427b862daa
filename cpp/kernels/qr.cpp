// Householder QR of tiles whose columns are contiguous, in panels of kQrPanel reflectors (Bischof and Van Loan 1987).
//
// Of a panel each row is one or a few registers: a column is a broadcast, so that no sum runs across lanes, and one
// pass over the rows gives a reflector's products with all columns of its panel. Behind the panel every group of
// columns passes once for all its reflectors: their products with the columns, which stay in registers, then what is
// taken off. Between the two stands I - V T V^T without T, which the products among the reflectors and their factors
// say as well.
#include "kernels/kernel_table.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

using V = VecF64;
constexpr std::size_t kLane = kLanes<double>, kRow = kQrPanel / kLane;  // vectors of a panel's row
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kMostVectors = 3;  // of columns at a time: 8 sums for each, and a row of them
#else
constexpr std::size_t kMostVectors = 1;
#endif
constexpr double kLeastSquares = 0x1p-900;

GT_INLINE double root(double x) { return sqrt(broadcast(x))[0]; }

// dots[c] = sum over rows i >= first of x[i, j] x[i, c].
GT_INLINE void column_products(std::size_t first, std::size_t rows, std::size_t j, const double* panel, double* dots) {
    constexpr std::size_t kChains = 4;
    V sum[kChains][kRow] = {};
    std::size_t i = first;
    for (; i + kChains <= rows; i += kChains)
#pragma GCC unroll 4
        for (std::size_t chain = 0; chain < kChains; ++chain) {
            const double* row = panel + (i + chain) * kQrPanel;
#pragma GCC unroll 4
            for (std::size_t v = 0; v < kRow; ++v)
                sum[chain][v] = broadcast(row[j]) * load(row + v * kLane) + sum[chain][v];
        }
    for (; i < rows; ++i) {
        const double* row = panel + i * kQrPanel;
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kRow; ++v) sum[0][v] = broadcast(row[j]) * load(row + v * kLane) + sum[0][v];
    }
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kRow; ++v) store(dots + v * kLane, (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]));
}

// Reflectors [0, width) of a panel (rows, kQrPanel), in place: R on and above the diagonal, v below.
GT_INLINE bool reflect_panel(std::size_t rows, std::size_t width, double* panel, double* factors) {
    for (std::size_t j = 0; j < width; ++j) {
        double *head = panel + j * kQrPanel, dots[kQrPanel];
        column_products(j + 1, rows, j, panel, dots);
        factors[j] = 0;
        const double first = head[j], below = dots[j];
        if (below < kLeastSquares) {  // zeros, or what the squares have lost
            for (std::size_t i = j + 1; i < rows; ++i)
                if (panel[i * kQrPanel + j] != 0) return false;
            continue;
        }
        const double norm = root(first * first + below), end = first > 0 ? -norm : norm, scale = 1 / (first - end);
        factors[j] = (end - first) / end;
        std::int64_t is_own[kQrPanel] = {};
        is_own[j] = -1;
        double product[kQrPanel];  // of v with the columns that are left
        for (std::size_t c = 0; c < kQrPanel; ++c) product[c] = c > j ? (dots[c] * scale + head[c]) * factors[j] : 0;
        for (std::size_t c = 0; c < kQrPanel; ++c) head[c] -= product[c];
        head[j] = end;
        V taken[kRow];
        VecI64 own[kRow];
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kRow; ++v) {
            taken[v] = load(product + v * kLane);
            std::memcpy(&own[v], is_own + v * kLane, sizeof own[v]);
        }
        for (std::size_t i = j + 1; i < rows; ++i) {
            double* row = panel + i * kQrPanel;
            const V x = broadcast(row[j] * scale);
#pragma GCC unroll 4
            for (std::size_t v = 0; v < kRow; ++v)
                store(row + v * kLane, select(own[v], x, load(row + v * kLane) - x * taken[v]));
        }
    }
    return true;
}

// products[i, j] = v_i . v_j
GT_INLINE void products_of(std::size_t rows, const double* panel, double* products) {
    V sums[kQrPanel][kRow] = {};
    for (std::size_t i = 0; i < rows; ++i, panel += kQrPanel)
#pragma GCC unroll 8
        for (std::size_t j = 0; j < kQrPanel; ++j)
#pragma GCC unroll 4
            for (std::size_t v = 0; v < kRow; ++v)
                sums[j][v] = broadcast(panel[j]) * load(panel + v * kLane) + sums[j][v];
    for (std::size_t j = 0; j < kQrPanel; ++j)
        for (std::size_t v = 0; v < kRow; ++v) store(products + j * kQrPanel + v * kLane, sums[j][v]);
}

struct Reflectors {
    std::size_t rows;
    const double *v, *products, *factors;
};

// N vectors of columns become (I - V T V^T), or its transpose, of them.
template <bool kForward, std::size_t N>
GT_INLINE void reflect_columns(const Reflectors& r, double* x, std::size_t ld) {
    V sum[kQrPanel][N] = {};
    for (std::size_t i = 0; i < r.rows; ++i) {
        V row[N];
#pragma GCC unroll 4
        for (std::size_t v = 0; v < N; ++v) row[v] = load(x + i * ld + v * kLane);
#pragma GCC unroll 8
        for (std::size_t j = 0; j < kQrPanel; ++j)
#pragma GCC unroll 4
            for (std::size_t v = 0; v < N; ++v) sum[j][v] = broadcast(r.v[i * kQrPanel + j]) * row[v] + sum[j][v];
    }
#pragma GCC unroll 8
    for (std::size_t step = 0; step < kQrPanel; ++step) {
        const std::size_t j = kForward ? step : kQrPanel - 1 - step;
#pragma GCC unroll 8
        for (std::size_t before = 0; before < step; ++before) {
            const std::size_t i = kForward ? before : kQrPanel - 1 - before;
#pragma GCC unroll 4
            for (std::size_t v = 0; v < N; ++v) sum[j][v] -= broadcast(r.products[i * kQrPanel + j]) * sum[i][v];
        }
#pragma GCC unroll 4
        for (std::size_t v = 0; v < N; ++v) sum[j][v] *= broadcast(r.factors[j]);
    }
    for (std::size_t i = 0; i < r.rows; ++i) {
        V row[N];
#pragma GCC unroll 4
        for (std::size_t v = 0; v < N; ++v) row[v] = load(x + i * ld + v * kLane);
#pragma GCC unroll 8
        for (std::size_t j = 0; j < kQrPanel; ++j)
#pragma GCC unroll 4
            for (std::size_t v = 0; v < N; ++v) row[v] -= broadcast(r.v[i * kQrPanel + j]) * sum[j][v];
#pragma GCC unroll 4
        for (std::size_t v = 0; v < N; ++v) store(x + i * ld + v * kLane, row[v]);
    }
}

template <bool kForward>
GT_INLINE void reflect_all_columns(const Reflectors& r, std::size_t columns, double* x, std::size_t ld) {
    std::size_t c = 0;
    for (; c + kMostVectors * kLane <= columns; c += kMostVectors * kLane)
        reflect_columns<kForward, kMostVectors>(r, x + c, ld);
    if (kMostVectors > 2 && c + 2 * kLane <= columns) {
        reflect_columns<kForward, 2>(r, x + c, ld);
        c += 2 * kLane;
    }
    for (; c + kLane <= columns; c += kLane) reflect_columns<kForward, 1>(r, x + c, ld);
}

constexpr std::size_t padded(std::size_t columns) { return (columns + kQrPanel - 1) / kQrPanel * kQrPanel; }

bool factor(const QrTile& tile, double* a) {
    double *v = tile.reflectors, *products = tile.products, *factors = tile.factors;
    for (std::size_t k = 0; k < tile.columns; k += kQrPanel) {
        const std::size_t rows = tile.rows - k, left = tile.columns - k, width = left < kQrPanel ? left : kQrPanel;
        double* from = a + k * tile.ld + k;
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t c = 0; c < kQrPanel; c += kLane) store(v + i * kQrPanel + c, load(from + i * tile.ld + c));
        for (std::size_t j = width; j < kQrPanel; ++j) factors[j] = 0;
        if (!reflect_panel(rows, width, v, factors)) return false;
        for (std::size_t i = 0; i < width; ++i)
            for (std::size_t j = i; j < width; ++j) {
                from[i * tile.ld + j] = v[i * kQrPanel + j];
                v[i * kQrPanel + j] = i == j ? 1 : 0;
            }
        for (std::size_t i = 0; i < rows && width < kQrPanel; ++i)
            for (std::size_t j = width; j < kQrPanel; ++j) v[i * kQrPanel + j] = 0;
        products_of(rows, v, products);
        if (left > kQrPanel)
            reflect_all_columns<true>({rows, v, products, factors}, padded(left) - kQrPanel, from + kQrPanel, tile.ld);
        v += rows * kQrPanel;
        products += kQrPanel * kQrPanel;
        factors += kQrPanel;
    }
    return true;
}

void form(const QrTile& tile, double* q) {
    const std::size_t panels = (tile.columns + kQrPanel - 1) / kQrPanel;
    for (std::size_t i = 0; i < tile.rows; ++i)
        for (std::size_t c = 0; c < tile.ld; c += kLane) store(q + i * tile.ld + c, V{});
    for (std::size_t i = 0; i < tile.columns; ++i) q[i * tile.ld + i] = 1;
    const double* v = tile.reflectors;
    for (std::size_t p = 0; p < panels; ++p) v += (tile.rows - p * kQrPanel) * kQrPanel;
    for (std::size_t p = panels; p-- > 0;) {
        const std::size_t k = p * kQrPanel, rows = tile.rows - k;
        v -= rows * kQrPanel;
        reflect_all_columns<false>({rows, v, tile.products + p * kQrPanel * kQrPanel, tile.factors + p * kQrPanel},
                                   padded(tile.columns - k), q + k * tile.ld + k, tile.ld);
    }
}

}  // namespace

extern const QrKernels qr;
const QrKernels qr{.factor = factor, .form = form};

}  // namespace GT_ISA
}  // namespace gt
