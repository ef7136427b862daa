// Vec<T>: one native register of T, on compiler vector extensions. Compiled once per ISA, inside its namespace.
//
// Arithmetic, comparison (an integer vector of 0 / -1) and shifts are the compiler's own operators. What stands here is
// what they cannot say: memory, lane moves between widths, and the operations where the generic code would be slow.
// `a * b + c` becomes one FMA where the ISA has it (-ffp-contract=fast); fused() is for the places that rely on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define GT_INLINE inline __attribute__((always_inline))
#define GT_INLINE_LAMBDA __attribute__((always_inline))  // after a lambda's parameters

namespace gt {
namespace GT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr std::size_t kVectorBytes = 32;
#else
constexpr std::size_t kVectorBytes = 16;
#endif

typedef float VecF32 __attribute__((vector_size(kVectorBytes)));
typedef double VecF64 __attribute__((vector_size(kVectorBytes)));
typedef std::int32_t VecI32 __attribute__((vector_size(kVectorBytes)));
typedef std::int64_t VecI64 __attribute__((vector_size(kVectorBytes)));

// T -> its vector, its mask (also its bits as signed integers), and the facts of its format.
template <class T>
struct Lane;
template <>
struct Lane<float> {
    using Vec = VecF32;
    using Int = VecI32;
    using IntScalar = std::int32_t;
    static constexpr int mantissa_bits = 23;
    static constexpr int exponent_bias = 127;
};
template <>
struct Lane<double> {
    using Vec = VecF64;
    using Int = VecI64;
    using IntScalar = std::int64_t;
    static constexpr int mantissa_bits = 52;
    static constexpr int exponent_bias = 1023;
};

template <class T>
using Vec = typename Lane<T>::Vec;
template <class T>
using Mask = typename Lane<T>::Int;
template <class T>
constexpr std::size_t kLanes = kVectorBytes / sizeof(T);

// ---- memory (any alignment) and constants -------------------------------------------------------------------------

template <class T>
GT_INLINE Vec<T> load(const T* from) {
    Vec<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

GT_INLINE void store(float* to, VecF32 v) { std::memcpy(to, &v, sizeof v); }
GT_INLINE void store(double* to, VecF64 v) { std::memcpy(to, &v, sizeof v); }

template <class T>
GT_INLINE Vec<T> broadcast(T value) {
    return value - Vec<T>{};  // x - 0 keeps NaN, infinities and the sign of zero
}

// ---- bits ---------------------------------------------------------------------------------------------------------

GT_INLINE VecI32 bits(VecF32 v) { return (VecI32)v; }
GT_INLINE VecI64 bits(VecF64 v) { return (VecI64)v; }
GT_INLINE VecF32 from_bits(VecI32 v) { return (VecF32)v; }
GT_INLINE VecF64 from_bits(VecI64 v) { return (VecF64)v; }

GT_INLINE VecF32 select(VecI32 mask, VecF32 yes, VecF32 no) { return mask ? yes : no; }
GT_INLINE VecF64 select(VecI64 mask, VecF64 yes, VecF64 no) { return mask ? yes : no; }

template <class V>
GT_INLINE V keep_if(decltype(bits(V{})) mask, V v) {  // v where the mask is set, +0 elsewhere
    return from_bits(mask & bits(v));
}

GT_INLINE VecF32 abs(VecF32 v) { return from_bits(bits(v) & 0x7fffffff); }
GT_INLINE VecF64 abs(VecF64 v) { return from_bits(bits(v) & 0x7fffffffffffffff); }

template <class V>
GT_INLINE V copy_sign(V magnitude, V sign) {
    const auto sign_bit = bits(-V{});
    return from_bits((bits(magnitude) & ~sign_bit) | (bits(sign) & sign_bit));
}

// ---- min, max, sqrt, any: on x86 the second operand comes back when either is NaN, so max(limit, x) keeps a NaN x
// --------------

#if defined(__AVX512F__)
GT_INLINE VecF32 max(VecF32 a, VecF32 b) { return (VecF32)_mm512_max_ps((__m512)a, (__m512)b); }
GT_INLINE VecF64 max(VecF64 a, VecF64 b) { return (VecF64)_mm512_max_pd((__m512d)a, (__m512d)b); }
GT_INLINE VecF32 min(VecF32 a, VecF32 b) { return (VecF32)_mm512_min_ps((__m512)a, (__m512)b); }
GT_INLINE VecF64 min(VecF64 a, VecF64 b) { return (VecF64)_mm512_min_pd((__m512d)a, (__m512d)b); }
GT_INLINE VecF32 sqrt(VecF32 v) { return (VecF32)_mm512_sqrt_ps((__m512)v); }
GT_INLINE VecF64 sqrt(VecF64 v) { return (VecF64)_mm512_sqrt_pd((__m512d)v); }
template <class M>
GT_INLINE bool any(M mask) {  // a set lane is -1; a template because Clang names mask types its own way
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
}
#elif defined(__AVX2__)
GT_INLINE VecF32 max(VecF32 a, VecF32 b) { return (VecF32)_mm256_max_ps((__m256)a, (__m256)b); }
GT_INLINE VecF64 max(VecF64 a, VecF64 b) { return (VecF64)_mm256_max_pd((__m256d)a, (__m256d)b); }
GT_INLINE VecF32 min(VecF32 a, VecF32 b) { return (VecF32)_mm256_min_ps((__m256)a, (__m256)b); }
GT_INLINE VecF64 min(VecF64 a, VecF64 b) { return (VecF64)_mm256_min_pd((__m256d)a, (__m256d)b); }
GT_INLINE VecF32 sqrt(VecF32 v) { return (VecF32)_mm256_sqrt_ps((__m256)v); }
GT_INLINE VecF64 sqrt(VecF64 v) { return (VecF64)_mm256_sqrt_pd((__m256d)v); }
template <class M>
GT_INLINE bool any(M mask) {  // a set lane is -1; a template because Clang names mask types its own way
    return _mm256_movemask_epi8((__m256i)mask) != 0;
}
#elif defined(__SSE2__)
GT_INLINE VecF32 max(VecF32 a, VecF32 b) { return (VecF32)_mm_max_ps((__m128)a, (__m128)b); }
GT_INLINE VecF64 max(VecF64 a, VecF64 b) { return (VecF64)_mm_max_pd((__m128d)a, (__m128d)b); }
GT_INLINE VecF32 min(VecF32 a, VecF32 b) { return (VecF32)_mm_min_ps((__m128)a, (__m128)b); }
GT_INLINE VecF64 min(VecF64 a, VecF64 b) { return (VecF64)_mm_min_pd((__m128d)a, (__m128d)b); }
GT_INLINE VecF32 sqrt(VecF32 v) { return (VecF32)_mm_sqrt_ps((__m128)v); }
GT_INLINE VecF64 sqrt(VecF64 v) { return (VecF64)_mm_sqrt_pd((__m128d)v); }
template <class M>
GT_INLINE bool any(M mask) {  // a set lane is -1; a template because Clang names mask types its own way
    return _mm_movemask_epi8((__m128i)mask) != 0;
}
#elif defined(__aarch64__)
GT_INLINE VecF32 max(VecF32 a, VecF32 b) { return (VecF32)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
GT_INLINE VecF64 max(VecF64 a, VecF64 b) { return (VecF64)vmaxq_f64((float64x2_t)a, (float64x2_t)b); }
GT_INLINE VecF32 min(VecF32 a, VecF32 b) { return (VecF32)vminq_f32((float32x4_t)a, (float32x4_t)b); }
GT_INLINE VecF64 min(VecF64 a, VecF64 b) { return (VecF64)vminq_f64((float64x2_t)a, (float64x2_t)b); }
GT_INLINE VecF32 sqrt(VecF32 v) { return (VecF32)vsqrtq_f32((float32x4_t)v); }
GT_INLINE VecF64 sqrt(VecF64 v) { return (VecF64)vsqrtq_f64((float64x2_t)v); }
template <class M>
GT_INLINE bool any(M mask) {  // a set lane is -1; a template because Clang names mask types its own way
    return vmaxvq_u32((uint32x4_t)mask) != 0;
}
#else
#error "gradtrace: this processor has no vector mapping in simd/vec.h"
#endif

// ---- products without rounding loss ---------------------------------------------------------------------------------

#if defined(__AVX512F__)
GT_INLINE VecF32 fused(VecF32 a, VecF32 b, VecF32 c) {
    return (VecF32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
GT_INLINE VecF64 fused(VecF64 a, VecF64 b, VecF64 c) {
    return (VecF64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif defined(__FMA__)
GT_INLINE VecF32 fused(VecF32 a, VecF32 b, VecF32 c) {
    return (VecF32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
GT_INLINE VecF64 fused(VecF64 a, VecF64 b, VecF64 c) {
    return (VecF64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#elif defined(__aarch64__)
GT_INLINE VecF32 fused(VecF32 a, VecF32 b, VecF32 c) {
    return (VecF32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
GT_INLINE VecF64 fused(VecF64 a, VecF64 b, VecF64 c) {
    return (VecF64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#endif

// The rounding error of a * b: a * b == product + product_error(a, b, product), exactly while nothing under- or
// overflows (Dekker 1971; the split constant is 2^s + 1 with s half the significand, rounded up).
template <class V>
GT_INLINE V product_error(V a, V b, V product) {
#if defined(__AVX512F__) || defined(__FMA__) || defined(__aarch64__)
    return fused(a, b, -product);
#else
    const auto split = (decltype(a[0] + 0))(sizeof(a[0]) == 4 ? 4097.0 : 134217729.0);
    const V a_wide = a * split, b_wide = b * split;
    const V a_high = a_wide - (a_wide - a), b_high = b_wide - (b_wide - b);
    const V a_low = a - a_high, b_low = b - b_high;
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}

// ---- float32 to float64: the lower and the upper half of the lanes -------------------------------------------------

GT_INLINE VecF64 widen_low(VecF64 v) { return v; }
#if defined(__AVX512F__)
GT_INLINE VecF64 widen_low(VecF32 v) { return (VecF64)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v)); }
GT_INLINE VecF64 widen_high(VecF32 v) { return (VecF64)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1)); }
#elif defined(__AVX2__)
GT_INLINE VecF64 widen_low(VecF32 v) { return (VecF64)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v)); }
GT_INLINE VecF64 widen_high(VecF32 v) { return (VecF64)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1)); }
#elif defined(__SSE2__)
GT_INLINE VecF64 widen_low(VecF32 v) { return (VecF64)_mm_cvtps_pd((__m128)v); }
GT_INLINE VecF64 widen_high(VecF32 v) { return (VecF64)_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v)); }
#else
GT_INLINE VecF64 widen_low(VecF32 v) { return VecF64{v[0], v[1]}; }
GT_INLINE VecF64 widen_high(VecF32 v) { return VecF64{v[2], v[3]}; }
#endif

// For sums over lanes, where it does not matter which lane holds what.
GT_INLINE VecF64 widened(VecF64 v) { return v; }
GT_INLINE VecF64 widened(VecF32 v) { return widen_low(v) + widen_high(v); }

// sums[i] += v[i], kept in float64 whatever T is.
GT_INLINE void accumulate(double* sums, VecF64 v) { store(sums, load(sums) + v); }
GT_INLINE void accumulate(double* sums, VecF32 v) {
    store(sums, load(sums) + widen_low(v));
    store(sums + kLanes<double>, load(sums + kLanes<double>) + widen_high(v));
}

// Sum over the lanes, always in the same order: halves onto each other.
GT_INLINE double reduce_add(VecF64 v) {
#if defined(__AVX512F__)
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
#elif defined(__AVX2__)
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2);
#else
    v += __builtin_shufflevector(v, v, 1, 0);
#endif
    return v[0];
}
GT_INLINE double reduce_add(VecF32 v) { return reduce_add(widened(v)); }

// The largest lane of magnitudes; NaN may be missed.
template <class T>
GT_INLINE T largest_lane(Vec<T> v) {
    T lane[kLanes<T>];
    store(lane, v);
    T top = 0;
    for (std::size_t i = 0; i < kLanes<T>; ++i) top = lane[i] > top ? lane[i] : top;
    return top;
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
