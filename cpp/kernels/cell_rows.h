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

// The direct and the gated part of the carried gradient at strip i, each by its own recursion. `carry` is the gate that
// takes them to the step before; `through` what an arriving gradient is multiplied by on its way to the carried state.
template <class T, bool kInjected, class At, class Through>
GT_INLINE void split_strip(const CellBackward<T>& s, const CellScale<T>& scale, std::size_t i, At at, Vec<T> injected,
                           Vec<T> p, Vec<T> carry, Through through, RowSums<T, kCellSums>& sums) {
    Vec<T> direct = at.load(s.carried_direct + i) * broadcast(scale.carried_direct);
    if (kInjected) direct += through(injected * broadcast(scale.u_direct));
    const Vec<T> gated =
        at.load(s.carried_gated + i) * broadcast(scale.carried_gated) + through(p * broadcast(scale.p_gated));
    const Vec<T> carry_direct = direct * carry, carry_gated = gated * carry;
    at.store(s.direct + i, direct);
    at.store(s.gated + i, gated);
    at.store(s.carry_direct + i, carry_direct);
    at.store(s.carry_gated + i, carry_gated);
    sums.part[kDirect] += direct * direct;
    sums.part[kGated] += gated * gated;
    sums.part[kCarryDirect] += carry_direct * carry_direct;
    sums.part[kCarryGated] += carry_gated * carry_gated;
}

struct Yes {
    static constexpr bool value = true;
};
struct No {
    static constexpr bool value = false;
};

// row(r, injected, split) for every row, both as Yes or No: whether u arrives, and whether the split is followed.
template <class T, class Row>
GT_INLINE void for_each_row(const CellBackward<T>& s, Row&& row) {
    for (std::size_t r = 0; r < s.rows; ++r) {
        if (s.carried_direct == nullptr)
            s.u ? row(r, Yes{}, No{}) : row(r, No{}, No{});
        else
            s.u ? row(r, Yes{}, Yes{}) : row(r, No{}, Yes{});
    }
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
