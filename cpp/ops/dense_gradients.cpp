#include "ops/dense_gradients.h"

#include <algorithm>
#include <cmath>

#include "core/shape.h"

namespace gt {
namespace {

// What cancels to almost nothing leaves entries whose squares T cannot hold.
template <class T>
double row_squares(const KernelTable<T>& kernels, std::size_t count, const T* x) {
    const double squares = kernels.reduce->flat_squares(count, x);
    if (!(squares < Range<T>::norm_low)) return squares;
    T largest = 0;
    kernels.reduce->column_max(count, 1, 1, x, &largest);
    double sum = 0;
    for (std::size_t i = 0; largest > T(0) && i < count; ++i)
        sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
}

// The sums of one layer over the samples of a chunk; sample b of block i is term i * columns + b.
template <class T>
class LayerSums {
  public:
    LayerSums(const KernelTable<T>& kernels, const StackNetwork<T>& network, std::size_t l,
              const std::vector<StackBlock<T>>& blocks, std::size_t block_count, GradientScratch<T>& scratch)
        : kernels_(kernels),
          l_(l),
          inputs_(network.layer(l).inputs),
          outputs_(network.layer(l).outputs),
          columns_(blocks[0].columns),
          blocks_(blocks),
          block_count_(block_count),
          scratch_(scratch) {}

    std::size_t samples() const { return (block_count_ - 1) * columns_ + blocks_[block_count_ - 1].samples; }
    std::size_t inputs() const { return inputs_; }
    std::size_t outputs() const { return outputs_; }

    void start(const double* log2_delta, const double* log2_activation) {
        scratch_.weight.start(block_count_ * columns_);
        scratch_.bias.start(block_count_ * columns_);
        for (std::size_t i = 0; i < block_count_; ++i)
            for (std::size_t b = 0; b < blocks_[i].samples; ++b) {
                const std::size_t term = i * columns_ + b;
                const double exponent = blocks_[i].exponent_of_delta(l_)[b];
                scratch_.weight.set(term, log2_delta[term] + log2_activation[term],
                                    exponent + blocks_[i].exponent_of_a(l_)[b]);
                scratch_.bias.set(term, log2_delta[term], exponent);
            }
    }

    // Pairs come twice: of a block with itself only squares of the diagonal and what is right of them are taken, the
    // latter doubled.
    void sum_pairs(double* pair) {
        for (std::size_t i = 0; i < block_count_; ++i) {
            const std::size_t samples = blocks_[i].samples;
            for (std::size_t row = 0; row < samples; row += kColumnMultiple) {
                const std::size_t rows = std::min(kColumnMultiple, samples - row), right = row + kColumnMultiple;
                multiply({i, row, rows}, {i, row, columns_ - row});
                add_pairs({i, row, rows}, {i, row, kColumnMultiple}, 0, 1, pair);
                if (right < columns_) add_pairs({i, row, rows}, {i, right, columns_ - right}, kColumnMultiple, 2, pair);
            }
            for (std::size_t j = i + 1; j < block_count_; ++j) {
                multiply({i, 0, samples}, {j, 0, columns_});
                add_pairs({i, 0, samples}, {j, 0, columns_}, 0, 2, pair);
            }
        }
    }

    // dW, formed strip by strip: squared and dropped, or added to `sum`. log2 of the norm where it is dropped.
    double form_weight(ScaledSum<T>& sum) {
        const std::size_t ld = round_up(inputs_, kColumnMultiple);
        const T* right = gather_activations(ld);
        double squares = 0;
        for (std::size_t row = 0; row < outputs_; row += kGradientStripRows) {
            const std::size_t rows = std::min(kGradientStripRows, outputs_ - row);
            for (std::size_t i = 0; i < block_count_; ++i) {
                const GemmColumns<T> set{ld, right + i * columns_ * ld, scratch_.strip.data()};
                kernels_.gemm->nn(rows, blocks_[i].samples, blocks_[i].delta(l_) + row * columns_, columns_, &set, 1,
                                  ld, ld, i > 0, nullptr, scratch_.product);
            }
            for (std::size_t r = 0; r < rows; ++r) {
                const T* from = scratch_.strip.data() + r * ld;
                if (sum.kept()) {
                    T* to = sum.value.data() + (row + r) * inputs_;
                    for (std::size_t c = 0; c < inputs_; ++c) to[c] += from[c];
                } else {
                    squares += row_squares(kernels_, inputs_, from);
                }
            }
        }
        return 0.5 * std::log2(squares);
    }

    // db, formed in float64.
    std::vector<double> form_bias() const {
        std::vector<double> sum(outputs_, 0.0), part(outputs_);
        for (std::size_t i = 0; i < block_count_; ++i) {
            kernels_.reduce->row_dot(outputs_, columns_, columns_, blocks_[i].delta(l_),
                                     scratch_.bias.factor() + i * columns_, part.data());
            for (std::size_t u = 0; u < outputs_; ++u) sum[u] += part[u];
        }
        return sum;
    }

  private:
    // Samples [first, first + count) of a block.
    struct Samples {
        std::size_t block, first, count;
    };

    void multiply(const Samples& x, const Samples& y) {
        const StackBlock<T>&left = blocks_[x.block], &right = blocks_[y.block];
        const auto gram = [&](std::size_t units, const T* a, const T* b, T* to) {
            const GemmColumns<T> set{y.count, b + y.first, to};
            kernels_.gram->tn(x.count, units, a + x.first, columns_, &set, 1, columns_, kMaxColumns, false, nullptr,
                              scratch_.product);
        };
        gram(outputs_, left.delta(l_), right.delta(l_), scratch_.left.data());
        gram(inputs_, left.a(l_), right.a(l_), scratch_.right.data());
    }

    // The pairs of x and y among the products, from column `at` on; each counts `times`.
    void add_pairs(const Samples& x, const Samples& y, std::size_t at, double times, double* pair) const {
        const std::size_t row = x.block * columns_ + x.first, column = y.block * columns_ + y.first;
        const double *weight = scratch_.weight.factor(), *bias = scratch_.bias.factor();
        double sums[2];
        kernels_.reduce->pair_sums(x.count, y.count, kMaxColumns, scratch_.left.data() + at, scratch_.right.data() + at,
                                   weight + row, weight + column, bias + row, bias + column, sums);
        pair[0] += times * sums[0];
        pair[1] += times * sums[1];
    }

    // The activations of all blocks, samples x units, each sample at the weight's common exponent.
    const T* gather_activations(std::size_t ld) {
        for (std::size_t i = 0; i < block_count_; ++i) {
            T factor[kMaxColumns], *to = scratch_.right.data() + i * columns_ * ld;
            std::copy_n(scratch_.weight.factor() + i * columns_, columns_, factor);
            std::fill_n(to, blocks_[i].samples * ld, T(0));
            kernels_.reduce->transpose(inputs_, blocks_[i].samples, blocks_[i].a(l_), columns_, to, ld, factor);
        }
        return scratch_.right.data();
    }

    const KernelTable<T>& kernels_;
    std::size_t l_, inputs_, outputs_, columns_;
    const std::vector<StackBlock<T>>& blocks_;
    std::size_t block_count_;
    GradientScratch<T>& scratch_;
};

}  // namespace

template <class T>
GradientScratch<T>::GradientScratch(std::size_t columns, std::size_t blocks, std::size_t max_units)
    : left(columns * kMaxColumns), row(max_units) {
    const std::size_t widest = round_up(max_units, kColumnMultiple);
    right = AlignedBuffer<T>(std::max(columns * kMaxColumns, checked_multiply(blocks * columns, widest)));
    strip = AlignedBuffer<T>(kGradientStripRows * widest);
}

template <class T>
void layer_gradient(const KernelTable<T>& kernels, const StackNetwork<T>& network, std::size_t l,
                    const std::vector<StackBlock<T>>& blocks, std::size_t block_count, const double* log2_delta,
                    const double* log2_activation, GradientScratch<T>& scratch, LayerGradient<T>& out) {
    LayerSums<T> sums(kernels, network, l, blocks, block_count, scratch);
    ScaledTerms &weight = scratch.weight, &bias = scratch.bias;
    sums.start(log2_delta, log2_activation);
    out.log2_weight = weight.log2_norm(0);  // one sample's gradient is an outer product
    out.log2_bias = bias.log2_norm(0);
    const bool alone = sums.samples() == 1;
    if (alone && !out.weight.kept() && !out.bias.kept()) return;
    weight.align(out.weight.exponent);
    bias.align(out.bias.exponent);
    if (out.weight.kept()) out.weight.make_room(weight);
    if (out.bias.kept()) {
        out.bias.make_room(bias);
        const std::vector<double> sum = sums.form_bias();
        for (std::size_t u = 0; u < sum.size(); ++u) out.bias.value[u] += sum[u];
    }
    if (alone && !out.weight.kept()) return;
    const bool by_pairs = !out.weight.kept() && pairs_are_cheaper(sums.samples(), sums.inputs(), sums.outputs());
    const auto form_bias = [&] {
        const std::vector<double> sum = sums.form_bias();
        return log2_norm(sum.size(), sum.data());
    };
    norms_of_sums(
        weight, bias, by_pairs, [&](double* pair) { sums.sum_pairs(pair); },
        [&] { return sums.form_weight(out.weight); }, form_bias, &out.log2_weight,
        out.bias.kept() ? nullptr : &out.log2_bias);
}

template struct GradientScratch<float>;
template struct GradientScratch<double>;
template void layer_gradient<float>(const KernelTable<float>&, const StackNetwork<float>&, std::size_t,
                                    const std::vector<StackBlock<float>>&, std::size_t, const double*, const double*,
                                    GradientScratch<float>&, LayerGradient<float>&);
template void layer_gradient<double>(const KernelTable<double>&, const StackNetwork<double>&, std::size_t,
                                     const std::vector<StackBlock<double>>&, std::size_t, const double*, const double*,
                                     GradientScratch<double>&, LayerGradient<double>&);

}  // namespace gt
