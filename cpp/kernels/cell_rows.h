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
#pragma GCC unroll 16
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

// Those of a forward step: the last is the sum of squares of h.
template <class T, std::size_t N>
GT_INLINE void store_forward_sums(RowSums<T, N>& sums, double* to, double* h_squares) {
    sums.flush();
    for (std::size_t i = 0; i + 1 < N; ++i) to[i] = sums.sum(i);
    *h_squares = sums.sum(N - 1);
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

// The backward step of a cell whose gate carries h itself: dh times the carry goes to the step before, dh times each of
// the other coefficients to a block of dz.
template <class T, const CellShape& kCell, bool kInjected, bool kSplit>
GT_INLINE void carried_backward_row(const CellBackward<T>& s, std::size_t r) {
    static_assert(!kCell.has_cell_state && kCell.coefficient_blocks == kCell.row_blocks + 1);
    const std::size_t n = s.hidden, at_row = r * n;
    const T *carry_by = s.coefficients + r % s.period * kCell.coefficient_blocks * n, *by = carry_by + n;
    const CellScale<T>& scale = s.scale[r];
    T* dz = s.dz + r * kCell.row_blocks * n;
    RowSums<T, kCellSums> sums;
    const auto square = [&](CellSum which, Vec<T> v) GT_INLINE_LAMBDA { sums.part[which] += v * v; };
    for_each_strip<T>(n, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
        const std::size_t i = at_row + u;
        const Vec<T> gate = at.load(carry_by + u), p = at.load(s.p + i);
        const Vec<T> injected = kInjected ? at.load(s.u + i) : Vec<T>{};
        Vec<T> dh = at.load(s.carried + i) * broadcast(scale.carried) + p * broadcast(scale.p_dh);
        if (kInjected) dh += injected * broadcast(scale.u_dh);
        const Vec<T> carry = dh * gate;
        at.store(s.dh + i, dh);
        at.store(s.carry + i, carry);
        square(kDh, dh);
        square(kCarry, carry);
#pragma GCC unroll 4
        for (std::size_t block = 0; block < kCell.row_blocks; ++block) {
            const Vec<T> d = dh * at.load(by + block * n + u);
            at.store(dz + block * n + u, d);
            square(kDz, d);
        }
        if (kSplit)
            split_strip<T, kInjected>(
                s, scale, i, at, injected, p, gate, [](Vec<T> v) GT_INLINE_LAMBDA { return v; }, sums);
        sums.move_on();
    });
    store_sums(sums, s.squares + r * kCellSums);
}

template <class T, const CellShape& kCell>
void carried_backward(const CellBackward<T>& s) {
    for_each_row(s, [&](std::size_t r, auto injected, auto split) GT_INLINE_LAMBDA {
        carried_backward_row<T, kCell, decltype(injected)::value, decltype(split)::value>(s, r);
    });
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
