// The plain recurrent cell's pointwise part, forward and backward (Elman 1990): h = phi(z);  dz = phi'(z) dh.
#include "kernels/activation.h"
#include "kernels/cell_rows.h"

namespace gt {
namespace GT_ISA {
namespace {

template <class T, class A>
void rnn_forward(const CellForward<T>& s) {
    for (std::size_t r = 0; r < s.rows; ++r) {
        T *z = s.z + r * s.hidden, *h = s.h + r * s.hidden;
        RowSums<T, 1> sums;
        for_each_strip<T>(s.hidden, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
            const Vec<T> in = at.load(z + u) + at.load(s.bias + u);
            Vec<T> value, slope;
            A::forward(in, value, slope);
            at.store(z + u, in);
            at.store(h + u, value);
            value = at.keep(value);
            sums.part[0] += value * value;
            sums.move_on();
        });
        store_sums(sums, s.h_squares + r);
    }
}

template <class T, class A>
void rnn_coefficients(const CellCoefficients<T>& s) {
    for_each_strip<T>(s.rows * s.hidden, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
        Vec<T> value, slope;
        A::forward(at.load(s.z + u), value, slope);
        at.store(s.to + u, slope);
    });
}

template <class T, bool kInjected>
GT_INLINE void rnn_backward_row(const CellBackward<T>& s, std::size_t r) {
    const std::size_t n = s.hidden, at_row = r * n;
    const T* slope = s.coefficients + r % s.period * n;
    RowSums<T, kCellSums> sums;
    for_each_strip<T>(n, [&](std::size_t u, auto at) GT_INLINE_LAMBDA {
        const std::size_t i = at_row + u;
        Vec<T> dh = at.load(s.p + i) * broadcast(s.scale[r].p_dh);
        if (kInjected) dh += at.load(s.u + i) * broadcast(s.scale[r].u_dh);
        const Vec<T> dz = dh * at.load(slope + u);
        at.store(s.dh + i, dh);
        at.store(s.dz + i, dz);
        sums.part[kDh] += dh * dh;
        sums.part[kDz] += dz * dz;
        sums.move_on();
    });
    store_sums(sums, s.squares + r * kCellSums);
}

template <class T>
void rnn_backward(const CellBackward<T>& s) {
    for (std::size_t r = 0; r < s.rows; ++r) s.u ? rnn_backward_row<T, true>(s, r) : rnn_backward_row<T, false>(s, r);
}

template <class T, class A>
constexpr CellKernels<T> table{
    .forward = rnn_forward<T, A>, .coefficients = rnn_coefficients<T, A>, .backward = rnn_backward<T>};
template <class T>
constexpr CellKernels<T> tanh_table = table<T, Tanh>;
template <class T>
constexpr CellKernels<T> relu_table = table<T, Relu>;

}  // namespace

GT_DEFINE_KERNELS(CellKernels, rnn_tanh, tanh_table)
GT_DEFINE_KERNELS(CellKernels, rnn_relu, relu_table)

}  // namespace GT_ISA
}  // namespace gt
