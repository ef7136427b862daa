// The GRU's pointwise part, forward and backward (Cho et al. 2014; the reset gate behind the product, as PyTorch and
// cuDNN have it):
//
//   r, z = sigma(z_r, z_z), q = W_hn h_previous + b_hn, n = tanh(z_n + r q);  h = (1 - z) n + z h_previous
//   dz_n = dh (1 - z) n', dz_r = dz_n q r', dz_z = dh (h_previous - n) z', dq = dz_n r;  carried = z dh
#include "kernels/cell_rows.h"

namespace gt {
namespace GT_ISA {
namespace {

template <class T>
void gru_forward(const CellForward<T>& s) {
    const std::size_t n = s.hidden;
    for (std::size_t row = 0; row < s.rows; ++row) {
        T* z = s.z + row * 4 * n;
        T *z_n = z + GruBlock::candidate * n, *z_r = z + GruBlock::reset * n, *z_z = z + GruBlock::update * n,
          *z_q = z + GruBlock::recurrent * n;
        const T* h_previous = s.h_previous + row * n;
        T* h = s.h + row * n;
        double* log2_units = s.add_carry_log2_units + row * n;
        RowSums<T, 7> sums;
        VecF64 carry{};
        for_each_strip<T>(n, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
            const auto reset = gate(at.load(z_r + u) + at.load(s.bias + GruBlock::reset * n + u));
            const auto update = gate(at.load(z_z + u) + at.load(s.bias + GruBlock::update * n + u));
            const Vec<T> q = at.load(z_q + u) + at.load(s.bias + GruBlock::recurrent * n + u);
            const Vec<T> in = at.load(z_n + u) + at.load(s.bias + GruBlock::candidate * n + u) + reset.value * q;
            Vec<T> slope;
            const Vec<T> candidate = tanh(in, slope);
            at.store(z_n + u, in);
            at.store(z_r + u, reset.x);
            at.store(z_z + u, update.x);
            at.store(z_q + u, q);
            const Vec<T> out = at.keep(update.complement * candidate + update.value * at.load(h_previous + u));
            at.store(h + u, out);
            const Vec<T> log2_z = at.keep(update.log() * broadcast(T(kLog2OfE)));
            at.add_to(log2_units + u, log2_z);
            carry += widened(log2_z);
            sums.part[0] += at.keep(reset.value);
            sums.part[1] += at.keep(update.value);
            sums.part[2] += candidate;
            sums.part[3] += at.keep(one_if_below<T>(reset.derivative(), kSigmoidSaturated));
            sums.part[4] += at.keep(one_if_below<T>(update.derivative(), kSigmoidSaturated));
            sums.part[5] += at.keep(one_if_below<T>(slope, kTanhSaturated));
            sums.part[6] += out * out;
            sums.move_on();
        });
        store_forward_sums(sums, s.gate_sums + row * 6, s.h_squares + row);
        s.carry_log2[row] = reduce_add(carry);
    }
}

// The first is the carry; the others follow the blocks of a row.
template <class T>
void gru_coefficients(const CellCoefficients<T>& s) {
    const std::size_t n = s.hidden;
    for (std::size_t row = 0; row < s.rows; ++row) {
        const T *z = s.z + row * 4 * n, *h_previous = s.h_previous + row * n;
        T *carry = s.to + row * kGru.coefficient_blocks * n, *to = carry + n;
        for_each_strip<T>(n, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
            const auto reset = gate(at.load(z + GruBlock::reset * n + u));
            const auto update = gate(at.load(z + GruBlock::update * n + u));
            Vec<T> slope;
            const Vec<T> candidate = tanh(at.load(z + GruBlock::candidate * n + u), slope);
            const Vec<T> to_candidate = update.complement * slope;
            at.store(carry + u, update.value);
            at.store(to + GruBlock::candidate * n + u, to_candidate);
            at.store(to + GruBlock::reset * n + u,
                     to_candidate * at.load(z + GruBlock::recurrent * n + u) * reset.derivative());
            at.store(to + GruBlock::update * n + u, (at.load(h_previous + u) - candidate) * update.derivative());
            at.store(to + GruBlock::recurrent * n + u, to_candidate * reset.value);
        });
    }
}

template <class T>
constexpr CellKernels<T> table{
    .forward = gru_forward<T>, .coefficients = gru_coefficients<T>, .backward = carried_backward<T, kGru>};

}  // namespace

GT_DEFINE_KERNELS(CellKernels, gru, table)

}  // namespace GT_ISA
}  // namespace gt
