// The slow path of a backward step: a row of numbers with exponents of their own, where gates are so far shut that
// their values, or products with them, leave the format. Nothing underflows on the way, however large the
// preactivations are.
#pragma once

#include <memory>
#include <vector>

#include "kernels/kernel_table.h"
#include "ops/wide_rows.h"
#include "ops/wide_states.h"

namespace gt {

// One row's coefficients of the backward step, blocks as the cell's kernels have them (kernels/cell_table.h).
template <class T>
void wide_coefficients(CellKind kind, std::size_t hidden, const T* z, const WideFactors& factors, Wide* out);

// The three carried gradients of a row, whole, direct and gated: (hidden,) each.
struct WideCarries {
    std::vector<Wide> whole, direct, gated;
};

// What arrives at one row, (hidden,) each; u null where nothing does, the carries where the cell has none.
template <class T>
struct WideArrivals {
    const ScaledRow<T>*u, *p;
    WideCarries* carries;  // in and out: the next step's
};

// What leaves it: rows of the sums of kernels/cell_table.h, (hidden,) each and dz (row_blocks * hidden,).
struct WideOutputs {
    std::vector<Wide> dh, dc, direct, gated, dz;
};

template <class T>
class WideBackward {
  public:
    WideBackward(CellKind kind, std::size_t hidden) : kind_(kind), cell_(cell_shape(kind)), n_(hidden) {}

    // `split`: the direct and the gated part are followed.
    const WideOutputs& run(const T* z, const WideFactors& factors, const WideArrivals<T>& in, bool split);

  private:
    CellKind kind_;
    const CellShape& cell_;
    std::size_t n_;
    std::vector<Wide> coefficients_;
    WideOutputs out_;
};

// Whether rows in T hold these carries: no entry is so far below its row's largest that T would flush it.
template <class T>
bool rows_hold(const WideCarries& carries);

}  // namespace gt
