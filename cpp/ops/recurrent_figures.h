// The figures of a recurrent network's trace by name: what its passes write into, and the gradients of its parameters.
#pragma once

#include <vector>

#include "ops/figures.h"
#include "ops/recurrent_tracer.h"

namespace gt {

template <class T>
class RecurrentFigures {
  public:
    // Asks `to` for every array; all read NaN until they are written, which no one does past a sample's end.
    RecurrentFigures(const RecurrentNetwork<T>& network, std::size_t steps, std::size_t batch, const Names& keep,
                     Figures<T>& to);

    // `directions`, `log2_dx` and `dx` are of the backward pass, `forwards` of the one before.
    std::vector<DirectionOutputs<T>> directions;
    std::vector<ForwardOutputs<T>> forwards;
    double* log2_dx;
    KeptRows<T> dx;

    bool write_gradients(const RecurrentTracer<T>& tracer);  // false where a kept exponent is beyond int64

  private:
    std::size_t layers() const { return network_.layers.size(); }
    std::size_t hidden(std::size_t k) const { return network_.layers[k].hidden; }
    bool keeps(const char* name) const { return keep_.count(name) != 0; }
    bool uniform() const;
    double* blank(const char* name, const Extents& shape);
    LayerArrays<double> of_layers(const char* name, const Extents& shape);
    LayerArrays<double> of_units(const char* name);
    std::vector<KeptRows<T>> kept_layers(const char* name, std::size_t entries, std::size_t blocks);
    void place_states();
    void place_gates();
    void place_steps();
    void place_gradients();
    void place_kept();
    template <class GradientOf, class ShapeOf>
    bool write(double* norms, const char* name, GradientOf&& gradient_of, ShapeOf&& shape_of);

    const RecurrentNetwork<T>& network_;
    const CellShape& cell_;
    std::size_t steps_, batch_;
    const Names& keep_;
    Figures<T>& to_;
    double *norm_ih_, *norm_hh_, *norm_bias_ih_, *norm_bias_hh_;  // of the gradients, (layers,) each
};

// What a trace of so many sequences takes: its figures with the states and gates of every step, and what is kept.
template <class T>
CountedFigures<T> recurrent_memory(const RecurrentNetwork<T>& network, std::size_t steps, std::size_t batch,
                                   const Names& keep);

template <class T>
std::size_t recurrent_state_bytes(const RecurrentNetwork<T>& network, std::size_t steps, std::size_t batch);  // alone

// Of the influence of all states on each other.
std::size_t influence_bytes(const CellShape& cell, std::size_t steps, std::size_t batch);

}  // namespace gt
