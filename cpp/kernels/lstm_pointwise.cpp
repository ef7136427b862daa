// The LSTM's pointwise part, forward and backward (formulas of Hochreiter and Schmidhuber 1997 with the forget gate of
// Gers, Schmidhuber and Cummins 2000):
//
//   i, f, o = sigma(z_i, z_f, z_o), g = tanh(z_g);  c = f c_previous + i g,  h = o tanh(c)
//   dc = carried + dh o sech^2(c);  dz_i = dc g i', dz_f = dc c_previous f', dz_g = dc i g', dz_o = dh tanh(c) o'
#include "kernels/cell_rows.h"

namespace gt {
namespace GT_ISA {
namespace {

template <class T>
void lstm_forward(const CellForward<T>& s) {
    const std::size_t n = s.hidden;
    const T *bias_i = s.bias + LstmBlock::input * n, *bias_f = s.bias + LstmBlock::forget * n,
            *bias_g = s.bias + LstmBlock::candidate * n, *bias_o = s.bias + LstmBlock::output * n;
    for (std::size_t r = 0; r < s.rows; ++r) {
        T* z = s.z + r * 4 * n;
        T *z_i = z + LstmBlock::input * n, *z_f = z + LstmBlock::forget * n, *z_g = z + LstmBlock::candidate * n,
          *z_o = z + LstmBlock::output * n;
        const T* c_previous = s.c_previous + r * n;
        T *h = s.h + r * n, *c = s.c + r * n;
        double* log2_units = s.add_carry_log2_units + r * n;
        RowSums<T, 9> sums;
        VecF64 carry{};
        for_each_strip<T>(n, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
            const auto i = gate(at.load(z_i + u) + at.load(bias_i + u));
            const auto f = gate(at.load(z_f + u) + at.load(bias_f + u));
            const auto o = gate(at.load(z_o + u) + at.load(bias_o + u));
            const Vec<T> g_in = at.load(z_g + u) + at.load(bias_g + u);
            Vec<T> g_slope, unused;
            const Vec<T> g = tanh(g_in, g_slope);
            at.store(z_i + u, i.x);
            at.store(z_f + u, f.x);
            at.store(z_g + u, g_in);
            at.store(z_o + u, o.x);
            const Vec<T> state = f.value * at.load(c_previous + u) + i.value * g;
            at.store(c + u, state);
            const Vec<T> out = at.keep(o.value * tanh(state, unused));
            at.store(h + u, out);
            const Vec<T> log2_f = at.keep(f.log() * broadcast(T(kLog2OfE)));
            at.add_to(log2_units + u, log2_f);
            carry += widened(log2_f);
            sums.part[0] += at.keep(i.value);
            sums.part[1] += at.keep(f.value);
            sums.part[2] += g;
            sums.part[3] += at.keep(o.value);
            sums.part[4] += at.keep(one_if_below<T>(i.derivative(), kSigmoidSaturated));
            sums.part[5] += at.keep(one_if_below<T>(f.derivative(), kSigmoidSaturated));
            sums.part[6] += at.keep(one_if_below<T>(g_slope, kTanhSaturated));
            sums.part[7] += at.keep(one_if_below<T>(o.derivative(), kSigmoidSaturated));
            sums.part[8] += out * out;
            sums.move_on();
        });
        store_forward_sums(sums, s.gate_sums + r * 8, s.h_squares + r);
        s.carry_log2[r] = reduce_add(carry);
    }
}

enum LstmCoefficient : std::size_t { kForget, kOut, kToInput, kToForget, kToCandidate, kToOutput };

template <class T>
void lstm_coefficients(const CellCoefficients<T>& s) {
    const std::size_t n = s.hidden;
    for (std::size_t r = 0; r < s.rows; ++r) {
        const T *z = s.z + r * 4 * n, *c_previous = s.c_previous + r * n, *c = s.c + r * n;
        T* to = s.to + r * kLstm.coefficient_blocks * n;
        for_each_strip<T>(n, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
            const auto i = gate(at.load(z + LstmBlock::input * n + u));
            const auto f = gate(at.load(z + LstmBlock::forget * n + u));
            const auto o = gate(at.load(z + LstmBlock::output * n + u));
            Vec<T> g_slope, c_slope;
            const Vec<T> g = tanh(at.load(z + LstmBlock::candidate * n + u), g_slope);
            const Vec<T> squashed = tanh(at.load(c + u), c_slope);
            at.store(to + kForget * n + u, f.value);
            at.store(to + kOut * n + u, o.value * c_slope);
            at.store(to + kToInput * n + u, g * i.derivative());
            at.store(to + kToForget * n + u, at.load(c_previous + u) * f.derivative());
            at.store(to + kToCandidate * n + u, i.value * g_slope);
            at.store(to + kToOutput * n + u, squashed * o.derivative());
        });
    }
}

template <class T, bool kInjected, bool kSplit>
GT_INLINE void lstm_backward_row(const CellBackward<T>& s, std::size_t r) {
    const std::size_t n = s.hidden, at_row = r * n;
    const T* by = s.coefficients + r % s.period * kLstm.coefficient_blocks * n;
    const CellScale<T>& scale = s.scale[r];
    T* dz = s.dz + r * 4 * n;
    RowSums<T, kCellSums> sums;
    const auto square = [&](CellSum which, Vec<T> v) GT_INLINE_LAMBDA { sums.part[which] += v * v; };
    for_each_strip<T>(n, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
        const std::size_t i = at_row + u;
        const Vec<T> forget = at.load(by + kForget * n + u), out = at.load(by + kOut * n + u);
        const Vec<T> p = at.load(s.p + i), injected = kInjected ? at.load(s.u + i) : Vec<T>{};
        Vec<T> dh = p * broadcast(scale.p_dh);
        if (kInjected) dh += injected * broadcast(scale.u_dh);
        const Vec<T> dc = at.load(s.carried + i) * broadcast(scale.carried) + dh * broadcast(scale.dh_dc) * out;
        at.store(s.dh + i, dh);
        at.store(s.dc + i, dc);
        const Vec<T> carry = dc * forget;
        at.store(s.carry + i, carry);
        square(kDh, dh);
        square(kDc, dc);
        square(kCarry, carry);

        const Vec<T> dz_i = dc * at.load(by + kToInput * n + u), dz_f = dc * at.load(by + kToForget * n + u),
                     dz_g = dc * at.load(by + kToCandidate * n + u),
                     dz_o = dh * broadcast(scale.dh_dz) * at.load(by + kToOutput * n + u);
        at.store(dz + LstmBlock::input * n + u, dz_i);
        at.store(dz + LstmBlock::forget * n + u, dz_f);
        at.store(dz + LstmBlock::candidate * n + u, dz_g);
        at.store(dz + LstmBlock::output * n + u, dz_o);
        sums.part[kDz] += (dz_i * dz_i + dz_f * dz_f) + (dz_g * dz_g + dz_o * dz_o);

        if (kSplit)
            split_strip<T, kInjected>(
                s, scale, i, at, injected, p, forget, [&](Vec<T> v) GT_INLINE_LAMBDA { return v * out; }, sums);
        sums.move_on();
    });
    store_sums(sums, s.squares + r * kCellSums);
}

template <class T>
void lstm_backward(const CellBackward<T>& s) {
    for_each_row(s, [&](std::size_t r, auto injected, auto split) GT_INLINE_LAMBDA {
        lstm_backward_row<T, decltype(injected)::value, decltype(split)::value>(s, r);
    });
}

template <class T>
constexpr CellKernels<T> table{
    .forward = lstm_forward<T>, .coefficients = lstm_coefficients<T>, .backward = lstm_backward<T>};

}  // namespace

GT_DEFINE_KERNELS(CellKernels, lstm, table)

}  // namespace GT_ISA
}  // namespace gt
