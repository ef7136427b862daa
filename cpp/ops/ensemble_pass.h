// The fast way of one network of an ensemble, forward and backward, and one worker's memory for it.
#pragma once

#include <functional>
#include <vector>

#include "core/aligned_buffer.h"
#include "ops/ensemble.h"

namespace gt {

template <class T>
class EnsemblePass {
  public:
    EnsemblePass(const IsaKernels& isa, const EnsembleSpec<T>& spec, const EnsembleOutputs& out,
                 std::size_t keep_bytes);
    // False where only StackTracer is right; then nothing of this network's figures is worth anything.
    // Throws Interrupted where `stopped`, which is asked at every layer, says so.
    bool trace(std::uint64_t seed, std::size_t network, const std::function<bool()>& stopped);

  private:
    using Table = std::vector<double>;  // (rows, samples)

    bool wants(EnsembleFigure figure) const { return out_[static_cast<std::size_t>(figure)] != nullptr; }
    double* figure(EnsembleFigure figure, std::size_t network) const;  // of this network, or null
    const DenseLayer<T>& layer(std::size_t l) const { return spec_.layer(l); }
    double* at(Table& table, std::size_t l) const { return table.data() + l * spec_.samples; }
    T* a(std::size_t l) { return a_.data() + (keeps_a_ ? l : l % 2) * tile_; }
    T* delta(std::size_t l) { return delta_.data() + l * tile_; }  // phi' before the backward pass
    T* weight(std::size_t l);
    bool is_kept(std::size_t l) const { return l >= first_kept_; }

    void draw_weight(std::size_t l);
    void load(T* tile, const T* rows) const;
    void multiply(std::size_t l);
    bool settle_exponents(std::size_t l);
    bool forward_layer(std::size_t l);
    bool check_values(std::size_t l);
    void collect(std::size_t l);
    bool backward_layer(std::size_t l);
    bool check_gradients(std::size_t l);
    double sum_of_pairs(std::size_t l, bool weights, double* left) const;
    bool gradient_of_weights(std::size_t l);
    void pair_similarity(const T* tile, const double* squares, double* to, std::size_t l) const;
    void put(double* to, Table& squares, const Table& exponents, std::size_t rows);
    void put_norms(std::size_t network);

    const IsaKernels& isa_;
    const EnsembleKernels<T>& kernels_;
    const EnsembleSpec<T>& spec_;
    const EnsembleOutputs& out_;
    std::size_t ld_, tile_, group_, matrix_, first_kept_;
    bool keeps_a_, statistics_, gradients_;
    AlignedBuffer<T> kept_, drawn_, panel_, spare_, bias_, rows_, z_, a_, delta_, da_, next_da_;
    Table z_squared_, a_squared_, da_squared_, delta_squared_;
    Table z_exponent_, a_exponent_, da_exponent_, delta_exponent_, on_;
    std::vector<double> exponent_, size_, saturated_, gram_a_, gram_delta_, log2_;
    std::vector<T> linear_;
    std::uint64_t seed_ = 0;
    std::size_t network_ = 0;
};

}  // namespace gt
