// Products with one column: a single sample. Bound by reading the matrix, which both directions do along its rows.
#pragma once

#include "simd/map.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

GT_INLINE void put_sum(double* to, double sum, bool add) { *to = add ? *to + sum : sum; }
GT_INLINE void put_sum(float* to, double sum, bool add) { *to = static_cast<float>(add ? *to + sum : sum); }

// y[r] [+]= sum over k of a[r, k] x[k]: rows [row, row + R).
template <std::size_t R, class T>
GT_INLINE void dot_rows(std::size_t k, const T* a, std::size_t lda, const T* x, T* y, bool add) {
    Vec<T> sum[R] = {};
    for_each_strip<T>(k, [&](std::size_t i, auto at) GT_INLINE_LAMBDA {
        const Vec<T> right = at.load(x + i);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) sum[r] = at.load(a + r * lda + i) * right + sum[r];
    });
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) put_sum(y + r, reduce_add(sum[r]), add);
}

template <class T>
GT_INLINE void gemv_n(std::size_t m, std::size_t k, const T* a, std::size_t lda, const T* x, T* y, bool add) {
    constexpr std::size_t kRows = 8;
    std::size_t row = 0;
    for (; row + kRows <= m; row += kRows) dot_rows<kRows>(k, a + row * lda, lda, x, y + row, add);
    for (; row < m; ++row) dot_rows<1>(k, a + row * lda, lda, x, y + row, add);
}

// y[c] [+]= sum over k of a[k, c] x[k]: V vectors of columns.
template <std::size_t V, class T, class At>
GT_INLINE void add_rows(std::size_t k, const T* a, std::size_t lda, const T* x, T* y, bool add, At at) {
    Vec<T> sum[V];
#pragma GCC unroll 16
    for (std::size_t v = 0; v < V; ++v) sum[v] = add ? at.load(y + v * kLanes<T>) : Vec<T>{};
    for (std::size_t i = 0; i < k; ++i) {
        const Vec<T> factor = broadcast(x[i]);
#pragma GCC unroll 16
        for (std::size_t v = 0; v < V; ++v) sum[v] = at.load(a + i * lda + v * kLanes<T>) * factor + sum[v];
    }
#pragma GCC unroll 16
    for (std::size_t v = 0; v < V; ++v) at.store(y + v * kLanes<T>, sum[v]);
}

template <class T>
GT_INLINE void gemv_t(std::size_t m, std::size_t k, const T* a, std::size_t lda, const T* x, T* y, bool add) {
    constexpr std::size_t kLane = kLanes<T>;
    std::size_t column = 0;
    for (; column + 8 * kLane <= m; column += 8 * kLane)
        add_rows<8>(k, a + column, lda, x, y + column, add, WholeVector{});
    if (column + 4 * kLane <= m) {
        add_rows<4>(k, a + column, lda, x, y + column, add, WholeVector{});
        column += 4 * kLane;
    }
    for_each_strip<T>(m - column, [&](std::size_t i, auto at) GT_INLINE_LAMBDA {
        add_rows<1>(k, a + column + i, lda, x, y + column + i, add, at);
    });
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
