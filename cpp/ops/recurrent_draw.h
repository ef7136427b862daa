// Random parameters of recurrent layers: every gate of every layer draws from a stream of its own, so that none depends
// on what others are asked for.
#pragma once

#include "core/cells.h"
#include "ops/random.h"

namespace gt {

// One block of rows of a weight, times factor.
struct BlockLaw {
    enum class Kind { normal, uniform, orthogonal };  // `uniform` on (-1, 1)
    Kind kind;
    double factor;
};

// The total bias of the forget gate, in bias_ih, that in bias_hh zero.
struct ForgetBias {
    enum class Kind { left, value, chrono };  // as drawn; a number; by the longest time (Tallec and Ollivier 2018)
    Kind kind;
    double number;        // the bias, or the time T: log U[1, T - 1], and its negative for the input gate
    std::size_t rows[2];  // blocks of the forget and of the input gate
};

// Stacked layers of equal width, `directions` each.
struct RecurrentLaw {
    CellKind kind;
    std::size_t inputs, hidden, depth, directions;
    BlockLaw first_ih, ih, hh;  // first_ih: of the first layer
    double bias_limit;          // uniform on +-bias_limit
    ForgetBias forget;

    std::size_t layers() const { return depth * directions; }
    std::size_t rows() const { return cell_shape(kind).weight_blocks * hidden; }
    std::size_t inputs_of(std::size_t layer) const { return layer < directions ? inputs : directions * hidden; }
};

// Arrays of one layer: (rows, inputs_of), (rows, hidden), (rows,), (rows,).
template <class T>
struct LayerParameters {
    T *weight_ih, *weight_hh, *bias_ih, *bias_hh;
};

// Throws Interrupted.
template <class T>
void draw_recurrent_layer(const IsaKernels& isa, const RecurrentLaw& law, std::uint64_t seed, std::size_t layer,
                          const LayerParameters<T>& out, Interrupt& interrupt);

}  // namespace gt
