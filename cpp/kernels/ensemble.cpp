// One network of an ensemble: few samples, weights that were drawn a moment ago. Tiles are samples x units, so that
// vectors run over units whatever the number of samples, and a product broadcasts the samples' entries.
#include "kernels/activation.h"
#include "kernels/kernel_table.h"
#include "simd/map.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

constexpr std::size_t kGroup = 16;  // vectors summed in T before the sum moves to float64

// ---- transposition: 4 x 4 blocks within the 128-bit lanes ---------------------------------------------------------

template <class T>
GT_INLINE void transpose_block(std::size_t rows, std::size_t columns, const T* from, std::size_t ld_from, T* to,
                               std::size_t ld_to) {
    for (std::size_t c = 0; c < columns; ++c)
        for (std::size_t r = 0; r < rows; ++r) to[c * ld_to + r] = from[r * ld_from + c];
}

#if defined(__SSE2__)
#if defined(__AVX512F__)
GT_INLINE __m512 four_of_rows(const float* from, std::size_t ld) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(from));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(from + 4 * ld), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(from + 8 * ld), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(from + 12 * ld), 3);
}
#define GT_WIDE(NAME) _mm512_##NAME
#define GT_WIDE_DOUBLE __m512d
#define GT_WIDE_FLOAT __m512
#elif defined(__AVX2__)
GT_INLINE __m256 four_of_rows(const float* from, std::size_t ld) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from + 4 * ld), 1);
}
#define GT_WIDE(NAME) _mm256_##NAME
#define GT_WIDE_DOUBLE __m256d
#define GT_WIDE_FLOAT __m256
#else
GT_INLINE __m128 four_of_rows(const float* from, std::size_t) { return _mm_loadu_ps(from); }
#define GT_WIDE(NAME) _mm_##NAME
#define GT_WIDE_DOUBLE __m128d
#define GT_WIDE_FLOAT __m128
#endif
// Four columns of as many rows as a register has lanes: lane block i holds rows 4 i to 4 i + 3.
GT_INLINE void transpose_four(const float* from, std::size_t ld_from, float* to, std::size_t ld_to) {
    const GT_WIDE_FLOAT r0 = four_of_rows(from, ld_from), r1 = four_of_rows(from + ld_from, ld_from),
                        r2 = four_of_rows(from + 2 * ld_from, ld_from), r3 = four_of_rows(from + 3 * ld_from, ld_from);
    const auto low01 = (GT_WIDE_DOUBLE)GT_WIDE(unpacklo_ps)(r0, r1),
               high01 = (GT_WIDE_DOUBLE)GT_WIDE(unpackhi_ps)(r0, r1);
    const auto low23 = (GT_WIDE_DOUBLE)GT_WIDE(unpacklo_ps)(r2, r3),
               high23 = (GT_WIDE_DOUBLE)GT_WIDE(unpackhi_ps)(r2, r3);
    store(to, (VecF32)GT_WIDE(unpacklo_pd)(low01, low23));
    store(to + ld_to, (VecF32)GT_WIDE(unpackhi_pd)(low01, low23));
    store(to + 2 * ld_to, (VecF32)GT_WIDE(unpacklo_pd)(high01, high23));
    store(to + 3 * ld_to, (VecF32)GT_WIDE(unpackhi_pd)(high01, high23));
}
GT_INLINE void transpose_block(std::size_t rows, std::size_t columns, const float* from, std::size_t ld_from, float* to,
                               std::size_t ld_to) {
    std::size_t c = 0;
    if (rows == kLanes<float>)
        for (; c + 4 <= columns; c += 4) transpose_four(from + c, ld_from, to + c * ld_to, ld_to);
    transpose_block<float>(rows, columns - c, from + c, ld_from, to + c * ld_to, ld_to);
}
#undef GT_WIDE
#undef GT_WIDE_DOUBLE
#undef GT_WIDE_FLOAT
#endif

template <class T>
void transpose(std::size_t rows, std::size_t columns, const T* from, std::size_t ld_from, T* to, std::size_t ld_to) {
    for (std::size_t row = 0; row < rows; row += kLanes<T>)
        transpose_block(rows - row < kLanes<T> ? rows - row : kLanes<T>, columns, from + row * ld_from, ld_from,
                        to + row, ld_to);
    if (rows == ld_to) return;
    for (std::size_t c = 0; c < columns; ++c)
        for (std::size_t r = rows; r < ld_to; ++r) to[c * ld_to + r] = 0;
}

// ---- product --------------------------------------------------------------------------------------------------------

template <class T>
struct RowsProduct {
    std::size_t k;
    const T* x;
    std::size_t ldx;
    const T* p;
    std::size_t ldp;
    T* y;
    std::size_t ldy;
};

// Rows that are far apart are strangers to the hardware's prefetcher.
constexpr std::size_t kAhead = 12;

template <class T, std::size_t R, std::size_t V, bool kFar>
GT_INLINE void product_tile(const RowsProduct<T>& t, std::size_t row, std::size_t column) {
    Vec<T> sum[R][V] = {};
    const T *x = t.x + row * t.ldx, *p = t.p + column;
    for (std::size_t k = 0; k < t.k; ++k, p += t.ldp) {
        if (kFar)
#pragma GCC unroll 16
            for (std::size_t v = 0; v < V * sizeof(Vec<T>); v += 64)
                __builtin_prefetch((const char*)(p + kAhead * t.ldp) + v);
        Vec<T> right[V];
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) right[v] = load(p + v * kLanes<T>);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) {
            const Vec<T> left = broadcast(x[r * t.ldx + k]);
#pragma GCC unroll 16
            for (std::size_t v = 0; v < V; ++v) sum[r][v] = left * right[v] + sum[r][v];
        }
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) store(t.y + (row + r) * t.ldy + column + v * kLanes<T>, sum[r][v]);
}

// R rows, V vectors at a time while there are so many, then half as many.
template <class T, std::size_t R, std::size_t V>
GT_INLINE void product_rows(const RowsProduct<T>& t, std::size_t row, std::size_t column, std::size_t n) {
    for (; column + V * kLanes<T> <= n; column += V * kLanes<T>)
        t.ldp > 4 * V* kLanes<T> ? product_tile<T, R, V, true>(t, row, column)
                                 : product_tile<T, R, V, false>(t, row, column);
    if constexpr (V > 1)
        if (column < n) product_rows<T, R, V / 2>(t, row, column, n);
}

// Accumulators hide the latency of an FMA and leave registers for the operands.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kMostRows = 8, kAccumulators = 16;
#else
constexpr std::size_t kMostRows = 4, kAccumulators = 8;
#endif

template <class T, std::size_t R>
GT_INLINE void product_from(const RowsProduct<T>& t, std::size_t row, std::size_t samples, std::size_t n) {
    for (; row + R <= samples; row += R) product_rows<T, R, kAccumulators / R>(t, row, 0, n);
    if constexpr (R > 1)
        if (row < samples) product_from<T, R / 2>(t, row, samples, n);
}

template <class T>
void product(std::size_t samples, std::size_t k, std::size_t n, const T* x, std::size_t ldx, const T* p,
             std::size_t ldp, T* y, std::size_t ldy) {
    product_from<T, kMostRows>({k, x, ldx, p, ldp, y, ldy}, 0, samples, n);
}

// ---- rows -----------------------------------------------------------------------------------------------------------

// Which lanes of the last vector are units.
template <class T>
GT_INLINE Mask<T> first_lanes(std::size_t count) {
    typename Lane<T>::IntScalar lane[kLanes<T>];
    for (std::size_t i = 0; i < kLanes<T>; ++i) lane[i] = i < count ? -1 : 0;
    Mask<T> mask;
    std::memcpy(&mask, lane, sizeof mask);
    return mask;
}

// f(first, mask) for every vector of a row, the mask full but for the last; then flush() behind every group of them.
template <class T, class F, class Flush>
GT_INLINE void for_each_unit(std::size_t units, Mask<T> last, F&& f, Flush&& flush) {
    const std::size_t whole = units / kLanes<T> * kLanes<T>;
    std::size_t i = 0;
    while (i < whole) {
        const std::size_t end = i + kGroup * kLanes<T> < whole ? i + kGroup * kLanes<T> : whole;
        for (; i < end; i += kLanes<T>) f(i, Mask<T>{} - 1);
        if (i == whole && i < units) break;
        flush();
    }
    if (whole == units) return;
    f(whole, last);
    flush();
}

template <class T>
struct RowSums {
    Vec<T> z_squared{}, a_squared{}, size{}, saturated{}, on{};
};

template <class T, class A, bool kStatistics>
GT_INLINE void forward_row(const RowsForward<T>& t, std::size_t b, Mask<T> last) {
    const A phi = made<A>(t.parameter);
    const ActivationInfo info = described(phi);
    const bool linear = A::info.near_zero == NearZero::linear && t.linear && t.linear[b] != T(0);
    const Vec<T> one = broadcast(T(1)), threshold = broadcast(T(kSaturatedShare * info.derivative_sup));
    T *z = t.z + b * t.ld, *a = t.a + b * t.ld, *derivative = t.derivative + b * t.ld;
    RowSums<T> sums;
    double z_squared = 0, a_squared = 0, size = 0, saturated = 0, on = 0;
    for_each_unit<T>(
        t.units, last,
        [&](std::size_t i, Mask<T> mask) GT_INLINE_LAMBDA {
            const Vec<T> product = load(z + i), value = t.bias ? product + load(t.bias + i) : product;
            Vec<T> out, slope;
            phi.forward(value, out, slope);
            if (linear) {
                slope = select(value > T(0), broadcast(T(info.slopes.above)), broadcast(T(info.slopes.below)));
                out = slope * value;
            }
            store(z + i, value);
            store(a + i, out);
            store(derivative + i, slope);
            sums.z_squared += value * value;
            const Vec<T> unit = keep_if(mask, out);
            sums.a_squared += unit * unit;
            if (A::info.can_die) sums.on += keep_if(mask & (slope != T(0)), one);
            if (!kStatistics) return;
            const Vec<T> magnitude = abs(slope);
            sums.size += keep_if(mask, magnitude);
            sums.saturated += keep_if(mask & (magnitude < threshold), one);
        },
        [&]() GT_INLINE_LAMBDA {
            z_squared += reduce_add(sums.z_squared);
            a_squared += reduce_add(sums.a_squared);
            if (A::info.can_die) on += reduce_add(sums.on);
            if (kStatistics) {
                size += reduce_add(sums.size);
                saturated += reduce_add(sums.saturated);
            }
            sums = RowSums<T>{};
        });
    t.z_squared[b] = z_squared;
    t.a_squared[b] = a_squared;
    t.on[b] = A::info.can_die ? on : static_cast<double>(t.units);
    if (!kStatistics) return;
    t.size[b] = size;
    t.saturated[b] = saturated;
}

template <class T, class A>
void forward(const RowsForward<T>& t) {
    const Mask<T> last = first_lanes<T>(t.units % kLanes<T>);
    for (std::size_t b = 0; b < t.samples; ++b)
        t.size ? forward_row<T, A, true>(t, b, last) : forward_row<T, A, false>(t, b, last);
}

// The sum over a row of f(first), vector by vector.
template <class T, class F>
GT_INLINE double sum_over(std::size_t n, F&& f) {
    double total = 0;
    for (std::size_t group = 0; group < n; group += kGroup * kLanes<T>) {
        const std::size_t end = group + kGroup * kLanes<T> < n ? group + kGroup * kLanes<T> : n;
        Vec<T> sum{};
        for (std::size_t i = group; i < end; i += kLanes<T>) sum += f(i);
        total += reduce_add(sum);
    }
    return total;
}

template <class T>
void backward(std::size_t samples, std::size_t n, std::size_t ld, T factor, const T* da, T* delta, double* da_squared,
              double* delta_squared) {
    const Vec<T> scale = broadcast(factor);
    for (std::size_t b = 0; b < samples; ++b, da += ld, delta += ld) {
        delta_squared[b] = sum_over<T>(n, [&](std::size_t i) GT_INLINE_LAMBDA {
            const Vec<T> v = load(delta + i) * (load(da + i) * scale);
            store(delta + i, v);
            return v * v;
        });
        if (da_squared)
            da_squared[b] = sum_over<T>(n, [&](std::size_t i) GT_INLINE_LAMBDA { return load(da + i) * load(da + i); });
    }
}

template <class T>
void add(std::size_t samples, std::size_t units, std::size_t ld, T factor, const T* y, T* x, double* squared) {
    const Vec<T> scale = broadcast(factor);
    const Mask<T> last = first_lanes<T>(units % kLanes<T>);
    for (std::size_t b = 0; b < samples; ++b, x += ld, y += ld) {
        Vec<T> sum{};
        squared[b] = 0;
        for_each_unit<T>(
            units, last,
            [&](std::size_t i, Mask<T> mask) GT_INLINE_LAMBDA {
                const Vec<T> v = keep_if(mask, scale * load(x + i) + load(y + i));
                store(x + i, v);
                sum += v * v;
            },
            [&]() GT_INLINE_LAMBDA {
                squared[b] += reduce_add(sum);
                sum = Vec<T>{};
            });
    }
}

template <class T>
double dot(std::size_t n, const T* x, const T* y) {
    return sum_over<T>(n, [&](std::size_t i) GT_INLINE_LAMBDA { return load(x + i) * load(y + i); });
}

template <class T>
void gram(std::size_t samples, std::size_t units, std::size_t ld, const T* x, double* gram) {
    const std::size_t whole = units / kLanes<T> * kLanes<T>;
    const Mask<T> last = first_lanes<T>(units % kLanes<T>);
    for (std::size_t b = 0; b < samples; ++b)
        for (std::size_t c = 0; c <= b; ++c) {
            const T *left = x + b * ld, *right = x + c * ld;
            double sum = dot(whole, left, right);
            if (whole < units) sum += reduce_add(keep_if(last, load(left + whole) * load(right + whole)));
            gram[b * samples + c] = sum;
        }
}

template <class T>
std::size_t off(std::size_t samples, std::size_t units, std::size_t ld, const T* derivative) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < units; i += kLanes<T>) {
        Mask<T> on{};
        for (std::size_t b = 0; b < samples; ++b) on |= load(derivative + b * ld + i) != T(0);
        for (std::size_t j = 0; j < kLanes<T> && i + j < units; ++j) count += on[j] == 0;
    }
    return count;
}

template <class T>
void scale(std::size_t n, T factor, T* x) {
    for (std::size_t i = 0; i < n; i += kLanes<T>) store(x + i, load(x + i) * broadcast(factor));
}

template <class T, class List>
struct ForwardOf;
template <class T, class... A>
struct ForwardOf<T, ActivationList<A...>> {
    static constexpr void (*functions[])(const RowsForward<T>&) = {forward<T, A>...};
};

template <class T>
constexpr EnsembleKernels<T> table{.transpose = transpose<T>,
                                   .product = product<T>,
                                   .forward = ForwardOf<T, Activations>::functions,
                                   .backward = backward<T>,
                                   .add = add<T>,
                                   .dot = dot<T>,
                                   .gram = gram<T>,
                                   .off = off<T>,
                                   .scale = scale<T>};

}  // namespace

GT_DEFINE_KERNELS(EnsembleKernels, ensemble, table)

}  // namespace GT_ISA
}  // namespace gt
