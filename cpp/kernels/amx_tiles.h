// Float32 products on the matrix unit: each operand as a sum of bfloat16 parts, all products of parts that count.
//
// A float32 has 24 bits, a part 8: three parts hold it whole, two all but 2^-17 of it. Of the nine products of three
// parts the six largest are taken (three of four with two parts); what is left out is 2^-25 of |a||b| (2^-17), less
// than float32's own rounding of a sum.
//
// Relies on AMX-TILE and AMX-BF16 (TDPBF16PS: 16 x 16 sums of 32 products in 16 cycles; a tile is loaded in 8 from L1)
// beside AVX-512F. A tile adds up its 32 products in two chains of 16 and rounds the result into the accumulator once,
// so that long sums are rounded less often than by a chain of FMA. It takes subnormals as zero.
#pragma once

#include "kernels/amx_instructions.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

constexpr std::size_t kSide = 16;   // rows and columns of a tile of results
constexpr std::size_t kDepth = 32;  // summed elements of a tile of parts: 16 pairs

// 16 rows of 16 pairs of bfloat16. Pair j of a row holds the elements j and j + 16 of a depth of 32: both operands say
// so, and a vector of pairs is two vectors of float32 without a shuffle.
struct alignas(64) Tile {
    std::uint32_t pair[kSide][kSide];
};

// GCC's intrinsics do not say that a tile reads memory: what was written before this line is there behind it.
GT_INLINE void memory_is_written() { __asm__ volatile("" ::: "memory"); }

// The shapes of all eight tile registers, and the registers given back at the end: a thread that leaves them in use
// costs every context switch 8 KB.
class TileRegisters {
  public:
    GT_INLINE TileRegisters() {
        alignas(64) std::uint8_t config[64] = {1};  // palette 1: 8 tiles of at most 16 rows of 64 bytes
        for (int i = 0; i < 8; ++i) {
            config[16 + 2 * i] = 64;  // bytes of a row
            config[48 + i] = kSide;   // rows
        }
        memory_is_written();
        _tile_loadconfig(config);
    }
    GT_INLINE ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

// x to 8 bits: rounded to nearest with `half` = kHalf, cut off with 0. A number from 2^127 on could round to infinity
// and a NaN to a number; cut off, both stay what they are, at the price of a few bits of what is left out.
constexpr std::uint32_t kHalf = 0x8000, kMayRound = 0x7f000000;  // half a unit of the part; bits of 2^127
GT_INLINE __m512 leading_part(__m512 x, __m512i half) {
    const __m512i bits = _mm512_add_epi32(_mm512_castps_si512(x), half);
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// Row `row` of P tiles: the parts of x and y, largest first.
template <int P>
GT_INLINE void split_pairs(__m512 x, __m512 y, __m512i half, std::size_t row, Tile* tiles) {
#pragma GCC unroll 3
    for (int part = 0; part < P; ++part) {
        const __m512 x_part = leading_part(x, half), y_part = leading_part(y, half);
        const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(x_part), 16);
        _mm512_store_si512(tiles[part].pair[row], _mm512_or_si512(low, _mm512_castps_si512(y_part)));
        x = _mm512_sub_ps(x, x_part);
        y = _mm512_sub_ps(y, y_part);
    }
}

GT_INLINE __mmask16 first_lanes(std::size_t count) {
    return static_cast<__mmask16>(count < kSide ? (1u << count) - 1 : 0xffffu);
}

// Which of up to 32 rows or columns are cut off, not rounded, as bits.
using Cut = std::uint32_t;
constexpr Cut kNone = 0, kAll = ~0u;

// Tiles whose rows are those of x (rows, depth), elements of a row contiguous; what is missing of 16 rows and 32
// elements is zero.
template <int P>
GT_INLINE void split_rows(std::size_t rows, std::size_t depth, const float* x, std::size_t ld, Cut cut, Tile* tiles) {
    const __mmask16 first = first_lanes(depth), second = first_lanes(depth > kSide ? depth - kSide : 0);
    for (std::size_t r = 0; r < kSide; ++r) {
        const bool in = r < rows;
        const float* from = in ? x + r * ld : x;
        const __m512i half = _mm512_set1_epi32(cut >> r & 1 ? 0 : kHalf);
        split_pairs<P>(_mm512_maskz_loadu_ps(in ? first : 0, from),
                       _mm512_maskz_loadu_ps(in ? second : 0, from + kSide), half, r, tiles);
    }
}

// Tiles whose columns are those of x (depth, columns), elements of a column `ld` apart; likewise.
template <int P>
GT_INLINE void split_columns(std::size_t depth, std::size_t columns, const float* x, std::size_t ld, Cut cut,
                             Tile* tiles) {
    const __mmask16 lanes = first_lanes(columns);
    const __m512i half = _mm512_maskz_set1_epi32(static_cast<__mmask16>(~cut), kHalf);
    const auto row = [&](std::size_t i) GT_INLINE_LAMBDA {
        return _mm512_maskz_loadu_ps(i < depth ? lanes : 0, x + (i < depth ? i : 0) * ld);
    };
    for (std::size_t j = 0; j < kSide; ++j) split_pairs<P>(row(j), row(j + kSide), half, j, tiles);
}

// The largest |x| of each of at most 16 columns, as bits, which order as the numbers do and put NaN last.
GT_INLINE __m512i largest_bits(std::size_t rows, std::size_t columns, const float* x, std::size_t ld) {
    const __mmask16 lanes = first_lanes(columns);
    __m512i most = _mm512_setzero_si512();
    for (std::size_t r = 0; r < rows; ++r) {
        const __m512i bits = _mm512_maskz_loadu_epi32(lanes, x + r * ld);
        most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    return most;
}

// The columns, of at most 16, that must be cut off.
GT_INLINE Cut cut_columns(std::size_t rows, std::size_t columns, const float* x, std::size_t ld) {
    return _mm512_cmpge_epu32_mask(largest_bits(rows, columns, x, ld), _mm512_set1_epi32(kMayRound));
}

// Whether any number of x (rows, columns), of whatever size, must be.
GT_INLINE Cut cut_if_any(std::size_t rows, std::size_t columns, const float* x, std::size_t ld) {
    Cut cut = kNone;
    for (std::size_t c = 0; c < columns; c += kSide)
        cut |= cut_columns(rows, columns - c < kSide ? columns - c : kSide, x + c, ld);
    return cut ? kAll : kNone;
}

// 16 x 16 numbers of 32 bits; x[i] is row i before and column i afterwards.
GT_INLINE void transpose_16(__m512i (&x)[kSide]) {
    __m512i half[kSide];
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kSide; i += 2) {
        half[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        half[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    // x[4g + c] holds in its quarter q the column 4q + c of rows 4g to 4g + 3.
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kSide; i += 4) {
        x[i] = _mm512_unpacklo_epi64(half[i], half[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(half[i], half[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(half[i + 1], half[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(half[i + 1], half[i + 3]);
    }
    // Quarters 0 and 2, or 1 and 3, of two groups of rows; then of all four groups.
#pragma GCC unroll 4
    for (std::size_t c = 0; c < 4; ++c) {
        half[c] = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88);
        half[4 + c] = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd);
        half[8 + c] = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
        half[12 + c] = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
    }
#pragma GCC unroll 4
    for (std::size_t c = 0; c < 4; ++c) {
        x[c] = _mm512_shuffle_i32x4(half[c], half[8 + c], 0x88);
        x[8 + c] = _mm512_shuffle_i32x4(half[c], half[8 + c], 0xdd);
        x[4 + c] = _mm512_shuffle_i32x4(half[4 + c], half[12 + c], 0x88);
        x[12 + c] = _mm512_shuffle_i32x4(half[4 + c], half[12 + c], 0xdd);
    }
}

// to (rows, 16) [+]= from^T, from (16, 16).
GT_INLINE void add_transposed(const float* from, std::size_t ld_from, std::size_t rows, float* to, std::size_t ld_to,
                              bool add) {
    __m512i x[kSide];
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kSide; ++i) x[i] = _mm512_loadu_si512(from + i * ld_from);
    transpose_16(x);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kSide; ++i) {
        if (i >= rows) break;
        const __m512 row = _mm512_castsi512_ps(x[i]);
        _mm512_storeu_ps(to + i * ld_to, add ? _mm512_add_ps(_mm512_loadu_ps(to + i * ld_to), row) : row);
    }
}

// The tiles of split_columns as those of split_rows: columns become rows.
template <int P>
GT_INLINE void transpose(Tile* tiles) {
    for (int part = 0; part < P; ++part) {
        __m512i x[kSide];
#pragma GCC unroll 16
        for (std::size_t i = 0; i < kSide; ++i) x[i] = _mm512_load_si512(tiles[part].pair[i]);
        transpose_16(x);
#pragma GCC unroll 16
        for (std::size_t i = 0; i < kSide; ++i) _mm512_store_si512(tiles[part].pair[i], x[i]);
    }
}

// One step of depth 32 of a block of R x V tiles of results, R and V 1 or 2: tiles 0 to 3. Parts of row tile i lie at
// a + i * a_stride, those of column tile i at b + i * b_stride. Smaller products first.
template <int P, int R, int V>
GT_INLINE void block_step(const Tile* a, std::size_t a_stride, const Tile* b, std::size_t b_stride) {
    const auto left = [&](int part) GT_INLINE_LAMBDA {
        _tile_loadd(4, a + part, 64);
        if (R == 2) _tile_loadd(5, a + a_stride + part, 64);
    };
    const auto right = [&](int part) GT_INLINE_LAMBDA {
        _tile_loadd(6, b + part, 64);
        if (V == 2) _tile_loadd(7, b + b_stride + part, 64);
    };
    const auto multiply = [&]() GT_INLINE_LAMBDA {
        _tile_dpbf16ps(0, 4, 6);
        if (V == 2) _tile_dpbf16ps(1, 4, 7);
        if (R == 2) _tile_dpbf16ps(2, 5, 6);
        if (R == 2 && V == 2) _tile_dpbf16ps(3, 5, 7);
    };
    if (P == 3) {  // in an order that loads seven operands, not twelve
        right(2), left(0), multiply();
        right(1), multiply();
        left(1), multiply();
        right(0), multiply();
        left(2), multiply();
        left(0), multiply();
    } else {
        right(1), left(0), multiply();
        right(0), left(1), multiply();
        left(0), multiply();
    }
}

// c (16 R, 16 V) [+]= the products of `steps` steps; a and b advance by P tiles a step.
template <int P, int R, int V>
GT_INLINE void block_product(std::size_t steps, const Tile* a, std::size_t a_stride, const Tile* b,
                             std::size_t b_stride, float* c, std::size_t ldc, bool add) {
    memory_is_written();
    const std::size_t stride = ldc * sizeof(float);
    float *right = c + kSide, *below = c + kSide * ldc;
    if (add) {
        _tile_loadd(0, c, stride);
        if (V == 2) _tile_loadd(1, right, stride);
        if (R == 2) _tile_loadd(2, below, stride);
        if (R == 2 && V == 2) _tile_loadd(3, below + kSide, stride);
    } else {
        _tile_zero(0);
        if (V == 2) _tile_zero(1);
        if (R == 2) _tile_zero(2);
        if (R == 2 && V == 2) _tile_zero(3);
    }
    for (std::size_t s = 0; s < steps; ++s) block_step<P, R, V>(a + s * P, a_stride, b + s * P, b_stride);
    _tile_stored(0, c, stride);
    if (V == 2) _tile_stored(1, right, stride);
    if (R == 2) _tile_stored(2, below, stride);
    if (R == 2 && V == 2) _tile_stored(3, below + kSide, stride);
}

// The same for any number of tiles up to two each way.
template <int P>
GT_INLINE void block_product(std::size_t row_tiles, std::size_t column_tiles, std::size_t steps, const Tile* a,
                             std::size_t a_stride, const Tile* b, std::size_t b_stride, float* c, std::size_t ldc,
                             bool add) {
    if (row_tiles == 2 && column_tiles == 2)
        return block_product<P, 2, 2>(steps, a, a_stride, b, b_stride, c, ldc, add);
    if (row_tiles == 2) return block_product<P, 2, 1>(steps, a, a_stride, b, b_stride, c, ldc, add);
    if (column_tiles == 2) return block_product<P, 1, 2>(steps, a, a_stride, b, b_stride, c, ldc, add);
    block_product<P, 1, 1>(steps, a, a_stride, b, b_stride, c, ldc, add);
}

constexpr std::size_t tiles_of(std::size_t count) { return (count + kSide - 1) / kSide; }
constexpr std::size_t steps_of(std::size_t depth) { return (depth + kDepth - 1) / kDepth; }

// Operands are split for so many steps of the summed axis at a time.
constexpr std::size_t kSteps = 8, kBlockDepth = kSteps * kDepth;

GT_INLINE void copy_block(std::size_t rows, std::size_t columns, const float* from, std::size_t ld_from, float* to,
                          std::size_t ld_to) {
    for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t j = 0; j < columns; j += kSide) {
            const __mmask16 lanes = first_lanes(columns - j);
            _mm512_mask_storeu_ps(to + r * ld_to + j, lanes, _mm512_maskz_loadu_ps(lanes, from + r * ld_from + j));
        }
}

// One block of tiles of the result; where it ends within a tile, by way of a copy.
template <int P>
GT_INLINE void result_block(std::size_t rows, std::size_t columns, std::size_t steps, const Tile* a, const Tile* b,
                            std::size_t b_stride, float* c, std::size_t ldc, bool add) {
    alignas(64) float copy[2 * kSide * 2 * kSide];
    const bool whole = rows % kSide == 0 && columns % kSide == 0;
    if (!whole && add) copy_block(rows, columns, c, ldc, copy, 2 * kSide);
    block_product<P>(tiles_of(rows), tiles_of(columns), steps, a, kSteps * P, b, b_stride, whole ? c : copy,
                     whole ? ldc : 2 * kSide, add);
    if (!whole) copy_block(rows, columns, copy, 2 * kSide, c, ldc);
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
