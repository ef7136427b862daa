// Kept rows of a stack: samples of a tile, each with its exponent, for the caller.
#include <cmath>

#include "ops/stack_tracer.h"

namespace gt {
namespace {

// One tile's valid samples as rows normalised to largest magnitude in [1/2, 1).
template <class T>
bool keep_tile(const KernelTable<T>& kernels, const BlockPart<T>& part, std::size_t units, const T* tile,
               const double* exponent, const KeptRows<T>& to) {
    bool fits = true;
    T largest[kMaxColumns], factor[kMaxColumns];
    kernels.reduce->column_max(units, part.columns, part.ld, tile, largest);
    for (std::size_t b = 0; b < part.samples; ++b) {
        const double top = largest[b];
        const bool plain = !(top > 0) || !std::isfinite(top);
        const double shift = plain ? 0 : exponent_of(top), kept = plain ? 0 : exponent[b] + shift;
        factor[b] = power_of_two<T>(-shift);
        if (to.any_exponent) {
            to.any_exponent[part.first + b] = kept;
            continue;
        }
        fits &= std::fabs(kept) < kEndOfInt64;
        to.exponent[part.first + b] = std::fabs(kept) < kEndOfInt64 ? static_cast<std::int64_t>(kept) : 0;
    }
    kernels.reduce->transpose(units, part.samples, tile, part.ld, to.mantissa + part.first * units, units, factor);
    return fits;
}

}  // namespace

// phi' waits for the backward pass where delta will stand; it has no exponent.
template <class T>
bool AnyStackTracer<T>::keep_derivative(const CallOutputs<T>& out, const StackNetwork<T>& network,
                                        const StackPass<T>& pass, std::size_t l) const {
    if (out.derivatives.empty()) return true;
    const double none[kMaxColumns] = {};
    const BlockPart<T>& part = pass.part();
    const KeptRows<T>& to = out.derivatives[l];
    const std::size_t units = network.layer(l).outputs;
    bool fits = keep_tile(isa_.get<T>(), part, units, part.delta(l), none, to);
    for (std::size_t b = 0; b < part.samples; ++b) {
        T* row = to.mantissa + (part.first + b) * units;
        if (!pass.has_faded_derivative(l, row, to.exponent[part.first + b]) ||
            part.nonfinite(b) <= static_cast<std::ptrdiff_t>(l))
            continue;
        fits &= pass.derivative_from_log(l, b, row, to.exponent + part.first + b);
    }
    return fits;
}

template <class T>
bool AnyStackTracer<T>::keep_rows(const CallOutputs<T>& out, const StackNetwork<T>& network, const BlockPart<T>& part,
                                  std::size_t l) const {
    const std::size_t units = network.layer(l).outputs;
    bool fits = true;
    if (!out.deltas.empty())
        fits &= keep_tile(isa_.get<T>(), part, units, part.delta(l), part.exponent_of_delta(l), out.deltas[l]);
    if (!out.activations.empty())
        fits &= keep_tile(isa_.get<T>(), part, units, part.a(l + 1), part.exponent_of_a(l + 1), out.activations[l]);
    return fits;
}

template <class T>
bool AnyStackTracer<T>::keep_input_gradient(const CallOutputs<T>& out, const StackPass<T>& pass) const {
    return !out.grad_input || keep_tile(isa_.get<T>(), pass.part(), units_.sizes[0], pass.part().da(0),
                                        pass.exponent_of_da(), out.grad_input);
}

template bool AnyStackTracer<float>::keep_derivative(const CallOutputs<float>&, const StackNetwork<float>&,
                                                     const StackPass<float>&, std::size_t) const;
template bool AnyStackTracer<float>::keep_rows(const CallOutputs<float>&, const StackNetwork<float>&,
                                               const BlockPart<float>&, std::size_t) const;
template bool AnyStackTracer<float>::keep_input_gradient(const CallOutputs<float>&, const StackPass<float>&) const;
template bool AnyStackTracer<double>::keep_derivative(const CallOutputs<double>&, const StackNetwork<double>&,
                                                      const StackPass<double>&, std::size_t) const;
template bool AnyStackTracer<double>::keep_rows(const CallOutputs<double>&, const StackNetwork<double>&,
                                                const BlockPart<double>&, std::size_t) const;
template bool AnyStackTracer<double>::keep_input_gradient(const CallOutputs<double>&, const StackPass<double>&) const;

}  // namespace gt
