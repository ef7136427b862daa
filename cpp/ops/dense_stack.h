// A stack of fully connected layers: the network, and one block of samples carried forward and backward through it with
// the range scheme.
//
//   z_l = W_l a_{l-1} + b_l,  a_l = phi_l(z_l);  delta_l = phi_l'(z_l) * da_l,  da_{l-1} = W_l^T delta_l
//
// A layer may normalise z over its units before phi (dense_layer_norm.cpp), and may add its input to s * phi(z), a skip
// connection (dense_residual.cpp). delta is always the gradient of W a + b, so that delta a^T is that of W.
//
// Layers count from 0 here, so a[0] is the input and a[l + 1] the output of layer l.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/aligned_buffer.h"
#include "core/scaled.h"
#include "isa/dispatch.h"
#include "ops/loss.h"
#include "ops/parallel.h"
#include "ops/scaled_values.h"

namespace gt {

template <class T>
struct DenseLayer {
    std::size_t inputs, outputs;
    const T* weight;                   // (outputs, inputs), the caller's
    const T* bias;                     // (outputs,), or null
    std::size_t activation;            // index into ActivationKernels
    double parameter;                  // of the activation
    ActivationInfo info;               // with that parameter
    double residual;                   // a_l = a_{l-1} + residual * phi(z_l); 0: a_l = phi(z_l)
    bool normalised;                   // phi takes norm_weight * normal(z_l) + norm_bias
    const T *norm_weight, *norm_bias;  // (outputs,), or null
};

constexpr double kLayerNormEpsilon = 1e-5;  // added to the variance, as PyTorch has it

// The layers with what one pass over each matrix tells: its norm, and a scaled copy where its entries are extreme.
// Biases likewise; all-zero ones count as none.
template <class T>
class StackNetwork {
  public:
    StackNetwork(const IsaKernels& isa, std::vector<DenseLayer<T>> layers);

    std::size_t depth() const { return layers_.size(); }
    const DenseLayer<T>& layer(std::size_t l) const { return layers_[l]; }
    std::size_t units(std::size_t l) const { return l == 0 ? layers_[0].inputs : layers_[l - 1].outputs; }
    std::size_t total_units() const;  // inputs and all layers
    std::size_t max_units() const;
    double total_weights() const;
    bool may_die() const;   // whether some layer's activation can be off for good
    bool has_skip() const;  // whether some layer adds its input

    void prepare(std::size_t l);  // once per layer, before its first use; different layers in any order or thread
    // The same while y = W x is taken for a single sample, which reads the weights once for both. False: they had to be
    // scaled, and y is that of the unscaled ones.
    bool prepare_with_product(std::size_t l, const T* x, T* y);
    bool prepared(std::size_t l) const { return weights_[l].taken(); }
    const T* weight(std::size_t l) const { return weights_[l].data(); }
    double weight_exponent(std::size_t l) const { return weights_[l].exponent(); }  // W = weight * 2^exponent
    // What a pass will read of layer l; the caller's weights too where they are not yet prepared.
    void add_weight(std::size_t l, Prefetch* prefetch) const {
        prefetch->add(weight(l) ? weight(l) : layers_[l].weight, layers_[l].outputs * layers_[l].inputs);
    }
    const T* bias(std::size_t l) const { return biases_[l].is_zero() ? nullptr : biases_[l].data(); }
    double bias_exponent(std::size_t l) const { return biases_[l].exponent(); }
    double log2_bias(std::size_t l) const { return biases_[l].log2_norm(); }
    double log2_weight(std::size_t l) const { return weights_[l].log2_norm(); }  // Frobenius

  private:
    const IsaKernels& isa_;
    std::vector<DenseLayer<T>> layers_;
    std::vector<ScaledValues<T>> weights_, biases_;
};

// Sums over one block's samples and units of a layer, for the statistics; merged in block order.
struct LayerStatistics {
    double count = 0;
    double z_mean = 0, z_spread = 0, a_mean = 0, a_spread = 0;  // spread: root of the squared distances' sum
    double derivative = 0, saturated = 0;                       // sums of |phi'| and of the saturated entries
    double dead_samples = 0;

    void merge(const LayerStatistics& other);
};

// Per-sample results of a block: entry [l * stride + sample].
struct SampleOutputs {
    std::size_t stride = 0;  // samples of the whole call
    double *log2_delta = nullptr, *log2_delta_max = nullptr, *activation_gain = nullptr, *norm_gain = nullptr,
           *weight_gain = nullptr, *log2_preactivation = nullptr;
    double* log2_activation = nullptr;                             // one row more: the input
    double* log2_grad_weight_sample = nullptr;                     // of log2_delta and log2_activation, at the end
    double *log2_cotangent = nullptr, *log2_grad_input = nullptr;  // (stride,)
};

// Blocks that a worker carries side by side, at most.
constexpr std::size_t kSideBySide = 4;

// Memory of one worker, used again from layer to layer, for `side_by_side` passes.
template <class T>
struct StackScratch {
    StackScratch(const StackNetwork<T>& network, std::size_t columns, std::size_t side_by_side);
    std::size_t tile_size;                           // max units * columns
    AlignedBuffer<T> z;                              // a tile for each pass
    AlignedBuffer<T> spare_a, spare_derivative;      // a tile
    AlignedBuffer<double> row, log_magnitude, sign;  // (max units,)
    void* product = nullptr;                         // scratch of products; the trace's
};

enum class Keep { all_layers, last_layer };  // what of the tiles a block must hold: a trace needs all

// One block of samples. Tiles are (units, columns), samples contiguous; columns beyond `samples` are padding: copies of
// the first sample forward, zero backward. Workers may share its columns, in quanta of kColumnMultiple; sums over
// samples are kept for every quantum, so that they do not depend on the cut.
template <class T>
struct StackBlock {
    StackBlock(const StackNetwork<T>& network, std::size_t columns, Keep keep);
    void start(unsigned char* arena, std::size_t first, std::size_t samples);  // for a new set of samples

    std::size_t columns, arena_bytes;
    std::size_t first = 0, samples = 0;
    unsigned char* arena = nullptr;                                  // tiles, then exponents
    std::vector<std::size_t> a_offset, delta_offset, normal_offset;  // of each layer's tile
    std::size_t da_offset[2] = {}, exponent_offset = 0;
    // Per sample: first layer with an infinite or NaN value, negative where that was before the network's first, or
    // depth.
    std::vector<std::ptrdiff_t> nonfinite;
    std::vector<std::size_t> first_unit;  // of each layer in a list of all units
    std::size_t total_units = 0;
    bool may_die = false;
    // UnitLife flags of quantum q: [q * total_units + first_unit[l] + unit]; empty where no layer may die.
    std::vector<std::uint8_t> alive;
    std::vector<LayerStatistics> statistics;  // of quantum q: [q * depth + l]
    std::vector<double> loss;                 // of quantum q

    std::size_t quanta() const { return (columns + kColumnMultiple - 1) / kColumnMultiple; }
    std::size_t depth() const { return first_unit.size(); }
    T* tile(std::size_t offset) const { return reinterpret_cast<T*>(arena) + offset; }
    T* a(std::size_t l) const { return tile(a_offset[l]); }
    T* delta(std::size_t l) const { return tile(delta_offset[l]); }
    T* da(std::size_t l) const { return tile(da_offset[l % 2]); }  // dL/da[l], until the next layer but one
    T* normal(std::size_t l) const { return tile(normal_offset[l]); }
    double* exponent_of_a(std::size_t l) const {
        return reinterpret_cast<double*>(arena + exponent_offset) + l * columns;
    }
    double* exponent_of_delta(std::size_t l) const { return exponent_of_a(depth() + 1 + l); }
    // log2 of the deviation that a normalised layer divided by.
    double* log2_deviation(std::size_t l) const { return exponent_of_a(2 * depth() + 1 + l); }
};

// The columns [column, column + columns) of a block, whole quanta of them: what one worker carries.
template <class T>
class BlockPart {
  public:
    explicit BlockPart(StackBlock<T>& block) : BlockPart(block, 0, block.columns) {}
    BlockPart(StackBlock<T>& block, std::size_t column, std::size_t columns)
        : columns(columns),
          ld(block.columns),
          samples(block.samples > column ? std::min(columns, block.samples - column) : 0),
          first(block.first + column),
          block_(&block),
          column_(column) {}

    std::size_t columns, ld, samples, first;  // `first`: of the batch

    std::size_t block_first() const { return block_->first; }
    T* a(std::size_t l) const { return block_->a(l) + column_; }
    T* delta(std::size_t l) const { return block_->delta(l) + column_; }
    T* da(std::size_t l) const { return block_->da(l) + column_; }
    T* normal(std::size_t l) const { return block_->normal(l) + column_; }
    double* exponent_of_a(std::size_t l) const { return block_->exponent_of_a(l) + column_; }
    double* exponent_of_delta(std::size_t l) const { return block_->exponent_of_delta(l) + column_; }
    double* log2_deviation(std::size_t l) const { return block_->log2_deviation(l) + column_; }
    std::ptrdiff_t& nonfinite(std::size_t b) const { return block_->nonfinite[column_ + b]; }
    std::uint8_t* alive(std::size_t l) const {
        if (!block_->may_die) return nullptr;
        return block_->alive.data() + quantum(0) * block_->total_units + block_->first_unit[l];
    }
    LayerStatistics& statistics(std::size_t l, std::size_t b) const {
        return block_->statistics[quantum(b) * block_->depth() + l];
    }
    double* loss(std::size_t b) const { return &block_->loss[quantum(b)]; }
    // What will be needed of a tile; a shared one not at all: lines come in pairs, and another worker is writing the
    // other half.
    void add_tile(const T* tile, std::size_t units, Prefetch* prefetch) const {
        if (columns == ld) prefetch->add(tile, units * ld);
    }

  private:
    std::size_t quantum(std::size_t b) const { return (column_ + b) / kColumnMultiple; }

    StackBlock<T>* block_;
    std::size_t column_;
};

// What all samples of a call brought to a place between two layers, as their passes left it: (samples, units) with an
// exponent each, and the norms that the layer below has told of.
template <class T>
struct StackRows {
    StackRows() = default;
    StackRows(std::size_t samples, std::size_t units)
        : units(units), values(checked_multiply(samples, units)), exponent(samples), log2_norm(samples) {}

    std::size_t units = 0;
    AlignedBuffer<T> values;
    std::vector<double> exponent, log2_norm;
    std::int64_t* nonfinite = nullptr;  // (samples,): first such layer of the whole stack, or its depth
};

// What came down to it: dL/da, and the norm of delta of the layer above.
template <class T>
struct StackGradient {
    StackGradient() = default;
    StackGradient(std::size_t samples, std::size_t units)
        : units(units),
          values(checked_multiply(samples, units)),
          exponent(samples),
          log2_delta(samples),
          delta_exponent(samples) {}

    std::size_t units = 0;
    AlignedBuffer<T> values;
    std::vector<double> exponent, log2_delta, delta_exponent;
};

// What the product of a layer became: z times 2^exponent is the true preactivation.
template <class T>
struct Preactivation {
    bool scaled = false;  // false: every exponent is 0 and `scale` is not set
    PreactivationScale<T> scale;
    double exponent[kMaxColumns];
};

// A layer on its way forward: what the product becomes, and where phi of it goes.
template <class T>
struct LayerForward {
    Preactivation<T> z;
    T *a, *derivative;
    std::uint8_t* alive;  // or null
    ForwardSums sums;
    bool have_product;  // z is there already
};

// The passes of one part of a block; borrows everything.
template <class T>
class StackPass {
  public:
    StackPass(const IsaKernels& isa, StackNetwork<T>& network, const BlockPart<T>& part, const SampleOutputs& out)
        : isa_(isa), kernels_(isa.get<T>()), network_(network), part_(part), out_(out) {}

    // The memory of whoever carries on, as pass `index` of those side by side; nothing stays there between two calls.
    void use(StackScratch<T>& scratch, std::size_t index) {
        scratch_ = &scratch;
        z_ = scratch.z.data() + index * scratch.tile_size;
    }

    // dense_forward.cpp
    void load_input(const T* x);  // (batch, n_0)
    // All passes side by side, at most kSideBySide: a layer's weights come from memory, and are copied or split for the
    // product, once for all of them.
    static void forward_layer(StackPass* passes, std::size_t count, std::size_t l);
    void store_output(T* y);  // (batch, n_L), plain values

    // dense_checkpoint.cpp: where the network is some layers of a deeper one, of which `first` is the first.
    void load_rows(const StackRows<T>& rows, std::size_t first);
    void store_rows(std::size_t first, StackRows<T>* rows) const;
    void load_gradient(const StackGradient<T>& gradient);
    void store_gradient(StackGradient<T>* gradient) const;

    // dense_backward.cpp
    void load_cotangent(const Cotangent<T>& cotangent);
    // From dL/da of the layer's output to delta, and on to dL/da of its input.
    static void backward_layer(StackPass* passes, std::size_t count, std::size_t l);
    // Whether a row of phi', as kept, has lost units to the format; and the row anew, of the sample that has just come
    // forward through layer l. False: its exponent is no int64.
    bool has_faded_derivative(std::size_t l, const T* row, std::int64_t exponent) const;
    bool derivative_from_log(std::size_t l, std::size_t b, T* row, std::int64_t* exponent) const;
    void finish_backward();  // the norm of dL/dx, whose rows are left in part().da(0)
    void finish_samples();   // the norm of each sample's dL/dW
    const double* exponent_of_da() const { return da_exponent_; }
    const BlockPart<T>& part() const { return part_; }

  private:
    void start_layer(std::size_t l, T* a, T* derivative, std::uint8_t* alive);
    static void compute_layer(StackPass* passes, std::size_t count, std::size_t l, Prefetch* prefetch);
    void activate(std::size_t l, std::size_t row, std::size_t rows);
    void finish_layer(std::size_t l);
    void plan_scale(std::size_t l, Preactivation<T>* z) const;
    void find_linear_samples(std::size_t l, Preactivation<T>* z) const;
    void redo_from_log_value(std::size_t l, const double* log2_z, double* exponent, double* log2_a);
    void collect_statistics(std::size_t l, const double* a_exponent, const double* log2_z,
                            const double* log2_a);  // norms of the mantissas
    void pass_activation(std::size_t l);
    void finish_input_gradient(std::size_t l);
    void log2_derivative(std::size_t l, std::size_t b, double* log2_size, double* sign) const;
    void redo_from_log_derivative(std::size_t l, const std::vector<std::size_t>& samples, BackwardTile<T>* tile);
    void mark_nonfinite(std::size_t l, BackwardTile<T>* tile);

    // dense_layer_norm.cpp: z of the whole layer, and delta, in place
    void normalise(std::size_t l, Preactivation<T>* z);
    void normalise_backward(std::size_t l, BackwardTile<T>* tile);
    // dense_residual.cpp
    void add_input(std::size_t l, const double* log2_a, double* exponent, ForwardSums* sums);
    void scale_branch(std::size_t l, BackwardTile<T>* tile) const;
    void add_skipped_gradient(std::size_t l, const double* exponent);
    std::array<double, kMaxColumns> log2_largest(std::size_t units, const T* tile) const;  // of the mantissas

    const ActivationInfo& info(std::size_t l) const { return network_.layer(l).info; }
    // log2 of the norm of every sample's mantissas, from their sums of squares where those can be trusted.
    void norms(std::size_t units, const T* tile, const double* squares, double* log2_norm) const;
    // Brings those samples back into range that left it; `log2_size` is of the mantissas.
    void rescale(std::size_t units, T* tile, double* exponent, const double* log2_size) const;
    // Row l of a result: mantissas' log2 plus exponent.
    void put(double* to, std::size_t l, const double* log2_mantissa, const double* exponent) const;
    void put_gain(double* to, std::size_t l, const double* log2_after, const double* exponent_after,
                  const double* log2_before, const double* exponent_before) const;

    const IsaKernels& isa_;
    const KernelTable<T>& kernels_;
    StackNetwork<T>& network_;
    BlockPart<T> part_;
    StackScratch<T>* scratch_ = nullptr;
    T* z_ = nullptr;  // of the layer under way
    const SampleOutputs& out_;
    LayerForward<T> layer_;
    double da_exponent_[kMaxColumns] = {};  // of part_.da(l)
    double log2_da_[kMaxColumns] = {};
    double log2_delta_[kMaxColumns] = {};  // of the layer above, with its exponent before it was rescaled
    double delta_exponent_[kMaxColumns] = {};
    double log2_output_[kMaxColumns] = {};  // of the last layer passed forward
    bool continues_ = false;                // dL/da came down from a layer above the network's last
};

}  // namespace gt
