// Products with a packed right operand on the matrix unit (amx_tiles.h): weights are split once for a whole sequence,
// the samples as they go by. Which path runs depends on shapes only, and what a row of the left operand holds changes
// no other.
#include "kernels/amx_tiles.h"
#include "kernels/cell_table.h"
#include "kernels/column_groups.h"

namespace gt {
namespace GT_BASE {
extern const PanelKernels<float> panel_f32;
}
namespace GT_ISA {
namespace {

constexpr std::size_t kRowTiles = 4;  // of the left operand, while all columns pass by

// A tile takes 16 rows in the time of 6 by FMA, and weights as tiles have half as many bytes again.
GT_INLINE bool worthwhile(std::size_t rows) { return rows >= kSide; }

// Tiles of column tile t and step s: panels + ((t * steps + s) * P) tiles.
template <int P>
GT_INLINE std::size_t tiles_size(std::size_t k, std::size_t n) {
    return padded_columns<float>(n) / kSide * steps_of(k) * P * (sizeof(Tile) / sizeof(float));
}

template <int P>
std::size_t size(std::size_t k, std::size_t n, std::size_t rows) {
    return worthwhile(rows) ? tiles_size<P>(k, n) : GT_BASE::panel_f32.size(k, n, rows);
}

template <int P>
GT_INLINE void pack_tiles(std::size_t k, std::size_t n, const float* b, std::size_t row, std::size_t column,
                          const float* factor, Tile* tiles) {
    float scaled[kDepth][kSide];
    // Where the row stride is 1 too, the operand is a single column, of which there may be a factor.
    const bool transposed = row == 1 && factor == nullptr;
    const Cut cut = transposed ? cut_if_any(n, k, b, column) : cut_if_any(k, n, b, row);
    for (std::size_t first = 0; first < padded_columns<float>(n); first += kSide) {
        const std::size_t columns = first < n ? (n - first < kSide ? n - first : kSide) : 0;
        for (std::size_t d = 0; d < k; d += kDepth, tiles += P) {
            const std::size_t depth = k - d < kDepth ? k - d : kDepth;
            const float* from = b + d * row + (columns ? first : 0) * column;
            if (transposed) {  // the operand's columns lie as the rows of its transpose
                split_rows<P>(columns, depth, from, column, cut, tiles);
                transpose<P>(tiles);
            } else if (factor == nullptr) {
                split_columns<P>(depth, columns, from, row, cut, tiles);
            } else {
                for (std::size_t i = 0; i < depth; ++i)
                    _mm512_storeu_ps(scaled[i],
                                     _mm512_mul_ps(_mm512_maskz_loadu_ps(first_lanes(columns), from + i * row),
                                                   _mm512_set1_ps(factor[d + i])));
                split_columns<P>(depth, columns, scaled[0], kSide, cut, tiles);
            }
        }
    }
}

template <int P>
void pack(std::size_t k, std::size_t n, const float* b, std::size_t row, std::size_t column, const float* factor,
          std::size_t rows, float* panels) {
    if (!worthwhile(rows)) return GT_BASE::panel_f32.pack(k, n, b, row, column, factor, rows, panels);
    pack_tiles<P>(k, n, b, row, column, factor, reinterpret_cast<Tile*>(panels));
}

// The left operand: element (r, i) at a[r * row + i * step], one of the two strides 1.
struct Left {
    const float* a;
    std::size_t row, step;
};

// The rows, of at most 16, that must be cut off.
GT_INLINE Cut cut_rows(const Left& left, std::size_t rows, std::size_t k) {
    if (left.step != 1) return cut_columns(k, rows, left.a, left.step);
    Cut cut = kNone;
    for (std::size_t r = 0; r < rows; ++r) cut |= (cut_if_any(1, k, left.a + r * left.row, 0) & 1) << r;
    return cut;
}

// At most kRowTiles tiles of rows.
template <int P>
GT_INLINE void few_rows(std::size_t rows, std::size_t n, std::size_t k, const Left& left, const Tile* tiles, float* c,
                        std::size_t ldc, bool add, bool down, Tile* split) {
    Cut cut[kRowTiles];
    for (std::size_t t = 0; t < tiles_of(rows); ++t) {
        const std::size_t in_tile = rows - t * kSide < kSide ? rows - t * kSide : kSide;
        cut[t] = cut_rows({left.a + t * kSide * left.row, left.row, left.step}, in_tile, k);
    }
    const std::size_t groups = (n + 2 * kSide - 1) / (2 * kSide), all_steps = steps_of(k);
    for (std::size_t first = 0; first < k; first += kBlockDepth) {
        const std::size_t depth = k - first < kBlockDepth ? k - first : kBlockDepth, steps = steps_of(depth);
        for (std::size_t t = 0; t < tiles_of(rows); ++t)
            for (std::size_t s = 0; s < steps; ++s) {
                const float* from = left.a + t * kSide * left.row + (first + s * kDepth) * left.step;
                Tile* to = split + (t * kSteps + s) * P;
                if (left.step == 1) {
                    split_rows<P>(rows - t * kSide, depth - s * kDepth, from, left.row, cut[t], to);
                } else {
                    split_columns<P>(depth - s * kDepth, rows - t * kSide, from, left.step, cut[t], to);
                    transpose<P>(to);
                }
            }
        for (std::size_t i = 0; i < groups; ++i) {
            const std::size_t column = (down ? groups - 1 - i : i) * 2 * kSide,
                              columns = n - column < 2 * kSide ? n - column : 2 * kSide;
            const Tile* right = tiles + (column / kSide * all_steps + first / kDepth) * P;
            for (std::size_t row = 0; row < rows; row += 2 * kSide)
                result_block<P>(rows - row < 2 * kSide ? rows - row : 2 * kSide, columns, steps,
                                split + row / kSide * kSteps * P, right, all_steps * P, c + row * ldc + column, ldc,
                                add || first > 0);
        }
    }
}

template <int P>
GT_INLINE void all_rows(std::size_t m, std::size_t n, std::size_t k, const Left& left, const float* panels, float* c,
                        std::size_t ldc, bool add, bool down, void* scratch) {
    const TileRegisters registers;
    const Tile* tiles = reinterpret_cast<const Tile*>(panels);
    for (std::size_t row = 0; row < m; row += kRowTiles * kSide)
        few_rows<P>(m - row < kRowTiles * kSide ? m - row : kRowTiles * kSide, n, k,
                    {left.a + row * left.row, left.row, left.step}, tiles, c + row * ldc, ldc, add, down,
                    static_cast<Tile*>(scratch));
}

template <int P>
void multiply(std::size_t m, std::size_t n, std::size_t k, const float* a, std::size_t lda, const float* panels,
              float* c, std::size_t ldc, bool add, PanelOrder order, std::size_t rows, void* scratch) {
    if (!worthwhile(rows))
        return GT_BASE::panel_f32.multiply(m, n, k, a, lda, panels, c, ldc, add, order, rows, scratch);
    all_rows<P>(m, n, k, {a, lda, 1}, panels, c, ldc, add, order == PanelOrder::down, scratch);
}

template <int P>
void multiply_transposed(std::size_t m, std::size_t n, std::size_t k, const float* a, std::size_t lda,
                         const float* panels, float* c, std::size_t ldc, bool add, std::size_t rows, void* scratch) {
    if (!worthwhile(rows))
        return GT_BASE::panel_f32.multiply_transposed(m, n, k, a, lda, panels, c, ldc, add, rows, scratch);
    all_rows<P>(m, n, k, {a, 1, lda}, panels, c, ldc, add, false, scratch);
}

template <int P>
constexpr std::size_t transposed_scratch_bytes() {
    constexpr std::size_t own = kRowTiles * kSteps * P * sizeof(Tile), of_base = copied_bytes<float>(kPanelDepth);
    return own > of_base ? own : of_base;
}

template <int P>
constexpr PanelKernels<float> table{.size = size<P>,
                                    .pack = pack<P>,
                                    .multiply = multiply<P>,
                                    .multiply_transposed = multiply_transposed<P>,
                                    .scratch_bytes = kRowTiles * kSteps * P * sizeof(Tile),
                                    .transposed_scratch_bytes = transposed_scratch_bytes<P>()};

}  // namespace

extern const PanelKernels<float> panel_highest, panel_high;
const PanelKernels<float> panel_highest{table<3>};
const PanelKernels<float> panel_high{table<2>};

}  // namespace GT_ISA
}  // namespace gt
