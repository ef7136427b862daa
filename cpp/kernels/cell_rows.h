// What the pointwise parts of all recurrent cells share: sums over the units of a row.
#pragma once

#include "core/cells.h"
#include "kernels/kernel_table.h"
#include "simd/map.h"
#include "simd/math.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

GT_INLINE VecF64 widened(VecF64 v) { return v; }
GT_INLINE VecF64 widened(VecF32 v) { return widen_low(v) + widen_high(v); }

// N sums over the units of one row: a few vectors in T, the groups of them in float64.
template <class T, std::size_t N>
struct RowSums {
    static constexpr std::size_t kGroup = 16;
    Vec<T> part[N] = {};
    VecF64 total[N] = {};
    std::size_t strips = 0;

    GT_INLINE void move_on() {
        if (++strips % kGroup == 0) flush();
    }
    GT_INLINE void flush() {
#pragma GCC unroll 8
        for (std::size_t i = 0; i < N; ++i) {
            total[i] += widened(part[i]);
            part[i] = Vec<T>{};
        }
    }
    GT_INLINE double sum(std::size_t i) const { return reduce_add(total[i]); }
};

template <class T>
GT_INLINE Vec<T> one_if_below(Vec<T> size, double limit) {
    return keep_if(size < broadcast(static_cast<T>(limit)), broadcast(T(1)));
}

constexpr double kSigmoidSaturated = 0.25 * kSaturatedShare, kTanhSaturated = kSaturatedShare;
constexpr double kLog2OfE = 1.4426950408889634;

template <class T, std::size_t N>
GT_INLINE void store_sums(RowSums<T, N>& sums, double* to) {
    sums.flush();
    for (std::size_t i = 0; i < N; ++i) to[i] = sums.sum(i);
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
