// Many random recurrent networks of one law: each drawn, run forward and backward, and its figures handed out.
//
// Threads share the networks; each is traced by one thread from end to end, in memory that this thread keeps for the
// next one. Its figures are those that a trace of the same network gives, bit by bit.
#pragma once

#include <string>
#include <vector>

#include "ops/figures.h"
#include "ops/recurrent_draw.h"
#include "ops/recurrent_tracer.h"

namespace gt {

template <class T>
struct RecurrentEnsemble {
    RecurrentLaw law;
    std::size_t steps, samples;
    const T* x;          // (steps, samples, inputs) of all networks; null: each has its own, standard normal
    const T* cotangent;  // (samples, outputs) at the last step or (steps, samples, outputs) at every one; null likewise
    bool every_step;

    std::size_t outputs() const { return law.directions * law.hidden; }
    std::size_t input_count() const { return checked_multiply(checked_multiply(steps, samples), law.inputs); }
    std::size_t cotangent_count() const {
        return checked_multiply(checked_multiply(every_step ? steps : 1, samples), outputs());
    }
};

// One figure of a network as an ensemble has it: samples in front (1 where it is the network's), then layers and
// gates, time last.
struct EnsembleFigure {
    std::string name;
    Extents shape;
    std::size_t matrices, rows, columns;  // a trace has the same as matrices (rows, columns), to be transposed

    std::size_t size() const { return checked_multiply(matrices, checked_multiply(rows, columns)); }
};

// All that the law's cell has.
template <class T>
std::vector<EnsembleFigure> ensemble_figures(const RecurrentEnsemble<T>& ensemble);

// What one network's trace takes.
template <class T>
std::size_t trace_bytes(const RecurrentEnsemble<T>& ensemble);

// Figure i of network n goes to out[i] + n * figures[i].size(). Throws Interrupted.
template <class T>
void trace_recurrent_ensemble(const IsaKernels& isa, const RecurrentEnsemble<T>& ensemble,
                              const std::vector<std::uint64_t>& seeds, const std::vector<EnsembleFigure>& figures,
                              const std::vector<double*>& out, Interrupt& interrupt);

}  // namespace gt
