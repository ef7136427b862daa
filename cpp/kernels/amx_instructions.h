// The instructions that products on the matrix unit are written in (amx_tiles.h). Where the compiler may use them they
// are the processor's; else, for tests, what follows does the same by the plain rules of the language: without
// -mamx-tile the tiles, without -mavx512f the vectors too. Names and meaning are those of Intel's manual (SDM volume 2,
// TDPBF16PS and others); what it forbids ends the process, as the processor would.
#pragma once

#include "simd/vec.h"

#if !defined(__AVX512F__)
// Macros in some compilers' headers.
#undef _mm512_cmpge_epu32_mask
#undef _mm512_shuffle_i32x4
#endif
#if !defined(__AMX_TILE__)
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#endif

// Inlined wherever they are used, these would be compiled for minutes.
#define GT_CALLED __attribute__((noinline)) inline

namespace gt {
namespace GT_ISA {
namespace {

#if !defined(__AVX512F__)

typedef std::uint32_t Words __attribute__((vector_size(64), may_alias));
typedef std::uint64_t LongWords __attribute__((vector_size(64), may_alias));

GT_INLINE __m512i _mm512_castps_si512(__m512 x) { return (__m512i)x; }
GT_INLINE __m512 _mm512_castsi512_ps(__m512i x) { return (__m512)x; }
GT_INLINE __m512i _mm512_set1_epi32(int x) { return (__m512i)(Words{} + static_cast<std::uint32_t>(x)); }
GT_INLINE __m512 _mm512_set1_ps(float x) { return x - __m512{}; }
GT_INLINE __m512i _mm512_setzero_si512() { return __m512i{}; }
GT_INLINE __m512 _mm512_add_ps(__m512 x, __m512 y) { return x + y; }
GT_INLINE __m512 _mm512_sub_ps(__m512 x, __m512 y) { return x - y; }
GT_INLINE __m512 _mm512_mul_ps(__m512 x, __m512 y) { return x * y; }
GT_INLINE __m512i _mm512_add_epi32(__m512i x, __m512i y) { return (__m512i)((Words)x + (Words)y); }
GT_INLINE __m512i _mm512_and_si512(__m512i x, __m512i y) { return x & y; }
GT_INLINE __m512i _mm512_or_si512(__m512i x, __m512i y) { return x | y; }
GT_INLINE __m512i _mm512_srli_epi32(__m512i x, unsigned count) { return (__m512i)((Words)x >> count); }
GT_INLINE __m512i _mm512_max_epu32(__m512i x, __m512i y) {
    const Words a = (Words)x, b = (Words)y;
    return (__m512i)(a > b ? a : b);
}
GT_INLINE __mmask16 _mm512_cmpge_epu32_mask(__m512i x, __m512i y) {
    const auto larger = (Words)x >= (Words)y;
    unsigned mask = 0;
    for (unsigned i = 0; i < 16; ++i) mask |= larger[i] ? 1u << i : 0;
    return static_cast<__mmask16>(mask);
}

GT_INLINE __m512i _mm512_loadu_si512(const void* from) {
    __m512i x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
GT_INLINE __m512i _mm512_load_si512(const void* from) { return _mm512_loadu_si512(from); }
GT_INLINE void _mm512_store_si512(void* to, __m512i x) { std::memcpy(to, &x, sizeof x); }
GT_INLINE __m512 _mm512_loadu_ps(const void* from) { return (__m512)_mm512_loadu_si512(from); }
GT_INLINE void _mm512_storeu_ps(void* to, __m512 x) { std::memcpy(to, &x, sizeof x); }
// What the mask leaves out is neither read nor written.
GT_INLINE __m512i _mm512_maskz_loadu_epi32(__mmask16 mask, const void* from) {
    std::uint32_t lanes[16] = {};
    for (unsigned i = 0; i < 16; ++i)
        if (mask >> i & 1) std::memcpy(lanes + i, static_cast<const std::uint32_t*>(from) + i, sizeof lanes[i]);
    return _mm512_loadu_si512(lanes);
}
GT_INLINE __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* from) {
    return (__m512)_mm512_maskz_loadu_epi32(mask, from);
}
GT_INLINE void _mm512_mask_storeu_ps(void* to, __mmask16 mask, __m512 x) {
    for (unsigned i = 0; i < 16; ++i)
        if (mask >> i & 1)
            std::memcpy(static_cast<float*>(to) + i, reinterpret_cast<const float*>(&x) + i, sizeof x[i]);
}
GT_INLINE __m512i _mm512_maskz_set1_epi32(__mmask16 mask, int x) {
    Words lanes{};
    for (unsigned i = 0; i < 16; ++i) lanes[i] = mask >> i & 1 ? static_cast<std::uint32_t>(x) : 0;
    return (__m512i)lanes;
}

// Lanes stay in their quarter of 128 bits.
GT_INLINE __m512i _mm512_unpacklo_epi32(__m512i x, __m512i y) {
    return (__m512i)__builtin_shufflevector((Words)x, (Words)y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13,
                                            29);
}
GT_INLINE __m512i _mm512_unpackhi_epi32(__m512i x, __m512i y) {
    return (__m512i)__builtin_shufflevector((Words)x, (Words)y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15,
                                            31);
}
GT_INLINE __m512i _mm512_unpacklo_epi64(__m512i x, __m512i y) {
    return (__m512i)__builtin_shufflevector((LongWords)x, (LongWords)y, 0, 8, 2, 10, 4, 12, 6, 14);
}
GT_INLINE __m512i _mm512_unpackhi_epi64(__m512i x, __m512i y) {
    return (__m512i)__builtin_shufflevector((LongWords)x, (LongWords)y, 1, 9, 3, 11, 5, 13, 7, 15);
}
// Two quarters of x, then two of y, chosen by two bits each.
GT_INLINE __m512i _mm512_shuffle_i32x4(__m512i x, __m512i y, unsigned choice) {
    const LongWords a = (LongWords)x, b = (LongWords)y;
    LongWords lanes{};
    for (unsigned i = 0; i < 8; ++i) {
        const unsigned at = 2 * (choice >> (i / 2 * 2) & 3) + i % 2;
        lanes[i] = i < 4 ? a[at] : b[at];  // a subscript of the chosen vector is what GCC 12's sanitizer gets wrong
    }
    return (__m512i)lanes;
}

#endif
#if !defined(__AMX_TILE__)

struct TileRegister {
    std::uint32_t pair[16][16];
    std::size_t rows, bytes;  // of a row
    bool tame;                // see is_tame
};
struct TileState {
    bool configured;
    TileRegister tile[8];
};
thread_local TileState tile_state = {};

GT_INLINE TileRegister& tile_register(int index) {
    if (!tile_state.configured) __builtin_trap();
    return tile_state.tile[index];
}

GT_CALLED void _tile_release() { tile_state.configured = false; }

GT_CALLED void _tile_loadconfig(const void* config) {
    const auto* bytes = static_cast<const std::uint8_t*>(config);
    if (bytes[0] != 1) __builtin_trap();  // the only palette there is
    std::memset(&tile_state, 0, sizeof tile_state);
    tile_state.configured = true;
    for (int i = 0; i < 8; ++i) {
        TileRegister& tile = tile_state.tile[i];
        tile.rows = bytes[48 + i];
        tile.bytes = bytes[16 + 2 * i];
        if (tile.rows > 16 || tile.bytes > 64 || bytes[17 + 2 * i]) __builtin_trap();
    }
}

// Whether every bfloat16 is zero or within 2^+-50: then their products are multiples of 2^-114 and no sum of them is
// subnormal or overflows, so that float32 alone gives the very bits.
GT_CALLED bool is_tame(const TileRegister& tile) {
    constexpr std::uint32_t kLow = (127 - 50) << 7, kHigh = (127 + 50) << 7;
    std::uint32_t wild = 0;
    for (std::size_t r = 0; r < 16; ++r)
        for (std::size_t i = 0; i < 16; ++i) {
            const std::uint32_t first = tile.pair[r][i] & 0x7fff, second = tile.pair[r][i] >> 16 & 0x7fff;
            wild |= (first != 0) & (first - kLow > kHigh - kLow);
            wild |= (second != 0) & (second - kLow > kHigh - kLow);
        }
    return wild == 0;
}

GT_CALLED void _tile_loadd(int to, const void* from, std::size_t stride) {
    TileRegister& tile = tile_register(to);
    for (std::size_t r = 0; r < tile.rows; ++r)
        std::memcpy(tile.pair[r], static_cast<const char*>(from) + r * stride, tile.bytes);
    tile.tame = is_tame(tile);
}

GT_CALLED void _tile_stored(int from, void* to, std::size_t stride) {
    const TileRegister& tile = tile_register(from);
    for (std::size_t r = 0; r < tile.rows; ++r)
        std::memcpy(static_cast<char*>(to) + r * stride, tile.pair[r], tile.bytes);
}

GT_CALLED void _tile_zero(int to) {
    TileRegister& tile = tile_register(to);
    std::memset(tile.pair, 0, sizeof tile.pair);
}

// Subnormals are zeros, before and after an operation. A product of two bfloat16 has 16 bits and is exact in float64; a
// sum of it and a float32 fits too, or the smaller is so small that it decides no rounding: float64 rounded to float32
// is the fused result.
GT_INLINE float flushed(double x) {
    constexpr double kLeast = 0x1.ffffffp-127;  // what rounds to the smallest normal number, and more, stays
    return static_cast<float>(__builtin_fabs(x) < kLeast ? __builtin_copysign(0.0, x) : x);
}
GT_INLINE float bfloat16(std::uint32_t high_bits) {
    float x;
    std::memcpy(&x, &high_bits, sizeof x);
    return flushed(static_cast<double>(x));
}

// Pair by pair, the first elements in one chain, the second in another; then both into the result.
template <bool kTame>
GT_CALLED void dot_products(TileRegister& sums, const TileRegister& a, const TileRegister& b) {
    float first_b[16][16], second_b[16][16];
    for (std::size_t k = 0; k < b.rows; ++k)
        for (std::size_t n = 0; n < 16; ++n) {
            first_b[k][n] = bfloat16(b.pair[k][n] << 16);
            second_b[k][n] = bfloat16(b.pair[k][n] & 0xffff0000u);
        }
    for (std::size_t m = 0; m < a.rows; ++m) {
        float first[16] = {}, second[16] = {};
        for (std::size_t k = 0; k < b.rows; ++k) {
            const float first_a = bfloat16(a.pair[m][k] << 16), second_a = bfloat16(a.pair[m][k] & 0xffff0000u);
            for (std::size_t n = 0; n < 16; ++n) {
                if (kTame) {
                    first[n] = first_a * first_b[k][n] + first[n];
                    second[n] = second_a * second_b[k][n] + second[n];
                } else {
                    first[n] = flushed(double(first_a) * double(first_b[k][n]) + double(first[n]));
                    second[n] = flushed(double(second_a) * double(second_b[k][n]) + double(second[n]));
                }
            }
        }
        float total[16];
        std::memcpy(total, sums.pair[m], sizeof total);
        for (std::size_t n = 0; n < 16; ++n)
            total[n] =
                flushed(double(flushed(double(total[n]))) + double(flushed(double(first[n]) + double(second[n]))));
        std::memcpy(sums.pair[m], total, sums.bytes);
    }
}

GT_CALLED void _tile_dpbf16ps(int to, int left, int right) {
    TileRegister& sums = tile_register(to);
    const TileRegister &a = tile_register(left), &b = tile_register(right);
    if (sums.rows != a.rows || sums.bytes != b.bytes || a.bytes != 4 * b.rows) __builtin_trap();
    if (to == left || to == right || left == right) __builtin_trap();
    if (a.tame && b.tame)
        dot_products<true>(sums, a, b);
    else
        dot_products<false>(sums, a, b);
}

#endif

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
