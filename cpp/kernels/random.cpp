// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011) and normals by Box and Muller. Compiled with
// contraction off and built from +, -, *, / and sqrt alone, which IEEE rounds in one way: every ISA draws the same
// bits.
//
// Element i lives in block i / 16: pairs 8 * block + j give its elements j (cosine) and 8 + j (sine), j < 8, so that
// every register up to 8 lanes of float64 writes whole vectors.
#include "kernels/kernel_table.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

typedef std::uint64_t VecU64 __attribute__((vector_size(kVectorBytes)));
constexpr std::size_t kPairs = kRandomBlock / 2;

// 32 x 32 -> 64 bits; the upper halves of the lanes are ignored.
GT_INLINE VecU64 multiply_low_halves(VecU64 a, VecU64 b) {
#if defined(__AVX512F__)
    return (VecU64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (VecU64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (VecU64)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

struct Words {
    VecU64 first, second;  // two independent 64-bit words per lane
};

// Ten rounds on 32-bit words that stand in 64-bit lanes; key schedule and multipliers from the paper.
GT_INLINE Words philox(VecU64 counter, std::uint32_t stream, std::uint32_t kind, std::uint64_t seed) {
    constexpr std::uint64_t kMask = 0xffffffffu;
    VecU64 c0 = counter & kMask, c1 = counter >> 32, c2 = VecU64{} + stream, c3 = VecU64{} + kind;
    std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const VecU64 p0 = multiply_low_halves(c0, VecU64{} + 0xD2511F53u);
        const VecU64 p1 = multiply_low_halves(c2, VecU64{} + 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ (VecU64{} + key0);
        c1 = p1 & kMask;
        c2 = (p0 >> 32) ^ c3 ^ (VecU64{} + key1);
        c3 = p0 & kMask;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {c0 | (c1 << 32), c2 | (c3 << 32)};
}

// 52 random bits as a float64 in [1, 2).
GT_INLINE VecF64 one_to_two(VecU64 word) { return (VecF64)((word >> 12) | 0x3ff0000000000000u); }

// ln(u) for u in (0, 1]: u = m 2^e with m in [1/sqrt 2, sqrt 2), ln m = 2 atanh((m - 1) / (m + 1)) by its series.
GT_INLINE VecF64 log_unit(VecF64 u) {
    const VecI64 raw = bits(u);
    VecI64 exponent = (raw >> 52) - 1023;
    VecF64 m = from_bits((raw & 0x000fffffffffffff) | 0x3ff0000000000000);
    const VecI64 high = m > 1.4142135623730951;
    m = select(high, m * 0.5, m);
    exponent -= high;  // a set mask is -1
    const VecF64 s = (m - 1.0) / (m + 1.0), s2 = s * s;
    VecF64 series = broadcast(1.0 / 21);
    for (int odd = 19; odd >= 1; odd -= 2) series = series * s2 + 1.0 / odd;
    // The exponent as float64 without a conversion instruction: 2^52 + 2^51 + e, read back.
    const VecF64 e = from_bits(exponent + 0x4338000000000000) - 6755399441055744.0;
    return e * 0.6931471805599453 + 2.0 * s * series;
}

// sin and cos of x, |x| <= pi / 4, by their series up to x^17 and x^16: the next term is under 2^-57.
GT_INLINE void sin_cos(VecF64 x, VecF64& sine, VecF64& cosine) {
    constexpr double kCosine[] = {1.0,
                                  -1.0 / 2,
                                  1.0 / 24,
                                  -1.0 / 720,
                                  1.0 / 40320,
                                  -1.0 / 3628800,
                                  1.0 / 479001600,
                                  -1.0 / 87178291200,
                                  1.0 / 20922789888000};
    const VecF64 x2 = x * x;
    sine = cosine = VecF64{};
    for (int i = 8; i >= 0; --i) {
        cosine = cosine * x2 + kCosine[i];
        sine = sine * x2 + kCosine[i] / (2 * i + 1);  // (2i)! * (2i + 1) = (2i + 1)!
    }
    sine *= x;
}

GT_INLINE VecU64 pair_counters(std::uint64_t block, std::size_t first_pair) {
    std::uint64_t lane[kLanes<double>];
    for (std::size_t i = 0; i < kLanes<double>; ++i) lane[i] = block * kPairs + first_pair + i;
    VecU64 counters;
    std::memcpy(&counters, lane, sizeof counters);
    return counters;
}

void normal(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block, std::size_t blocks,
            double* out) {
    for (std::size_t block = 0; block < blocks; ++block, out += kRandomBlock)
        for (std::size_t pair = 0; pair < kPairs; pair += kLanes<double>) {
            const Words words = philox(pair_counters(first_block + block, pair), stream, kind, seed);
            const VecF64 radius = sqrt(-2.0 * log_unit(2.0 - one_to_two(words.first)));
            // The angle is quadrant * pi/2 + x with x in [-pi/4, pi/4): two bits and fifty, no reduction to round.
            VecF64 sine, cosine;
            sin_cos((one_to_two(words.second << 2) - 1.5) * 1.5707963267948966, sine, cosine);
            const VecI64 quadrant = (VecI64)(words.second >> 62);
            const VecI64 swapped = (quadrant & 1) != 0;
            const VecF64 x = select(swapped, -sine, cosine), y = select(swapped, cosine, sine);
            const VecF64 signed_radius = select((quadrant & 2) != 0, -radius, radius);
            store(out + pair, signed_radius * x);
            store(out + kPairs + pair, signed_radius * y);
        }
}

void uniform(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block,
             std::size_t blocks, double* out) {
    for (std::size_t block = 0; block < blocks; ++block, out += kRandomBlock)
        for (std::size_t pair = 0; pair < kPairs; pair += kLanes<double>) {
            const Words words = philox(pair_counters(first_block + block, pair), stream, kind, seed);
            // The middle of each of the 2^52 cells: symmetric about 1/2, never 0 or 1.
            store(out + pair, one_to_two(words.first) - (1.0 - 0x1p-53));
            store(out + kPairs + pair, one_to_two(words.second) - (1.0 - 0x1p-53));
        }
}

}  // namespace

extern const RandomKernels random;
const RandomKernels random{.normal = normal, .uniform = uniform};

}  // namespace GT_ISA
}  // namespace gt
