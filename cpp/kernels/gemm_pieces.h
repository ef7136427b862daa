// The columns of a product, cut into pieces that pass by a block of its left operand together.
#pragma once

#include "kernels/column_groups.h"
#include "kernels/kernel_table.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

constexpr std::size_t kMostPieces = 4;

// By FMA: bytes of a piece's right operand, and of copied columns of the left, at a time.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kBlockBytes = 32 << 10;
#else
constexpr std::size_t kBlockBytes = 64 << 10;
#endif
template <class T>
constexpr std::size_t kDepthOfBlock = kBlockBytes / sizeof(T) / kMaxColumns;
template <class T>
constexpr std::size_t kFmaScratchBytes = kMostPieces * kBlockBytes + copied_bytes<T>(kDepthOfBlock<T>);

// At most kMaxColumns columns each.
template <class T>
struct Pieces {
    GemmColumns<T> piece[kMostPieces];
    std::size_t count = 0;
};

// Calls f(pieces) until all columns of all sets have been there. From one place: f is a whole product, written out
// there.
template <class T, class F>
GT_INLINE void for_pieces_of(const GemmColumns<T>* sets, std::size_t count, F f) {
    Pieces<T> pieces;
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t column = 0; column < sets[i].n; column += kMaxColumns) {
            const std::size_t left = sets[i].n - column;
            pieces.piece[pieces.count++] = {left < kMaxColumns ? left : kMaxColumns, sets[i].b + column,
                                            sets[i].c + column};
            if (pieces.count < kMostPieces && (i + 1 < count || left > kMaxColumns)) continue;
            f(pieces);
            pieces.count = 0;
        }
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
