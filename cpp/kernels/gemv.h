// Products with one column: a single sample. Bound by reading the matrix, which both directions do along its rows.
#pragma once

#include "simd/map.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

GT_INLINE void put_sum(double* to, double sum, bool add) { *to = add ? *to + sum : sum; }
GT_INLINE void put_sum(float* to, double sum, bool add) { *to = static_cast<float>(add ? *to + sum : sum); }

// Rows that are read side by side; the same part of the rows behind them is prefetched meanwhile. The matrix comes from
// L3 or memory, and hardware does not follow so many rows.
constexpr std::size_t kRowsTogether = 8;

template <std::size_t R, class T>
GT_INLINE void ask_for_rows_behind(const T* a, std::size_t lda, std::size_t at) {
    constexpr std::size_t kLine = 64, kBytes = R * kLanes<T> * sizeof(T);                // met at every step
    const auto from = reinterpret_cast<std::uintptr_t>(a) + R * (lda + at) * sizeof(T);  // as if the rows had no gaps
#pragma GCC unroll 16
    for (std::size_t b = 0; b < kBytes; b += kLine) __builtin_prefetch(reinterpret_cast<const void*>(from + b));
}

// y[r] [+]= sum over k of a[r, k] x[k]: rows [row, row + R).
template <std::size_t R, class T>
GT_INLINE void dot_rows(std::size_t k, const T* a, std::size_t lda, const T* x, T* y, bool add) {
    Vec<T> sum[R] = {};
    for_each_strip<T>(k, [&](std::size_t i, auto at) GT_INLINE_LAMBDA {
        const Vec<T> right = at.load(x + i);
        ask_for_rows_behind<R>(a, lda, i);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) sum[r] = at.load(a + r * lda + i) * right + sum[r];
    });
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) put_sum(y + r, reduce_add(sum[r]), add);
}

template <class T>
GT_INLINE void gemv_n(std::size_t m, std::size_t k, const T* a, std::size_t lda, const T* x, T* y, bool add) {
    std::size_t row = 0;
    for (; row + kRowsTogether <= m; row += kRowsTogether)
        dot_rows<kRowsTogether>(k, a + row * lda, lda, x, y + row, add);
    for (; row < m; ++row) dot_rows<1>(k, a + row * lda, lda, x, y + row, add);
}

// y = a x by the same additions as above, and the sum of the squares of a.
template <std::size_t R, class T>
GT_INLINE VecF64 dot_rows_and_squares(std::size_t k, const T* a, const T* x, T* y) {
    constexpr std::size_t kChains = R < 4 ? R : 4, kGroup = 8;  // vectors of a row between two sums in float64
    Vec<T> sum[R] = {};
    VecF64 squares{};
    for (std::size_t group = 0; group < k; group += kGroup * kLanes<T>) {
        const std::size_t left = k - group, count = left < kGroup * kLanes<T> ? left : kGroup * kLanes<T>;
        Vec<T> square[kChains] = {};
        for_each_strip<T>(count, [&](std::size_t i, auto at) GT_INLINE_LAMBDA {
            const Vec<T> right = at.load(x + group + i);
            ask_for_rows_behind<R>(a, k, group + i);
#pragma GCC unroll 16
            for (std::size_t r = 0; r < R; ++r) {
                const Vec<T> row = at.load(a + r * k + group + i);
                sum[r] = row * right + sum[r];
                square[r % kChains] = row * row + square[r % kChains];
            }
        });
#pragma GCC unroll 4
        for (std::size_t c = 0; c < kChains; ++c) squares += widened(square[c]);
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) put_sum(y + r, reduce_add(sum[r]), false);
    return squares;
}

template <class T>
GT_INLINE double gemv_squares(std::size_t m, std::size_t k, const T* a, const T* x, T* y) {
    VecF64 squares{};
    std::size_t row = 0;
    for (; row + kRowsTogether <= m; row += kRowsTogether)
        squares += dot_rows_and_squares<kRowsTogether>(k, a + row * k, x, y + row);
    for (; row < m; ++row) squares += dot_rows_and_squares<1>(k, a + row * k, x, y + row);
    return reduce_add(squares);
}

// y[c] [+]= sum over R rows of a[r, c] x[r].
template <std::size_t R, class T>
GT_INLINE void add_rows(std::size_t m, const T* a, std::size_t lda, const T* x, T* y, bool add) {
    Vec<T> factor[R];
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) factor[r] = broadcast(x[r]);
    for_each_strip<T>(m, [&](std::size_t i, auto at) GT_INLINE_LAMBDA {
        Vec<T> sum = add ? at.load(y + i) : Vec<T>{};
        ask_for_rows_behind<R>(a, lda, i);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) sum = at.load(a + r * lda + i) * factor[r] + sum;
        at.store(y + i, sum);
    });
}

template <class T>
GT_INLINE void gemv_t(std::size_t m, std::size_t k, const T* a, std::size_t lda, const T* x, T* y, bool add) {
    std::size_t row = 0;
    for (; row + kRowsTogether <= k; row += kRowsTogether)
        add_rows<kRowsTogether>(m, a + row * lda, lda, x + row, y, add || row > 0);
    for (; row < k; ++row) add_rows<1>(m, a + row * lda, lda, x + row, y, add || row > 0);
    if (k == 0 && !add)
        for (std::size_t i = 0; i < m; ++i) y[i] = T(0);
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
