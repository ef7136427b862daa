// Gradients of one direction's parameters: of the batch, as one product over all steps, and the norm of what each step
// adds. Both at the largest exponent of their terms.
#pragma once

#include <vector>

#include "ops/recurrent_direction.h"

namespace gt {

// value * 2^exponent; blocks in the core's order.
template <class V>
struct ParameterGradient {
    AlignedBuffer<V> value;
    double exponent = 0, log2_norm = kNegativeInfinity;
};

template <class T>
struct DirectionGradients {
    ParameterGradient<T> ih, hh;                 // (weight_blocks * hidden, inputs or hidden)
    ParameterGradient<double> bias_ih, bias_hh;  // (weight_blocks * hidden,); the latter for a GRU, else the same
};

// log2 norms, (steps,) each; null: not wanted.
struct StepNorms {
    double *ih, *hh, *bias_ih, *bias_hh;
};

// One weight matrix of a direction after its backward pass: the columns of dz that it fed, and the rows that it
// multiplied, which are the layer's input or h of the step before.
template <class T>
class GradientSide {
  public:
    enum class Weight { ih, hh };

    GradientSide(const DirectionContext<T>& context, const DirectionState<T>& state, const T* input, std::size_t inputs,
                 Weight weight);

    std::size_t columns() const { return columns_; }
    std::size_t width() const { return width_; }
    bool same_columns(const GradientSide& other) const {
        return first_column_ == other.first_column_ && columns_ == other.columns_;
    }
    const T* dz(std::size_t row) const { return state_.z + row * context_.row_size() + first_column_; }
    double dz_exponent(std::size_t row) const { return state_.dz_exponent[row]; }
    double dz_log2(std::size_t row) const { return dz_log2_[row]; }  // norms, exponents included
    double right_log2(std::size_t row) const { return right_log2_[row]; }
    // The right rows of steps [first, end), behind each other; `scratch` holds as many where they must be gathered.
    const T* right_rows(std::size_t first, std::size_t end, T* scratch) const;
    std::size_t scratch_size(std::size_t steps) const;

  private:
    const DirectionContext<T>& context_;
    const DirectionState<T>& state_;
    const T* input_;
    std::size_t first_column_, columns_, width_;
    bool recurrent_;
    std::vector<double> dz_log2_, right_log2_;
};

// From dz where `state.z` was, h, and the input in the sequence's own order.
template <class T>
void direction_gradients(const DirectionContext<T>& context, const T* input, std::size_t inputs,
                         const DirectionState<T>& state, DirectionGradients<T>* gradients, const StepNorms& steps);

// step_norms.cpp: what every step adds to the two weights and their biases.
template <class T>
void step_norms(const DirectionContext<T>& context, const GradientSide<T>& ih, const GradientSide<T>& hh,
                const StepNorms& steps);

}  // namespace gt
