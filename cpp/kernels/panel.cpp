// Products with a packed right operand: weights that stay in L2 while the samples of many steps go by. Left operand:
// one broadcast per element; right operand and result: whole vectors.
#include "kernels/column_groups.h"
#include "kernels/kernel_table.h"
#include "simd/map.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

// Panels are two vectors wide, as most tiles are, so that what a tile reads lies end to end.
constexpr std::size_t kPanelVectors = 2;
template <class T>
constexpr std::size_t kWide = kPanelVectors * kLanes<T>;

// Accumulators of a tile: two vectors wide and so many rows tall; fewer rows take more vectors, so that there are
// always enough independent chains to hide the latency of an FMA. kLeftBytes: of the left operand, while all panels
// pass by.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kTileRows = 8, kLeftBytes = 128 << 10;
constexpr std::size_t kVectorsOf[] = {0, 8, 8, 4, 4, 2, 2, 2, 2};
#else
constexpr std::size_t kTileRows = 6, kLeftBytes = 32 << 10;
constexpr std::size_t kVectorsOf[] = {0, 8, 4, 2, 2, 2, 2};
#endif

template <class T>
struct Product {
    std::size_t n, k;
    const T* a;  // element (r, i) at a[r * row + i * step]
    std::size_t row, step;
    const T* panels;
    std::size_t panel_stride;  // from panel to panel
    T* c;
    std::size_t ldc;
    bool add;
};

// Rows [row, row + R) against V vectors from `vector` on, counted over all panels, to c. kStep: p.step, known when it
// is 1.
template <class T, std::size_t kStep, std::size_t R, std::size_t V>
GT_INLINE void whole_tile(const Product<T>& p, std::size_t row, std::size_t vector, T* c, std::size_t ldc) {
    const T* right[V];
#pragma GCC unroll 16
    for (std::size_t v = 0; v < V; ++v)
        right[v] = p.panels + (vector + v) / kPanelVectors * p.panel_stride + (vector + v) % kPanelVectors * kLanes<T>;
    const T* left = p.a + row * p.row;
    Vec<T> acc[R][V];
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) acc[r][v] = p.add ? load(c + r * ldc + v * kLanes<T>) : Vec<T>{};
    for (std::size_t i = 0; i < p.k; ++i) {
        Vec<T> b[V];
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) b[v] = load(right[v] + i * kWide<T>);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) {
            const Vec<T> a = broadcast(left[r * (kStep == 1 ? p.row : 1) + i * kStep]);
#pragma GCC unroll 16
            for (std::size_t v = 0; v < V; ++v) acc[r][v] = a * b[v] + acc[r][v];
        }
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) store(c + r * ldc + v * kLanes<T>, acc[r][v]);
}

// From or to the last columns of the result, `columns` of them.
template <class T>
GT_INLINE void copy_result(std::size_t rows, std::size_t columns, const T* from, std::size_t ld_from, T* to,
                           std::size_t ld_to) {
    for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t j = 0; j < columns; ++j) to[r * ld_to + j] = from[r * ld_from + j];
}

// The same where the result may end within the tile: then by way of a copy.
template <class T, std::size_t kStep, std::size_t R, std::size_t V>
GT_INLINE void tile(const Product<T>& p, std::size_t row, std::size_t vector) {
    constexpr std::size_t kColumns = V * kLanes<T>;
    const std::size_t column = vector * kLanes<T>;
    T* c = p.c + row * p.ldc + column;
    if (column + kColumns <= p.n) return whole_tile<T, kStep, R, V>(p, row, vector, c, p.ldc);
    T copy[R * kColumns] = {};
    if (p.add) copy_result(R, p.n - column, c, p.ldc, copy, kColumns);
    whole_tile<T, kStep, R, V>(p, row, vector, copy, kColumns);
    copy_result(R, p.n - column, copy, kColumns, c, p.ldc);
}

// Rows [row, row + R) against vectors [first, end), which start at a panel; `down`: from the last to the first.
template <class T, std::size_t kStep, std::size_t R>
GT_INLINE void strip(const Product<T>& p, std::size_t row, std::size_t first, std::size_t end, bool down) {
    constexpr std::size_t kMost = kVectorsOf[R];
    const std::size_t groups = (end - first) / kMost;
    const auto rest = [&]() GT_INLINE_LAMBDA {
        std::size_t vector = first + groups * kMost;
        for (; vector + 2 <= end; vector += 2) tile<T, kStep, R, 2>(p, row, vector);
        if (vector < end) tile<T, kStep, R, 1>(p, row, vector);
    };
    if (down) rest();
    for (std::size_t i = 0; i < groups; ++i)
        tile<T, kStep, R, kMost>(p, row, first + (down ? groups - 1 - i : i) * kMost);
    if (!down) rest();
}

template <class T, std::size_t kStep>
GT_INLINE void last_rows(const Product<T>& p, std::size_t row, std::size_t rows, std::size_t first, std::size_t end,
                         bool down) {
    switch (rows) {
        case 1:
            return strip<T, kStep, 1>(p, row, first, end, down);
        case 2:
            return strip<T, kStep, 2>(p, row, first, end, down);
        case 3:
            return strip<T, kStep, 3>(p, row, first, end, down);
        case 4:
            return strip<T, kStep, 4>(p, row, first, end, down);
        case 5:
            return strip<T, kStep, 5>(p, row, first, end, down);
#if defined(__AVX512F__) || defined(__aarch64__)
        case 6:
            return strip<T, kStep, 6>(p, row, first, end, down);
        case 7:
            return strip<T, kStep, 7>(p, row, first, end, down);
#endif
        default:
            return;
    }
}

// Whole tiles of rows take panel by panel, which then stays in L1; the rows left over run through all panels, several
// at a time.
template <class T, std::size_t kStep>
GT_INLINE void rows_by_panels(const Product<T>& p, std::size_t row, std::size_t rows, bool down) {
    const std::size_t vectors = (p.n + kLanes<T> - 1) / kLanes<T>, whole = rows / kTileRows * kTileRows;
    const std::size_t panels = whole ? (vectors + kPanelVectors - 1) / kPanelVectors : 0;
    for (std::size_t i = 0; i < panels; ++i) {
        const std::size_t first = (down ? panels - 1 - i : i) * kPanelVectors;
        const std::size_t end = first + kPanelVectors < vectors ? first + kPanelVectors : vectors;
        for (std::size_t r = row; r < row + whole; r += kTileRows) strip<T, kStep, kTileRows>(p, r, first, end, down);
    }
    last_rows<T, kStep>(p, row + whole, rows - whole, 0, vectors, down);
}

// Copied columns: panel by panel, group by group.
template <class T>
GT_INLINE void columns_by_panels(const Product<T>& whole, std::size_t rows) {
    const std::size_t vectors = (whole.n + kLanes<T> - 1) / kLanes<T>;
    for (std::size_t first = 0; first < vectors; first += kPanelVectors) {
        const std::size_t end = first + kPanelVectors < vectors ? first + kPanelVectors : vectors;
        Product<T> p = whole;
        for (std::size_t group = 0; group < rows; group += kGroupRows) {
            const std::size_t left = rows - group < kGroupRows ? rows - group : kGroupRows;
            std::size_t r = 0;
            for (; r + kTileRows <= left; r += kTileRows) strip<T, kGroupStride, kTileRows>(p, r, first, end, false);
            last_rows<T, kGroupStride>(p, r, left - r, first, end, false);
            p.a += group_pitch<T>(p.k);
            p.c += kGroupRows * p.ldc;
        }
    }
}

template <class T>
void multiply(std::size_t m, std::size_t n, std::size_t k, const T* a, std::size_t lda, const T* panels, T* c,
              std::size_t ldc, bool add, PanelOrder order, std::size_t, void*) {
    const std::size_t stride = k * kWide<T>;
    const std::size_t most = m < kTileRows ? k : kPanelDepth;  // a few rows meet each panel once
    const std::size_t fit = kLeftBytes / sizeof(T) / ((k < most ? k : most) + 1) / kTileRows * kTileRows;
    const std::size_t block = fit < 2 * kTileRows ? 2 * kTileRows : fit;
    for (std::size_t row = 0; row < m; row += block)
        for (std::size_t first = 0; first < k || first == 0; first += most) {
            const std::size_t depth = k - first < most ? k - first : most;
            const Product<T> p{.n = n,
                               .k = depth,
                               .a = a + first,
                               .row = lda,
                               .step = 1,
                               .panels = panels + first * kWide<T>,
                               .panel_stride = stride,
                               .c = c,
                               .ldc = ldc,
                               .add = add || first > 0};
            rows_by_panels<T, 1>(p, row, m - row < block ? m - row : block, order == PanelOrder::down);
        }
}

template <class T>
void multiply_transposed(std::size_t m, std::size_t n, std::size_t k, const T* a, std::size_t lda, const T* panels,
                         T* c, std::size_t ldc, bool add, std::size_t, void* scratch) {
    T* copy = static_cast<T*>(scratch);
    for (std::size_t row = 0; row < m; row += kCopiedColumns) {
        const std::size_t rows = m - row < kCopiedColumns ? m - row : kCopiedColumns;
        for (std::size_t first = 0; first < k || first == 0; first += kPanelDepth) {
            const std::size_t depth = k - first < kPanelDepth ? k - first : kPanelDepth;
            copy_columns(a + first * lda + row, lda, depth, rows, copy);
            const Product<T> p{.n = n,
                               .k = depth,
                               .a = copy,
                               .row = 1,
                               .step = kGroupStride,
                               .panels = panels + first * kWide<T>,
                               .panel_stride = k * kWide<T>,
                               .c = c + row * ldc,
                               .ldc = ldc,
                               .add = add || first > 0};
            columns_by_panels(p, rows);
        }
    }
}

template <class T>
void pack(std::size_t k, std::size_t n, const T* b, std::size_t row, std::size_t column, const T* factor, std::size_t,
          T* panels) {
    for (std::size_t first = 0; first < padded_columns<T>(n); first += kWide<T>, panels += k * kWide<T>) {
        const std::size_t left = first < n ? n - first : 0, columns = left < kWide<T> ? left : kWide<T>;
        const T* from = b + first * column;
        if (column == 1) {
            for (std::size_t i = 0; i < k; ++i) {
                const T f = factor ? factor[i] : T(1);
                for (std::size_t j = 0; j < columns; ++j) panels[i * kWide<T> + j] = from[i * row + j] * f;
                for (std::size_t j = columns; j < kWide<T>; ++j) panels[i * kWide<T> + j] = T(0);
            }
        } else {  // a transposition: line by line of the source
            for (std::size_t j = 0; j < kWide<T>; ++j)
                for (std::size_t i = 0; i < k; ++i)
                    panels[i * kWide<T> + j] =
                        j < columns ? from[i * row + j * column] * (factor ? factor[i] : T(1)) : T(0);
        }
    }
}

template <class T>
std::size_t size(std::size_t k, std::size_t n, std::size_t) {
    return padded_columns<T>(n) * k;
}

template <class T>
constexpr PanelKernels<T> table{.size = size<T>,
                                .pack = pack<T>,
                                .multiply = multiply<T>,
                                .multiply_transposed = multiply_transposed<T>,
                                .scratch_bytes = 0,
                                .transposed_scratch_bytes = copied_bytes<T>(kPanelDepth)};

}  // namespace

GT_DEFINE_KERNELS(PanelKernels, panel, table)

}  // namespace GT_ISA
}  // namespace gt
