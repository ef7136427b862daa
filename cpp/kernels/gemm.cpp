// Matrix products for tiles whose columns (samples) are contiguous. Left operand: one broadcast per element; right
// operand and result: whole vectors. `nn` broadcasts down rows of W (forward), `tn` down its columns (backward).
//
// The summed axis is cut into blocks whose part of the right operand stays in L1 while all rows pass by. Rows are
// independent of each other: how many are computed in one call changes no bit.
#include "kernels/column_groups.h"
#include "kernels/gemm_pieces.h"
#include "kernels/gemv.h"
#include "kernels/kernel_table.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

// A tile of R rows x V vectors has about so many accumulators: twice what hides 4 cycles of latency on two FMA units,
// so that with V right vectors and a broadcast the registers suffice, and no cycle needs more than two loads.
// A panel of kMostVectors of a block stays in L1.
// kStripElements: still near when the activation reads them; but every strip copies a right operand wider than a panel.
// kAddLast: what stands in c is prefetched at the start of a tile and added at its end; the shorter tiles of narrow
// registers would wait for it longer than it takes.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kAccumulators = 16, kMostVectors = 4;
constexpr std::size_t kStripElements = 4096;
constexpr bool kAddLast = false;
#else
constexpr std::size_t kAccumulators = 12, kMostVectors = 2;
constexpr std::size_t kStripElements = 16384;
constexpr bool kAddLast = true;
#endif
constexpr std::size_t rows_of_tile(std::size_t vectors) { return kAccumulators / vectors; }

template <class T>
struct Product {
    std::size_t k;
    const T* a;
    std::size_t lda;
    const T* b = nullptr;
    std::size_t ldb;
    T* c = nullptr;
    std::size_t ldc;
    bool add;
    Prefetch* prefetch;
};

// One R x V tile of accumulators: rows [row, row + R), the V vectors at p.b and p.c.
template <class T, bool kTransposed, std::size_t R, std::size_t V>
GT_INLINE void tile(const Product<T>& p, std::size_t row) {
    Vec<T> acc[R][V];
    const T* a = kTransposed ? p.a + row : p.a + row * p.lda;
    T* c = p.c + row * p.ldc;
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v)
            acc[r][v] = p.add && !kAddLast ? load(c + r * p.ldc + v * kLanes<T>) : Vec<T>{};
    if (p.add && kAddLast)
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) __builtin_prefetch(c + r * p.ldc);
    const char* line = p.prefetch ? p.prefetch->take(p.k) : nullptr;
    const std::size_t step = line ? Prefetch::kLine : 0;  // without anything to prefetch, one line again and again
    if (line == nullptr) line = reinterpret_cast<const char*>(p.b);
    for (std::size_t k = 0; k < p.k; ++k, line += step) {
        __builtin_prefetch(line);
        Vec<T> right[V];
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) right[v] = load(p.b + k * p.ldb + v * kLanes<T>);
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
        for (std::size_t v = 0; v < V; ++v) {
            T* at = c + r * p.ldc + v * kLanes<T>;
            store(at, p.add && kAddLast ? load(at) + acc[r][v] : acc[r][v]);
        }
}

template <class T, bool kTransposed, std::size_t V>
GT_INLINE void all_rows(const Product<T>& p, std::size_t m) {
    constexpr std::size_t R = rows_of_tile(V);
    std::size_t row = 0;
    for (; row + R <= m; row += R) tile<T, kTransposed, R, V>(p, row);
    if (R > 4)
        for (; row + 4 <= m; row += 4) tile<T, kTransposed, 4, V>(p, row);
    for (; row < m; ++row) tile<T, kTransposed, 1, V>(p, row);
}

template <class T, bool kTransposed>
GT_INLINE void panel(const Product<T>& p, std::size_t m, std::size_t vectors) {
    switch (vectors) {
        case 1:
            return all_rows<T, kTransposed, 1>(p, m);
        case 2:
            return all_rows<T, kTransposed, 2>(p, m);
#if defined(__AVX512F__) || defined(__aarch64__)
        case 3:
            return all_rows<T, kTransposed, 3>(p, m);
        case 4:
            return all_rows<T, kTransposed, 4>(p, m);
#endif
        default:
            return;
    }
}

// Calls f(product, vectors) for every panel of every piece: of its rows from `row` on, which start at p.a. The right
// operand of a piece lies where it was if one panel holds it, else copied, panel behind panel.
template <class T, class F>
GT_INLINE void for_each_panel(const Product<T>& p, const Pieces<T>& pieces, std::size_t row, F f) {
    constexpr std::size_t kWide = kMostVectors * kLanes<T>;
    for (std::size_t i = 0; i < pieces.count; ++i) {
        const GemmColumns<T>& piece = pieces.piece[i];
        const bool copied = piece.n > kWide;
        for (std::size_t column = 0; column < piece.n; column += kWide) {
            const std::size_t columns = piece.n - column < kWide ? piece.n - column : kWide;
            Product<T> panel_of = p;
            panel_of.b = piece.b + p.k * column;
            panel_of.ldb = copied ? columns : p.ldb;
            panel_of.c = piece.c + row * p.ldc + column;
            f(panel_of, columns / kLanes<T>);
        }
    }
}

// Panels of a wide right operand are copied: their rows would fall into a few sets of L1 and push each other out.
template <class T>
GT_INLINE T* copy_panels(const Product<T>& p, std::size_t n, const T* from, T* to) {
    constexpr std::size_t kWide = kMostVectors * kLanes<T>;
    for (std::size_t column = 0; column < n; column += kWide) {
        const std::size_t columns = n - column < kWide ? n - column : kWide;
        for (std::size_t k = 0; k < p.k; ++k, to += columns)
            for (std::size_t j = 0; j < columns; j += kLanes<T>) store(to + j, load(from + k * p.ldb + column + j));
    }
    return to;
}

template <class T>
GT_INLINE void from_copied_columns(const Product<T>& p, std::size_t m, const Pieces<T>& pieces, T* copy) {
    for (std::size_t row = 0; row < m; row += kCopiedColumns) {
        const std::size_t rows = m - row < kCopiedColumns ? m - row : kCopiedColumns;
        copy_columns(p.a + row, p.lda, p.k, rows, copy);
        for_each_panel(p, pieces, row, [&](Product<T> group, std::size_t vectors) GT_INLINE_LAMBDA {
            group.a = copy;
            group.lda = kGroupStride;
            for (std::size_t i = 0; i < rows; i += kGroupRows) {
                panel<T, true>(group, rows - i < kGroupRows ? rows - i : kGroupRows, vectors);
                group.a += group_pitch<T>(p.k);
                group.c += kGroupRows * p.ldc;
            }
        });
    }
}

// Rows of the left operand that stay in L1 while all panels pass by.
constexpr std::size_t kRowsOfBlock = 48;

template <class T, bool kTransposed>
GT_INLINE void all_blocks(const Product<T>& p, std::size_t m, const Pieces<T>& pieces) {
    for (std::size_t row = 0; row < m; row += kRowsOfBlock) {
        const std::size_t rows = m - row < kRowsOfBlock ? m - row : kRowsOfBlock;
        Product<T> block = p;
        block.a += kTransposed ? row : row * p.lda;
        for_each_panel(block, pieces, row, [&](const Product<T>& panel_of, std::size_t vectors) GT_INLINE_LAMBDA {
            panel<T, kTransposed>(panel_of, rows, vectors);
        });
    }
}

// Of each piece's right operand kBlockBytes at a time.
template <class T, bool kTransposed>
GT_INLINE void product_of(const Product<T>& whole, std::size_t m, const Pieces<T>& pieces, T* scratch) {
    constexpr std::size_t kFarApart = 2048;  // bytes from column to column
    T *right = scratch, *left = scratch + kMostPieces * kBlockBytes / sizeof(T);
    for (std::size_t first = 0; first < whole.k || first == 0; first += kDepthOfBlock<T>) {
        Product<T> p = whole;
        p.k = whole.k - first < kDepthOfBlock<T> ? whole.k - first : kDepthOfBlock<T>;
        p.a += kTransposed ? first * p.lda : first;
        p.add |= first > 0;
        Pieces<T> here = pieces;
        T* to = right;
        for (std::size_t i = 0; i < here.count; ++i) {
            GemmColumns<T>& piece = here.piece[i];
            const T* from = piece.b + first * p.ldb;
            const bool copied = piece.n > kMostVectors * kLanes<T>;
            piece.b = copied ? to : from;
            if (copied) to = copy_panels(p, piece.n, from, to);
        }
        if (kTransposed && p.lda * sizeof(T) >= kFarApart)
            from_copied_columns(p, m, here, left);
        else
            all_blocks<T, kTransposed>(p, m, here);
    }
}

template <class T, bool kTransposed>
void gemm(std::size_t m, std::size_t k, const T* a, std::size_t lda, const GemmColumns<T>* sets, std::size_t count,
          std::size_t ldb, std::size_t ldc, bool add, Prefetch* prefetch, void* scratch) {
    if (count == 1 && sets->n == 1)
        return kTransposed ? gemv_t(m, k, a, lda, sets->b, sets->c, add) : gemv_n(m, k, a, lda, sets->b, sets->c, add);
    const Product<T> whole{.k = k, .a = a, .lda = lda, .ldb = ldb, .ldc = ldc, .add = add, .prefetch = prefetch};
    for_pieces_of(sets, count, [&](const Pieces<T>& pieces) GT_INLINE_LAMBDA {
        product_of<T, kTransposed>(whole, m, pieces, static_cast<T*>(scratch));
    });
}

template <class T>
double nv_squares(std::size_t m, std::size_t k, const T* a, const T* b, T* c) {
    return gemv_squares(m, k, a, b, c);
}

template <class T>
constexpr GemmKernels<T> table{.nn = gemm<T, false>,
                               .tn = gemm<T, true>,
                               .nv_squares = nv_squares<T>,
                               .strip_elements = kStripElements,
                               .scratch_bytes = kFmaScratchBytes<T>};

}  // namespace

GT_DEFINE_KERNELS(GemmKernels, gemm, table)

}  // namespace GT_ISA
}  // namespace gt
