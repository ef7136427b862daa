// Many random networks of one law, each drawn, traced and forgotten: what a point of a sweep is.
//
// A network is `depth` matrices of width x width, the same activation behind each but perhaps the last. Its numbers
// come from its seed alone, as gradtrace.Stack.random draws them: layer l has stream l. Inputs and the gradients at the
// output are standard normals of streams of their own.
//
// The fast way (ensemble_pass.cpp) carries a network's few samples as rows, with sums in T and an exponent a sample.
// Where something leaves what it is right for (values or gradients beyond reach, derivatives that fade, sums that
// cancel, layer normalisation) it says so and the network is traced anew by StackTracer (ensemble_exact.cpp).
#pragma once

#include <array>
#include <cmath>
#include <functional>
#include <vector>

#include "ops/dense_stack.h"
#include "ops/random.h"

namespace gt {

// What is reported, in the order of ensemble_figures().
enum class EnsembleFigure : std::size_t {
    log2_delta,
    log2_activation,
    log2_preactivation,
    log2_grad_weight_sample,
    activation_gain,
    weight_gain,
    log2_grad_input,
    log2_grad_weight,
    log2_grad_bias,
    similarity,
    delta_similarity,
    saturated,
    derivative_mean,
    dead_units,
    dead_samples,
    kCount
};
constexpr auto kEnsembleFigures = static_cast<std::size_t>(EnsembleFigure::kCount);

struct EnsembleFigureInfo {
    const char* name;
    enum class Of { sample, pair, network } of;          // pairs: samples 0 and 1, 2 and 3, ...
    enum class Entries { layers, values, one } entries;  // values: the input and every layer
};
const std::array<EnsembleFigureInfo, kEnsembleFigures>& ensemble_figures();

template <class T>
struct EnsembleSpec {
    std::size_t width, depth, samples;
    MatrixLaw law;
    double weight_factor;
    bool has_bias;
    Law bias_law;
    double bias_factor;
    DenseLayer<T> hidden, output;  // activation, skip connection and normalisation of a layer; no pointers
    const T* inputs = nullptr;     // (samples, width) for all networks; null: drawn
    double similarity = kNaN;      // cosine of each pair of drawn inputs; NaN: drawn apart

    const DenseLayer<T>& layer(std::size_t l) const { return l + 1 == depth ? output : hidden; }
    std::size_t rows_of(const EnsembleFigureInfo& figure) const;
    std::size_t entries_of(const EnsembleFigureInfo& figure) const;
};

// Of network i figure f stands at [f] + i * rows_of(f) * entries_of(f), as (rows, entries); null where it is not asked.
using EnsembleOutputs = std::array<double*, kEnsembleFigures>;

// (samples, width) each, contiguous: what a network of this seed is traced with.
template <class T>
void draw_ensemble_inputs(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, T* x);
template <class T>
void draw_ensemble_cotangent(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, T* cotangent);

// Rows [row, row + rows) of layer l's matrix, ld apart; `row` a multiple of kEnsembleRows. Not for orthogonal ones.
constexpr std::size_t kEnsembleRows = 32;
template <class T>
void draw_ensemble_rows(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, std::size_t l,
                        std::size_t row, std::size_t rows, std::size_t ld, T* spare, T* weight);
template <class T>
void draw_ensemble_bias(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, std::size_t l, T* bias);

// Traces the networks of these seeds, `keep_bytes` of weights kept between the passes of each worker and the rest drawn
// twice. The same bits for every number of threads. Returns how many were traced exactly. Throws Interrupted,
// std::bad_alloc.
template <class T>
std::size_t trace_ensemble(const IsaKernels& isa, const EnsembleSpec<T>& spec, const std::vector<std::uint64_t>& seeds,
                           std::size_t keep_bytes, const EnsembleOutputs& out, Interrupt& interrupt);

// ensemble_exact.cpp: one network, by StackTracer.
template <class T>
void trace_network_exactly(const IsaKernels& isa, const EnsembleSpec<T>& spec, std::uint64_t seed, std::size_t network,
                           const EnsembleOutputs& out, const std::function<bool()>& stopped);

}  // namespace gt
