// Norms, scaling and pair products of rows with contiguous units.
#include "kernels/kernel_table.h"
#include "simd/map.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

constexpr std::size_t kGroup = 16;  // vectors summed in T before the sum moves to float64

template <class T>
void squares(std::size_t rows, std::size_t n, const T* x, std::size_t ld, double* out) {
    for (std::size_t r = 0; r < rows; ++r, x += ld) {
        double total = 0;
        for (std::size_t first = 0; first < n; first += kGroup * kLanes<T>) {
            const std::size_t left = n - first, length = left < kGroup * kLanes<T> ? left : kGroup * kLanes<T>;
            Vec<T> sum{};
            for_each_vector(length, x + first, T(0),
                            [&](Vec<T> v, std::size_t) GT_INLINE_LAMBDA { sum = v * v + sum; });
            total += reduce_add(sum);
        }
        out[r] = total;
    }
}

template <class T>
void largest(std::size_t rows, std::size_t n, const T* x, std::size_t ld, T* out) {
    for (std::size_t r = 0; r < rows; ++r, x += ld) {
        Vec<T> most{};
        for_each_vector(n, x, T(0), [&](Vec<T> v, std::size_t) GT_INLINE_LAMBDA { most = max(abs(v), most); });
        T lane[kLanes<T>], top = 0;
        store(lane, most);
        for (std::size_t i = 0; i < kLanes<T>; ++i) top = lane[i] > top ? lane[i] : top;
        out[r] = top;
    }
}

template <class T>
void scale(std::size_t rows, std::size_t n, T* x, std::size_t ld, const T* factor) {
    for (std::size_t r = 0; r < rows; ++r, x += ld) {
        const Vec<T> f = broadcast(factor[r]);
        for_each_vector(n, x, T(0),
                        [&](Vec<T> v, std::size_t first) GT_INLINE_LAMBDA { store_vector(n, x, v * f, first); });
    }
}

// Blocks of rows against each other: their vectors are loaded once for all pairs. As many rows as accumulators, left
// vectors and one right vector have registers for; three already keep both FMA units at work.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kDotRows = 4;
#else
constexpr std::size_t kDotRows = 3;
#endif

template <class T>
GT_INLINE Vec<T> load_part(const T* x, std::size_t count) {
    if (count >= kLanes<T>) return load(x);
    T tail[kLanes<T>] = {};
    for (std::size_t i = 0; i < count; ++i) tail[i] = x[i];
    return load(tail);
}

template <std::size_t N>
struct Count {
    static constexpr std::size_t value = N;
};

template <class T, std::size_t R, std::size_t C>
GT_INLINE void dots(std::size_t n, const T* a, const T* b, std::size_t ld, T* gram, std::size_t ld_gram, T* mirror) {
    Vec<T> acc[R][C] = {};
    for (std::size_t k = 0; k < n; k += kLanes<T>) {
        Vec<T> left[R];
#pragma GCC unroll 4
        for (std::size_t r = 0; r < R; ++r) left[r] = load_part(a + r * ld + k, n - k);
#pragma GCC unroll 4
        for (std::size_t c = 0; c < C; ++c) {
            const Vec<T> right = load_part(b + c * ld + k, n - k);
#pragma GCC unroll 4
            for (std::size_t r = 0; r < R; ++r) acc[r][c] = left[r] * right + acc[r][c];
        }
    }
    for (std::size_t r = 0; r < R; ++r)
        for (std::size_t c = 0; c < C; ++c)
            gram[r * ld_gram + c] = mirror[c * ld_gram + r] = static_cast<T>(reduce_add(acc[r][c]));
}

// R rows from i on against all from i on.
template <class T, std::size_t R>
GT_INLINE void dots_behind(std::size_t i, std::size_t rows, std::size_t n, const T* a, std::size_t ld, T* out,
                           std::size_t ld_gram) {
    const auto against = [&](std::size_t j, auto columns) GT_INLINE_LAMBDA {
        dots<T, R, columns.value>(n, a + i * ld, a + j * ld, ld, out + i * ld_gram + j, ld_gram, out + j * ld_gram + i);
    };
    std::size_t j = i;
    for (; j + kDotRows <= rows; j += kDotRows) against(j, Count<kDotRows>{});
    if (j + 2 <= rows) {
        against(j, Count<2>{});
        j += 2;
    }
    if (j < rows) against(j, Count<1>{});
}

template <class T>
void gram(std::size_t rows, std::size_t n, const T* a, std::size_t ld, T* out, std::size_t ld_gram) {
    std::size_t i = 0;
    for (; i + kDotRows <= rows; i += kDotRows) dots_behind<T, kDotRows>(i, rows, n, a, ld, out, ld_gram);
    if (i + 2 <= rows) {
        dots_behind<T, 2>(i, rows, n, a, ld, out, ld_gram);
        i += 2;
    }
    if (i < rows) dots_behind<T, 1>(i, rows, n, a, ld, out, ld_gram);
}

GT_INLINE void add_scaled(double* sums, VecF64 v, VecF64 factor) { store(sums, v * factor + load(sums)); }
GT_INLINE void add_scaled(double* sums, VecF32 v, VecF64 factor) {
    store(sums, widen_low(v) * factor + load(sums));
    store(sums + kLanes<double>, widen_high(v) * factor + load(sums + kLanes<double>));
}

template <class T>
void add_columns(std::size_t rows, std::size_t n, const T* x, std::size_t ld, const double* factor, double* sums) {
    for (std::size_t r = 0; r < rows; ++r, x += ld) {
        const VecF64 f = broadcast(factor[r]);
        std::size_t j = 0;
        for (; j + kLanes<T> <= n; j += kLanes<T>) add_scaled(sums + j, load(x + j), f);
        for (; j < n; ++j) sums[j] += static_cast<double>(x[j]) * factor[r];
    }
}

template <class T, std::size_t N>
GT_INLINE void combine_vectors(std::size_t count, std::size_t first, const T* const* x, const T* factor, T* to) {
    Vec<T> sum[N] = {};
    for (std::size_t i = 0; i < count; ++i)
#pragma GCC unroll 4
        for (std::size_t v = 0; v < N; ++v) sum[v] = broadcast(factor[i]) * load(x[i] + first + v * kLanes<T>) + sum[v];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < N; ++v) store(to + first + v * kLanes<T>, sum[v]);
}

template <class T>
void combine(std::size_t count, std::size_t n, const T* const* x, const T* factor, T* to) {
    constexpr std::size_t kWide = 4;
    std::size_t j = 0;
    for (; j + kWide * kLanes<T> <= n; j += kWide * kLanes<T>) combine_vectors<T, kWide>(count, j, x, factor, to);
    for (; j + kLanes<T> <= n; j += kLanes<T>) combine_vectors<T, 1>(count, j, x, factor, to);
    for (; j < n; ++j) {
        T sum = 0;
        for (std::size_t i = 0; i < count; ++i) sum += factor[i] * x[i][j];
        to[j] = sum;
    }
}

template <class T>
constexpr RowKernels<T> table{.squares = squares<T>,
                              .largest = largest<T>,
                              .scale = scale<T>,
                              .gram = gram<T>,
                              .combine = combine<T>,
                              .add_columns = add_columns<T>};

}  // namespace

GT_DEFINE_KERNELS(RowKernels, rows, table)

}  // namespace GT_ISA
}  // namespace gt
