// Matrix products for tiles whose columns (samples) are contiguous. Left operand: one broadcast per element; right
// operand and result: whole vectors. Nothing is packed: `nn` broadcasts down rows of W (forward), `tn` down its columns
// (backward).
#include "kernels/kernel_table.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

// Registers: kTileRows x 2 accumulators, 2 right vectors, 1 broadcast. 16 chains hide 4 cycles of latency on two FMA
// units.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kTileRows = 8;
#else
constexpr std::size_t kTileRows = 6;
#endif
constexpr std::size_t kTileVectors = 2;

template <class T>
struct Product {
    std::size_t k;
    const T* a;
    std::size_t lda;
    const T* b;
    std::size_t ldb;
    T* c;
    std::size_t ldc;
    bool add;
};

// One R x V tile of accumulators: rows [row, row + R), columns [column, column + V vectors).
template <class T, bool kTransposed, std::size_t R, std::size_t V>
GT_INLINE void tile(const Product<T>& p, std::size_t row, std::size_t column) {
    Vec<T> acc[R][V];
    const T* a = kTransposed ? p.a + row : p.a + row * p.lda;
    const T* b = p.b + column;
    T* c = p.c + row * p.ldc + column;
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) acc[r][v] = p.add ? load(c + r * p.ldc + v * kLanes<T>) : Vec<T>{};
    for (std::size_t k = 0; k < p.k; ++k) {
        Vec<T> right[V];
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) right[v] = load(b + k * p.ldb + v * kLanes<T>);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) {
            const Vec<T> left = broadcast(kTransposed ? a[k * p.lda + r] : a[r * p.lda + k]);
#pragma GCC unroll 16
            for (std::size_t v = 0; v < V; ++v) acc[r][v] = left * right[v] + acc[r][v];
        }
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) store(c + r * p.ldc + v * kLanes<T>, acc[r][v]);
}

// R rows against all columns: the rows stay in L1 while the right operand comes from L2.
template <class T, bool kTransposed, std::size_t R>
GT_INLINE void row_strip(const Product<T>& p, std::size_t row, std::size_t n) {
    constexpr std::size_t kPanel = kTileVectors * kLanes<T>;
    std::size_t column = 0;
    for (; column + kPanel <= n; column += kPanel) tile<T, kTransposed, R, kTileVectors>(p, row, column);
    for (; column < n; column += kLanes<T>) tile<T, kTransposed, R, 1>(p, row, column);
}

template <class T, bool kTransposed>
void gemm(std::size_t m, std::size_t n, std::size_t k, const T* a, std::size_t lda, const T* b, std::size_t ldb, T* c,
          std::size_t ldc, bool add) {
    const Product<T> p{k, a, lda, b, ldb, c, ldc, add};
    std::size_t row = 0;
    for (; row + kTileRows <= m; row += kTileRows) row_strip<T, kTransposed, kTileRows>(p, row, n);
    for (; row + 4 <= m; row += 4) row_strip<T, kTransposed, 4>(p, row, n);
    for (; row < m; ++row) row_strip<T, kTransposed, 1>(p, row, n);
}

}  // namespace

extern const GemmKernels<float> gemm_f32;
extern const GemmKernels<double> gemm_f64;
const GemmKernels<float> gemm_f32{gemm<float, false>, gemm<float, true>};
const GemmKernels<double> gemm_f64{gemm<double, false>, gemm<double, true>};

}  // namespace GT_ISA
}  // namespace gt
