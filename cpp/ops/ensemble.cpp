#include "ops/ensemble.h"

#include <algorithm>
#include <memory>

#include "core/shape.h"
#include "ops/ensemble_pass.h"

namespace gt {

const std::array<EnsembleFigureInfo, kEnsembleFigures>& ensemble_figures() {
    using Of = EnsembleFigureInfo::Of;
    using Entries = EnsembleFigureInfo::Entries;
    static const std::array<EnsembleFigureInfo, kEnsembleFigures> all{{
        {"log2_delta", Of::sample, Entries::layers},
        {"log2_activation", Of::sample, Entries::values},
        {"log2_preactivation", Of::sample, Entries::layers},
        {"log2_grad_weight_sample", Of::sample, Entries::layers},
        {"activation_gain", Of::sample, Entries::layers},
        {"weight_gain", Of::sample, Entries::layers},
        {"log2_grad_input", Of::sample, Entries::one},
        {"log2_grad_weight", Of::network, Entries::layers},
        {"log2_grad_bias", Of::network, Entries::layers},
        {"similarity", Of::pair, Entries::layers},
        {"delta_similarity", Of::pair, Entries::layers},
        {"saturated", Of::network, Entries::layers},
        {"derivative_mean", Of::network, Entries::layers},
        {"dead_units", Of::network, Entries::layers},
        {"dead_samples", Of::network, Entries::layers},
    }};
    return all;
}

template <class T>
std::size_t EnsembleSpec<T>::rows_of(const EnsembleFigureInfo& figure) const {
    if (figure.of == EnsembleFigureInfo::Of::network) return 1;
    return figure.of == EnsembleFigureInfo::Of::pair ? samples / 2 : samples;
}

template <class T>
std::size_t EnsembleSpec<T>::entries_of(const EnsembleFigureInfo& figure) const {
    if (figure.entries == EnsembleFigureInfo::Entries::one) return 1;
    return figure.entries == EnsembleFigureInfo::Entries::values ? depth + 1 : depth;
}

// ---- what is drawn --------------------------------------------------------------------------------------------------

template <class T>
void draw_ensemble_inputs(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, T* x) {
    const std::size_t n = spec.width;
    if (spec.inputs) {
        std::copy(spec.inputs, spec.inputs + spec.samples * n, x);
        return;
    }
    fill_range(isa, Law::normal, seed, 0, Draw::input, 1.0, 0, spec.samples * n, x);
    if (std::isnan(spec.similarity)) return;
    // The second of a pair: c times the first, and of what was drawn for it the part at right angles to the first.
    const double sine = std::sqrt(std::max(0.0, 1 - spec.similarity * spec.similarity));
    for (std::size_t b = 0; b + 1 < spec.samples; b += 2) {
        const T* first = x + b * n;
        T* second = x + (b + 1) * n;
        double squares = 0, along = 0, across = 0;
        for (std::size_t u = 0; u < n; ++u) {
            squares += static_cast<double>(first[u]) * static_cast<double>(first[u]);
            along += static_cast<double>(first[u]) * static_cast<double>(second[u]);
        }
        along /= squares;
        const auto rest = [&](std::size_t u) {
            return static_cast<double>(second[u]) - along * static_cast<double>(first[u]);
        };
        for (std::size_t u = 0; u < n; ++u) across += rest(u) * rest(u);
        const double factor = across > 0 ? sine * std::sqrt(squares / across) : 0;
        for (std::size_t u = 0; u < n; ++u)
            second[u] = static_cast<T>(spec.similarity * static_cast<double>(first[u]) + factor * rest(u));
    }
}

template <class T>
void draw_ensemble_cotangent(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, T* cotangent) {
    fill_range(isa, Law::normal, seed, 0, Draw::cotangent, 1.0, 0, spec.samples * spec.width, cotangent);
}

template <class T>
void draw_ensemble_rows(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, std::size_t l,
                        std::size_t row, std::size_t rows, std::size_t ld, T* spare, T* weight) {
    const std::size_t n = spec.width;
    T* to = ld == n ? weight : spare;
    const Law law = spec.law == MatrixLaw::normal ? Law::normal : Law::uniform;
    fill_range(isa, law, seed, static_cast<std::uint32_t>(l), Draw::weight, spec.weight_factor, row * n, rows * n, to);
    for (std::size_t r = 0; ld != n && r < rows; ++r) std::copy(to + r * n, to + (r + 1) * n, weight + r * ld);
}

template <class T>
void draw_ensemble_bias(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, std::size_t l,
                        T* bias) {
    fill_range(isa, spec.bias_law, seed, static_cast<std::uint32_t>(l), Draw::bias, spec.bias_factor, 0, spec.width,
               bias);
}

// Whether products of rows near 1 stay in float32: what is lost there would look dead.
template <class T>
bool ordinary(const EnsembleSpec<T>& spec) {
    const auto near_one = [](double factor) {
        return factor == 0 || (std::fabs(factor) > 0x1p-30 && std::fabs(factor) < 0x1p+30);
    };
    return spec.weight_factor != 0 && near_one(spec.weight_factor) && near_one(spec.bias_factor) &&
           near_one(spec.hidden.residual);
}

// ---- all networks ---------------------------------------------------------------------------------------------------

template <class T>
std::size_t trace_ensemble(const IsaKernels& isa, const EnsembleSpec<T>& spec, const std::vector<std::uint64_t>& seeds,
                           std::size_t keep_bytes, const EnsembleOutputs& out, Interrupt& interrupt) {
    const auto n = static_cast<double>(spec.width), draws = static_cast<double>(seeds.size() * spec.depth) * n * n;
    const Loop loop{seeds.size(), draws * (2 + 4 * static_cast<double>(spec.samples))};
    const bool exact = spec.hidden.normalised || !ordinary(spec);
    std::vector<std::unique_ptr<EnsemblePass<T>>> passes(loop.workers());
    std::vector<std::uint8_t> redone(seeds.size());
    parallel_for(loop, [&](std::size_t i, std::size_t worker) {
        if (interrupt.requested(worker)) return;
        if (!exact && !passes[worker]) passes[worker] = std::make_unique<EnsemblePass<T>>(isa, spec, out, keep_bytes);
        const auto stopped = [&] { return interrupt.requested(worker); };
        if (!exact && passes[worker]->trace(seeds[i], i, stopped)) return;
        trace_network_exactly(isa, spec, seeds[i], i, out, stopped);
        redone[i] = 1;
    });
    if (interrupt.stopped()) throw Interrupted{};
    return static_cast<std::size_t>(std::count(redone.begin(), redone.end(), 1));
}

#define GT_INSTANTIATE(T)                                                                                           \
    template struct EnsembleSpec<T>;                                                                                \
    template void draw_ensemble_inputs<T>(const IsaKernels&, const EnsembleSpec<T>&, std::uint64_t, T*);            \
    template void draw_ensemble_cotangent<T>(const IsaKernels&, const EnsembleSpec<T>&, std::uint64_t, T*);         \
    template void draw_ensemble_rows<T>(const IsaKernels&, const EnsembleSpec<T>&, std::uint64_t, std::size_t,      \
                                        std::size_t, std::size_t, std::size_t, T*, T*);                             \
    template void draw_ensemble_bias<T>(const IsaKernels&, const EnsembleSpec<T>&, std::uint64_t, std::size_t, T*); \
    template std::size_t trace_ensemble<T>(const IsaKernels&, const EnsembleSpec<T>&,                               \
                                           const std::vector<std::uint64_t>&, std::size_t, const EnsembleOutputs&,  \
                                           Interrupt&);
GT_INSTANTIATE(float)
GT_INSTANTIATE(double)
#undef GT_INSTANTIATE

}  // namespace gt
