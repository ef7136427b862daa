// Counter-based random numbers: Philox4x32 (Salmon et al. 2011) and normals by Box and Muller. Compiled with
// contraction off and built from +, -, *, / and sqrt alone, which IEEE rounds in one way: every ISA draws the same
// bits.
//
// Float64: ten rounds; 52 random bits a uniform. Element i lives in block i / 16: pairs 8 * block + j give its elements
// j (cosine) and 8 + j (sine), j < 8, so that every register up to 8 lanes of float64 writes whole vectors.
//
// Float32: seven rounds, the fewest that pass BigCrush by the paper; 32 random bits a uniform, so that normals reach
// 6.7 deviations. Counter c gives pairs 2 c and 2 c + 1; block i / 32 holds the cosines of 16 pairs, then their sines.
#include "kernels/kernel_table.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

typedef std::uint64_t VecU64 __attribute__((vector_size(kVectorBytes)));
typedef std::uint32_t VecU32 __attribute__((vector_size(kVectorBytes)));
constexpr std::size_t kPairs = kRandomBlock / 2;
constexpr std::size_t kFastPairs = kFastRandomBlock / 2;

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

GT_INLINE VecU64 exclusive_or(VecU64 a, VecU64 b, VecU64 c) {
#if defined(__AVX512F__)
    return (VecU64)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
#else
    return a ^ b ^ c;
#endif
}

struct Words {
    VecU64 first, second;  // two independent 64-bit words per lane
};

// Rounds on 32-bit words that stand in 64-bit lanes, above them what the next product ignores; key schedule and
// multipliers from the paper.
template <int kRounds>
GT_INLINE Words philox(VecU64 counter, std::uint32_t stream, std::uint32_t kind, std::uint64_t seed) {
    constexpr std::uint64_t kMask = 0xffffffffu;
    VecU64 c0 = counter, c1 = counter >> 32, c2 = VecU64{} + stream, c3 = VecU64{} + kind;
    std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < kRounds; ++round) {
        const VecU64 p0 = multiply_low_halves(c0, VecU64{} + 0xD2511F53u);
        const VecU64 p1 = multiply_low_halves(c2, VecU64{} + 0xCD9E8D57u);
        c0 = exclusive_or(p1 >> 32, c1, VecU64{} + key0);
        c1 = p1;
        c2 = exclusive_or(p0 >> 32, c3, VecU64{} + key1);
        c3 = p0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {(c0 & kMask) | (c1 << 32), (c2 & kMask) | (c3 << 32)};
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

GT_INLINE VecU64 counters_from(std::uint64_t first) {
    std::uint64_t lane[kLanes<double>];
    for (std::size_t i = 0; i < kLanes<double>; ++i) lane[i] = first + i;
    VecU64 counters;
    std::memcpy(&counters, lane, sizeof counters);
    return counters;
}

void normal(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block, std::size_t blocks,
            double* out) {
    for (std::size_t block = 0; block < blocks; ++block, out += kRandomBlock)
        for (std::size_t pair = 0; pair < kPairs; pair += kLanes<double>) {
            const Words words = philox<10>(counters_from((first_block + block) * kPairs + pair), stream, kind, seed);
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
            const Words words = philox<10>(counters_from((first_block + block) * kPairs + pair), stream, kind, seed);
            // The middle of each of the 2^52 cells: symmetric about 1/2, never 0 or 1.
            store(out + pair, one_to_two(words.first) - (1.0 - 0x1p-53));
            store(out + kPairs + pair, one_to_two(words.second) - (1.0 - 0x1p-53));
        }
}

// ---- float32 --------------------------------------------------------------------------------------------------------

// (word + 1/2) * 2^-32 to one rounding, times 2^32: in [1/2, 2^32], with 24 bits at every size.
GT_INLINE VecF32 scaled_unit(VecU32 word) {
    const VecF32 high = __builtin_convertvector((VecI32)(word >> 16), VecF32);
    const VecF32 low = __builtin_convertvector((VecI32)(word & 0xffffu), VecF32);
    return high * 65536.0f + (low + 0.5f);
}

// A word as a float32 in [-1, 1].
GT_INLINE VecF32 minus_one_to_one(VecU32 word) { return __builtin_convertvector((VecI32)word, VecF32) * 0x1p-31f; }

// -ln(u 2^-32) for u in [1/2, 2^32]: u = m 2^e with m in [1/sqrt 2, sqrt 2), ln m = 2 atanh((m - 1) / (m + 1)), whose
// series' first terms are fitted to 2^-30 of the whole.
GT_INLINE VecF32 minus_log_unit(VecF32 u) {
    const VecI32 raw = bits(u);
    const VecI32 exponent = (raw - 0x3f3504f3) >> 23;
    const VecF32 m = from_bits(raw - (exponent << 23));
    const VecF32 s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
    const VecF32 series = ((0.14935864f * s2 + 0.19988771f) * s2 + 0.33333388f) * s2;
    const VecF32 steps = __builtin_convertvector(32 - exponent, VecF32);
    const VecF32 twice = s + s;
    return steps * 0.69314718f - (twice + twice * series);
}

// sin and cos of x, |x| <= pi / 4, to 2^-28 and 2^-23.
GT_INLINE void sin_cos(VecF32 x, VecF32& sine, VecF32& cosine) {
    const VecF32 x2 = x * x;
    sine = x + x * x2 * ((-1.9517299e-4f * x2 + 8.3321781e-3f) * x2 - 0.16666655f);
    cosine = (1.0f - 0.5f * x2) + x2 * x2 * (-1.3652450e-3f * x2 + 4.1661279e-2f);
}

void fast_normal(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block,
                 std::size_t blocks, float factor, float* out) {
    VecU64 counter = counters_from(first_block * (kFastPairs / 2));
    for (std::size_t block = 0; block < blocks; ++block, out += kFastRandomBlock)
        for (std::size_t pair = 0; pair < kFastPairs; pair += kLanes<float>, counter += kLanes<double>) {
            const Words words = philox<7>(counter, stream, kind, seed);
            const VecF32 minus_log = minus_log_unit(scaled_unit((VecU32)words.first));
            const VecF32 radius = sqrt(minus_log + minus_log) * factor;
            // The angle: an eighth of a turn to either side of an axis, and which of the four axes.
            const VecU32 word = (VecU32)words.second;
            VecF32 sine, cosine;
            sin_cos(minus_one_to_one(word << 2) * 0.78539816f, sine, cosine);
            cosine = from_bits(bits(cosine) ^ (VecI32)(word & 0x80000000u));
            const VecI32 upright = (VecI32)(word & 0x40000000u) != 0;
            store(out + pair, radius * select(upright, sine, cosine));
            store(out + kFastPairs + pair, radius * select(upright, cosine, sine));
        }
}

void fast_uniform(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block,
                  std::size_t blocks, float factor, float* out) {
    VecU64 counter = counters_from(first_block * (kFastPairs / 2));
    for (std::size_t block = 0; block < blocks; ++block, out += kFastRandomBlock)
        for (std::size_t pair = 0; pair < kFastPairs; pair += kLanes<float>, counter += kLanes<double>) {
            const Words words = philox<7>(counter, stream, kind, seed);
            store(out + pair, minus_one_to_one((VecU32)words.first) * factor);
            store(out + kFastPairs + pair, minus_one_to_one((VecU32)words.second) * factor);
        }
}

}  // namespace

extern const RandomKernels random;
const RandomKernels random{
    .normal = normal, .uniform = uniform, .fast_normal = fast_normal, .fast_uniform = fast_uniform};

}  // namespace GT_ISA
}  // namespace gt
