// Kept states and gates, by (step, sample) of the caller's arrays; where T has lost a row, from numbers that have no
// end.
#include <algorithm>
#include <cmath>
#include <string>

#include "ops/recurrent_tracer.h"
#include "ops/wide_rows.h"
#include "ops/wide_states.h"

namespace gt {
namespace {

// Whether a row of this largest magnitude may have lost what it stands for.
template <class T>
bool lost(std::size_t n, const T* x) {
    double largest = 0;
    for (std::size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(static_cast<double>(x[i])));
    return largest < power_of_two<double>(Range<T>::state_low);
}

template <class T>
bool keep_wide(std::size_t n, const Wide* x, T* mantissa, std::int64_t* exponent) {
    std::vector<T> row(n);
    const double top = to_row(n, x, row.data());
    return keep_row(n, row.data(), top, mantissa, exponent);
}

}  // namespace

template <class T>
bool RecurrentTracer<T>::keep_states(std::size_t layer, const ForwardOutputs<T>& out) const {
    const DirectionState<T>& s = states_[layer];
    const std::size_t n = hidden(layer), batch = sequence_.batch();
    Interrupt never([] { return false; });
    const DirectionContext<T> here = context(layer, never);
    WideStates<T> wide(here, s);
    bool fits = true;
    const auto put = [&](const KeptRows<T>& to, const T* rows, const double* exponent, auto wide_row) {
        if (!to) return;
        for (std::size_t slot = 0; slot < batch; ++slot)
            for (std::size_t state = sequence_.length(slot) + 1; state-- > 0;) {  // the last first: `wide` runs once
                const std::size_t row = state ? here.state(state - 1, slot) : slot,
                                  at = state * batch + sequence_.sample(slot);
                const Wide* own = state && lost(n, rows + row * n) ? wide_row(state, slot) : nullptr;
                T* mantissa = to.mantissa + at * n;
                fits &= own ? keep_wide(n, own, mantissa, to.exponent + at)
                            : keep_row(n, rows + row * n, exponent ? exponent[row] : 0.0, mantissa, to.exponent + at);
            }
    };
    put(out.kept_h, s.h, s.h_exponent, [](std::size_t, std::size_t) -> const Wide* { return nullptr; });
    put(out.kept_c, s.c, nullptr, [&](std::size_t state, std::size_t slot) { return wide.c(state, slot); });
    return fits & keep_gates(layer, out.kept_gates);
}

template <class T>
bool RecurrentTracer<T>::keep_gates(std::size_t layer, const KeptRows<T>& to) const {
    if (!to) return true;
    const CellShape& cell = cell_shape(network_.kind);
    const DirectionState<T>& s = states_[layer];
    const ActivationKernels<T>& activation = *isa_.get<T>().activation;
    const auto named = [&](const char* name) {
        std::size_t a = 0;
        while (std::string(activation.info[a].name) != name) ++a;
        return a;
    };
    const std::size_t n = hidden(layer), width = cell.gates * n, row_size = cell.row_blocks * n,
                      sigmoid = named("sigmoid"), tanh = named("tanh");
    std::vector<T> values(width), slope(n);
    std::vector<Wide> wide_values(width);
    bool fits = true;
    sequence_.for_each([&](std::size_t row, std::size_t source) {
        const auto z = [&](std::size_t g) { return s.z + row * row_size + cell.gate_block[g] * n; };
        const auto is_candidate = [&](std::size_t g) { return cell.gate_block[g] == cell.candidate_block; };
        for (std::size_t g = 0; g < cell.gates; ++g)
            activation.evaluate[is_candidate(g) ? tanh : sigmoid](0, n, z(g), values.data() + g * n, slope.data());
        T* mantissa = to.mantissa + source * width;
        if (!lost(width, values.data())) {
            fits &= keep_row(width, values.data(), 0.0, mantissa, to.exponent + source);
            return;
        }
        const Wide* candidate = (*s.wide_z)[row].get();
        for (std::size_t g = 0; g < cell.gates; ++g)
            for (std::size_t u = 0; u < n; ++u) {
                const double at = static_cast<double>(z(g)[u]);
                wide_values[g * n + u] =
                    is_candidate(g) ? wide_tanh(candidate ? candidate[u] : wide(at)) : wide_sigmoid(at);
            }
        fits &= keep_wide(width, wide_values.data(), mantissa, to.exponent + source);
    });
    return fits;
}

template bool RecurrentTracer<float>::keep_states(std::size_t, const ForwardOutputs<float>&) const;
template bool RecurrentTracer<double>::keep_states(std::size_t, const ForwardOutputs<double>&) const;

}  // namespace gt
