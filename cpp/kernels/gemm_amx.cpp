// Matrix products of stacks on the matrix unit (amx_tiles.h). The weights are split as they go by, the samples once for
// a block of the summed axis. Which path runs depends on shapes only: how many columns are computed in one call changes
// no bit.
#include "kernels/amx_tiles.h"
#include "kernels/gemm_pieces.h"
#include "kernels/kernel_table.h"

namespace gt {
namespace GT_BASE {
extern const GemmKernels<float> gemm_f32;
}
namespace GT_ISA {
namespace {

constexpr std::size_t kColumnTiles = kMaxColumns / kSide;

// Splitting a weight takes as long as an FMA for 10 samples; under 32 samples, or on short sums, nothing is won. A
// block's samples, not those of this call, and no rows: threads share both.
GT_INLINE bool worthwhile(std::size_t k, std::size_t samples) { return k >= 128 && samples >= 32; }

constexpr std::size_t kLines = 4;  // of 16 weights: a row of W is met in whole pairs of cache lines

constexpr std::size_t kStripElements = 32768;  // 512 rows of 64 samples share what was split of the samples

// What is split of a block of the summed axis: of each piece, and of a strip of the weights.
template <int P>
constexpr std::size_t kTilesOfPiece = kColumnTiles * kSteps * P;
template <int P>
constexpr std::size_t scratch_bytes() {
    constexpr std::size_t own = (kMostPieces * kTilesOfPiece<P> + kLines * kSteps * P) * sizeof(Tile);
    return own > kFmaScratchBytes<float> ? own : kFmaScratchBytes<float>;
}

struct Operands {
    std::size_t m, k;
    const float* a;
    std::size_t lda;
    Pieces<float> pieces;
    std::size_t ldb, ldc;
    bool add;
    Prefetch* prefetch;
    Tile* split;
    Cut cut_right[kMostPieces][kColumnTiles];  // columns of each tile
};

GT_INLINE void prefetch_lines(Prefetch* prefetch, std::size_t lines) {
    const char* at = prefetch ? prefetch->take(lines) : nullptr;
    if (at == nullptr) return;
    for (std::size_t i = 0; i < lines; ++i) __builtin_prefetch(at + i * Prefetch::kLine);
}

template <int P>
GT_INLINE void split_right(const Operands& p, std::size_t i, std::size_t first, std::size_t depth, Tile* right) {
    for (std::size_t tile = 0; tile < p.pieces.piece[i].n / kSide; ++tile)
        for (std::size_t d = 0; d < depth; d += kDepth)
            split_columns<P>(depth - d, kSide, p.pieces.piece[i].b + (first + d) * p.ldb + tile * kSide, p.ldb,
                             p.cut_right[i][tile], right + (tile * kSteps + d / kDepth) * P);
}

// c [+]= a b
template <int P>
void columns_nn(const Operands& p) {
    Tile *right[kMostPieces], *left = p.split + kMostPieces * kTilesOfPiece<P>;
    for (std::size_t i = 0; i < kMostPieces; ++i) right[i] = p.split + i * kTilesOfPiece<P>;
    for (std::size_t first = 0; first < p.k; first += kBlockDepth) {
        const std::size_t depth = p.k - first < kBlockDepth ? p.k - first : kBlockDepth;
        for (std::size_t i = 0; i < p.pieces.count; ++i) split_right<P>(p, i, first, depth, right[i]);
        for (std::size_t row = 0; row < p.m; row += 2 * kSide) {
            const std::size_t rows = p.m - row;
            prefetch_lines(p.prefetch, 2 * depth);
            for (std::size_t tile = 0; tile < 2 && tile * kSide < rows; ++tile) {
                const std::size_t in_tile = rows - tile * kSide < kSide ? rows - tile * kSide : kSide;
                const float* from = p.a + (row + tile * kSide) * p.lda + first;
                const Cut cut = cut_if_any(in_tile, depth, from, p.lda);
                for (std::size_t d = 0; d < depth; d += kDepth)
                    split_rows<P>(in_tile, depth - d, from + d, p.lda, cut, left + (tile * kSteps + d / kDepth) * P);
            }
            for (std::size_t i = 0; i < p.pieces.count; ++i) {
                const GemmColumns<float>& piece = p.pieces.piece[i];
                for (std::size_t column = 0; column < piece.n; column += 2 * kSide)
                    result_block<P>(rows < 2 * kSide ? rows : 2 * kSide,
                                    piece.n - column < 2 * kSide ? kSide : 2 * kSide, steps_of(depth), left,
                                    right[i] + column / kSide * kSteps * P, kSteps * P, piece.c + row * p.ldc + column,
                                    p.ldc, p.add || first > 0);
            }
        }
    }
}

// c^T [+]= b^T a for `columns` columns of a, at most four tiles of them.
template <int P>
GT_INLINE void transposed_blocks(std::size_t sample_tiles, std::size_t columns, std::size_t steps, const Tile* samples,
                                 const Tile* weights, float* c, std::size_t ldc, bool add) {
    alignas(64) float sums[2 * kSide * 2 * kSide];
    for (std::size_t i = 0; i < tiles_of(columns); i += 2)
        for (std::size_t tile = 0; tile < sample_tiles; tile += 2) {
            const std::size_t across = tiles_of(columns) - i < 2 ? 1 : 2, down = sample_tiles - tile < 2 ? 1 : 2;
            block_product<P>(down, across, steps, samples + tile * kSteps * P, kSteps * P, weights + i * kSteps * P,
                             kSteps * P, sums, 2 * kSide, false);
            for (std::size_t u = 0; u < across; ++u)
                for (std::size_t v = 0; v < down; ++v) {
                    const std::size_t at = (i + u) * kSide;
                    add_transposed(sums + v * kSide * 2 * kSide + u * kSide, 2 * kSide,
                                   columns - at < kSide ? columns - at : kSide, c + at * ldc + (tile + v) * kSide, ldc,
                                   add);
                }
        }
}

// c^T [+]= b^T a: the weights are the right operand there, so that their rows are split as they lie in memory, and it
// is the samples and the result that are transposed.
template <int P>
void columns_tn(const Operands& p) {
    Tile *samples[kMostPieces], *weights = p.split + kMostPieces * kTilesOfPiece<P>;
    for (std::size_t i = 0; i < kMostPieces; ++i) samples[i] = p.split + i * kTilesOfPiece<P>;
    for (std::size_t first = 0; first < p.k; first += kBlockDepth) {
        const std::size_t depth = p.k - first < kBlockDepth ? p.k - first : kBlockDepth, steps = steps_of(depth);
        const bool add = p.add || first > 0;
        for (std::size_t i = 0; i < p.pieces.count; ++i) {
            split_right<P>(p, i, first, depth, samples[i]);
            for (std::size_t tile = 0; tile < p.pieces.piece[i].n / kSide; ++tile)
                for (std::size_t s = 0; s < steps; ++s) transpose<P>(samples[i] + (tile * kSteps + s) * P);
        }
        for (std::size_t column = 0; column < p.m; column += kLines * kSide) {
            const std::size_t columns = p.m - column < kLines * kSide ? p.m - column : kLines * kSide;
            prefetch_lines(p.prefetch, 4 * depth);
            for (std::size_t d = 0; d < depth; d += kDepth)
                for (std::size_t i = 0; i < columns; i += kSide) {
                    const std::size_t in_tile = columns - i < kSide ? columns - i : kSide;
                    const float* from = p.a + (first + d) * p.lda + column + i;
                    const Cut cut = cut_columns(depth - d < kDepth ? depth - d : kDepth, in_tile, from, p.lda);
                    split_columns<P>(depth - d, in_tile, from, p.lda, cut,
                                     weights + (i / kSide * kSteps + d / kDepth) * P);
                }
            for (std::size_t i = 0; i < p.pieces.count; ++i)
                transposed_blocks<P>(p.pieces.piece[i].n / kSide, columns, steps, samples[i], weights,
                                     p.pieces.piece[i].c + column * p.ldc, p.ldc, add);
        }
    }
}

template <int P, bool kTransposed>
void gemm(std::size_t m, std::size_t k, const float* a, std::size_t lda, const GemmColumns<float>* sets,
          std::size_t count, std::size_t ldb, std::size_t ldc, bool add, Prefetch* prefetch, void* scratch) {
    if ((count == 1 && sets->n == 1) || !worthwhile(k, ldb)) {
        const auto fma = kTransposed ? GT_BASE::gemm_f32.tn : GT_BASE::gemm_f32.nn;
        return fma(m, k, a, lda, sets, count, ldb, ldc, add, prefetch, scratch);
    }
    const TileRegisters registers;
    for_pieces_of(sets, count, [&](const Pieces<float>& pieces) GT_INLINE_LAMBDA {
        Operands p{.m = m,
                   .k = k,
                   .a = a,
                   .lda = lda,
                   .pieces = pieces,
                   .ldb = ldb,
                   .ldc = ldc,
                   .add = add,
                   .prefetch = prefetch,
                   .split = static_cast<Tile*>(scratch),
                   .cut_right = {}};
        for (std::size_t i = 0; i < pieces.count; ++i)
            for (std::size_t tile = 0; tile < pieces.piece[i].n / kSide; ++tile)
                p.cut_right[i][tile] = cut_columns(k, kSide, pieces.piece[i].b + tile * kSide, ldb);
        if (kTransposed)
            columns_tn<P>(p);
        else
            columns_nn<P>(p);
    });
}

double nv_squares(std::size_t m, std::size_t k, const float* a, const float* b, float* c) {
    return GT_BASE::gemm_f32.nv_squares(m, k, a, b, c);
}

template <int P>
constexpr GemmKernels<float> table{.nn = gemm<P, false>,
                                   .tn = gemm<P, true>,
                                   .nv_squares = nv_squares,
                                   .strip_elements = kStripElements,
                                   .scratch_bytes = scratch_bytes<P>()};

}  // namespace

extern const GemmKernels<float> gemm_highest, gemm_high;
const GemmKernels<float> gemm_highest{table<3>};
const GemmKernels<float> gemm_high{table<2>};

}  // namespace GT_ISA
}  // namespace gt
