// Matrix products for tiles whose columns (samples) are contiguous. Left operand: one broadcast per element; right
// operand and result: whole vectors. `nn` broadcasts down rows of W (forward), `tn` down its columns (backward).
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
GT_INLINE void all_rows(const Product<T>& p, std::size_t m, std::size_t n) {
    std::size_t row = 0;
    for (; row + kTileRows <= m; row += kTileRows) row_strip<T, kTransposed, kTileRows>(p, row, n);
    for (; row + 4 <= m; row += 4) row_strip<T, kTransposed, 4>(p, row, n);
    for (; row < m; ++row) row_strip<T, kTransposed, 1>(p, row, n);
}

// Columns of a wide left operand lie a page apart: they fall into few sets of L1 and each line would be fetched once
// per tile. A line's worth of them is therefore copied once, and all tiles read the copy.
constexpr std::size_t kPackedColumns = 16, kPackedDepth = 256;

template <class T>
GT_INLINE void copy_line(const T* from, std::size_t count, T* to) {
    if (count == kPackedColumns)
        for (std::size_t i = 0; i < kPackedColumns; i += kLanes<T>) store(to + i, load(from + i));
    else
        for (std::size_t i = 0; i < count; ++i) to[i] = from[i];
}

template <class T>
void packed_columns(const Product<T>& p, std::size_t m, std::size_t n) {
    T packed[kPackedDepth * kPackedColumns];
    for (std::size_t row = 0; row < m; row += kPackedColumns) {
        const std::size_t rows = m - row < kPackedColumns ? m - row : kPackedColumns;
        for (std::size_t k = 0; k < p.k; k += kPackedDepth) {
            const std::size_t depth = p.k - k < kPackedDepth ? p.k - k : kPackedDepth;
            for (std::size_t i = 0; i < depth; ++i)
                copy_line(p.a + (k + i) * p.lda + row, rows, packed + i * kPackedColumns);
            const Product<T> part{depth, packed,        kPackedColumns, p.b + k * p.ldb, p.ldb, p.c + row * p.ldc,
                                  p.ldc, p.add || k > 0};
            all_rows<T, true>(part, rows, n);
        }
    }
}

template <class T, bool kTransposed>
void gemm(std::size_t m, std::size_t n, std::size_t k, const T* a, std::size_t lda, const T* b, std::size_t ldb, T* c,
          std::size_t ldc, bool add) {
    constexpr std::size_t kFarApart = 2048;  // bytes from column to column
    const Product<T> p{k, a, lda, b, ldb, c, ldc, add};
    if (kTransposed && k > 0 && lda * sizeof(T) >= kFarApart)
        packed_columns(p, m, n);
    else
        all_rows<T, kTransposed>(p, m, n);
}

}  // namespace

extern const GemmKernels<float> gemm_f32;
extern const GemmKernels<double> gemm_f64;
const GemmKernels<float> gemm_f32{gemm<float, false>, gemm<float, true>};
const GemmKernels<double> gemm_f64{gemm<double, false>, gemm<double, true>};

}  // namespace GT_ISA
}  // namespace gt
