// Gradients of one direction's parameters: of the batch, as products over chunks of steps while these wait in the
// cache, and the norm of what each step adds. All at the largest exponent of their terms.
#pragma once

#include <vector>

#include "ops/recurrent_direction.h"
#include "ops/scaled_sum.h"

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

// log2 norms, (steps,) each; ih null: none are wanted.
struct StepNorms {
    double *ih, *hh, *bias_ih, *bias_hh;
};

// One weight matrix of a direction: the columns of dz that it fed, and the rows that it multiplied, which are the
// layer's input or h of the step before.
template <class T>
class GradientSide {
  public:
    enum class Weight { ih, hh };

    GradientSide(const DirectionContext<T>& context, const DirectionState<T>& state, const SequenceRows<T>& input,
                 std::size_t inputs, Weight weight);
    void take_norms(std::size_t first, std::size_t end);  // of steps whose dz is there

    std::size_t columns() const { return columns_; }
    std::size_t width() const { return width_; }
    bool same_columns(const GradientSide& other) const { return first_column_ == other.first_column_; }
    const T* dz(std::size_t row) const {
        const T* rows = own_dz_.empty() ? state_.z + row * context_.row_size()
                                        : own_dz_.data() + (row - own_first_) * context_.row_size();
        return rows + first_column_;
    }
    double dz_exponent(std::size_t row) const { return parted(row) ? parted(row)->exponent : state_.dz_exponent[row]; }
    double dz_log2(std::size_t row) const { return dz_log2_[row - first_]; }  // norms, exponents included
    double right_exponent(std::size_t row) const { return right_exponent_[row - first_]; }
    double right_log2(std::size_t row) const { return right_log2_[row - first_]; }
    double term_log2(std::size_t row) const { return dz_log2(row) + right_log2(row); }  // of dz a^T
    // Rows [row, row + rows) as the terms of a weight's and of a bias's sum; null: not wanted. `count`: zero beyond.
    void set_terms(std::size_t row, std::size_t rows, std::size_t count, ScaledTerms* weight, ScaledTerms* bias) const;
    // The right rows of steps [first, end), behind each other; `scratch` holds as many where they must be gathered.
    const T* right_rows(std::size_t first, std::size_t end, T* scratch) const;
    std::size_t scratch_size(std::size_t steps) const;

  private:
    const PartedRow<T>* parted(std::size_t row) const {
        return first_column_ && state_.parted[row].dz ? &state_.parted[row] : nullptr;
    }
    void take_right_norms(std::size_t t, std::size_t row, std::size_t rows);
    void take_parted(std::size_t first_row, std::size_t end_row);

    const DirectionContext<T>& context_;
    const DirectionState<T>& state_;
    const SequenceRows<T>& input_;
    std::size_t first_column_, columns_, width_, own_first_ = 0;
    std::vector<T> own_dz_;  // a copy of the rows under way, where some of them are parted
    bool recurrent_;
    std::size_t first_ = 0;  // of the rows under way
    std::vector<double> dz_log2_, right_exponent_, right_log2_;
    AlignedBuffer<T> gathered_;
};

// dz^T [right rows of one or two sides], summed over chunks. Sides that took the same columns of dz share one product.
template <class T>
class WeightGradient {
  public:
    WeightGradient(const DirectionContext<T>& context, std::vector<const GradientSide<T>*> sides);
    void add(std::size_t first, std::size_t end);  // steps
    ParameterGradient<T> result(std::size_t side) const;

  private:
    struct SideSum {
        const GradientSide<T>* side;
        std::size_t column;                   // of `value_`
        double exponent = kNegativeInfinity;  // -inf while it is zero
        bool finite = true;
    };
    void make_room(SideSum* sum);

    const DirectionContext<T>& context_;
    std::vector<SideSum> sums_;
    std::size_t columns_, width_ = 0;  // of dz; of all parts, each a whole number of panels
    AlignedBuffer<T> value_, panels_, gathered_;
    AlignedBuffer<unsigned char> product_scratch_;  // by worker
    ScaledTerms terms_;                             // of the part and chunk under way
    std::vector<T> factor_;
    bool empty_ = true;
};

template <class T>
class BiasGradient {
  public:
    BiasGradient(const DirectionContext<T>& context, const GradientSide<T>& side);
    void add(std::size_t first, std::size_t end);
    ParameterGradient<double> result() const;

  private:
    const DirectionContext<T>& context_;
    const GradientSide<T>& side_;
    ScaledTerms terms_;
    ScaledSum<double> sum_;
};

template <class T>
class StepNormPass;  // ops/recurrent_step_norms.h

// Everything of this header for one direction.
template <class T>
class GradientPass {
  public:
    GradientPass(const DirectionContext<T>& context, const DirectionState<T>& state, const SequenceRows<T>& input,
                 std::size_t inputs, const StepNorms& norms);
    ~GradientPass();
    void add(std::size_t first, std::size_t end);  // steps whose dz is where `state.z` was
    DirectionGradients<T> result() const;

  private:
    void add_norms(std::size_t first, std::size_t end);

    const DirectionContext<T>& context_;
    GradientSide<T> ih_, hh_;
    std::vector<WeightGradient<T>> weights_;
    std::vector<BiasGradient<T>> biases_;
    StepNorms norms_;
    std::vector<StepNormPass<T>> norm_passes_;  // one for each worker
};

}  // namespace gt
