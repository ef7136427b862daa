// Norms of what each step adds to the batch's weight gradients: sum over its samples of dz a^T, by pairs of samples
// where that is less work than forming it (ops/gradient_norms.h).
#include <algorithm>
#include <cmath>

#include "core/shape.h"
#include "ops/gradient_norms.h"
#include "ops/recurrent_gradients.h"

namespace gt {
namespace {

// The terms of one step's sum, brought to a common exponent.
struct Terms {
    double exponent = kNegativeInfinity;  // -inf: all terms are zero
    double size = 0;                      // sum of the terms' norms at that exponent
    bool finite = true;
    bool safe = true;            // squares of all factors stay in T
    std::vector<double> factor;  // (batch rounded up to columns,), zero beyond the step's rows

    bool countable() const { return finite && exponent != kNegativeInfinity; }
};

template <class T>
class StepNormPass {
  public:
    StepNormPass(const DirectionContext<T>& context, const GradientSide<T>& ih, const GradientSide<T>& hh)
        : context_(context), ld_(round_up(context.sequence.batch(), kColumnMultiple)), ih_(ih), hh_(hh) {
        weight_.factor.assign(ld_, 0.0);
        bias_.factor.assign(ld_, 0.0);
        gathered_ = AlignedBuffer<T>(ih.scratch_size(1));
    }

    void run(std::size_t t, const StepNorms& out) {
        row_ = context_.sequence.first_row(t);
        rows_ = context_.sequence.active(t);
        have_left_ = false;
        if (rows_ == 0) return;
        side(ih_, t, out.ih, out.bias_ih);
        have_left_ &= hh_.same_columns(ih_);
        side(hh_, t, out.hh, out.bias_hh);
    }

  private:
    void side(const GradientSide<T>& s, std::size_t t, double* weight_norm, double* bias_norm) {
        align(s, true, &weight_);
        align(s, false, &bias_);
        if (rows_ == 1) {  // an outer product
            weight_norm[t] = weight_.countable() ? s.dz_log2(row_) + s.right_log2(row_) : nothing(weight_);
            if (bias_norm) bias_norm[t] = s.dz_log2(row_);
            return;
        }
        const T* right = s.right_rows(t, t + 1, gathered_.data());
        double pair[2] = {0, 0};
        const bool pairs = pairs_are_cheaper(rows_, s.width(), s.columns()) && weight_.countable() && weight_.safe;
        if (pairs) sum_pairs(s, right, pair);
        const auto trusted = [&](double sum, const Terms& terms) {
            return pairs && sum >= kCancelled * terms.size * terms.size;
        };
        weight_norm[t] =
            trusted(pair[0], weight_) ? 0.5 * std::log2(pair[0]) + weight_.exponent : form_weight(s, right);
        if (bias_norm)
            bias_norm[t] = trusted(pair[1], bias_) ? 0.5 * std::log2(pair[1]) + bias_.exponent : form_bias(s);
    }

    static double nothing(const Terms& terms) { return terms.finite ? kNegativeInfinity : kNaN; }

    void align(const GradientSide<T>& s, bool with_right, Terms* terms) const {
        double top = kNegativeInfinity;
        terms->finite = terms->safe = true;
        terms->size = 0;
        std::fill(terms->factor.begin(), terms->factor.end(), 0.0);
        const auto norm_of = [&](std::size_t r) {
            const double dz = s.dz_log2(r), right = with_right ? s.right_log2(r) : 0.0;
            return dz == kNegativeInfinity || right == kNegativeInfinity ? kNegativeInfinity : dz + right;
        };
        for (std::size_t r = row_; r < row_ + rows_; ++r) {
            const double norm = norm_of(r);
            if (std::isnan(norm) || norm == -kNegativeInfinity) terms->finite = false;
            top = std::max(top, norm);
            if (norm == kNegativeInfinity) continue;
            terms->safe &= norm_is_safe<T>(s.right_log2(r)) && norm_is_safe<T>(s.dz_log2(r) - s.dz_exponent(r));
        }
        terms->exponent = top == kNegativeInfinity ? top : common_exponent(top);
        if (!terms->countable()) return;
        for (std::size_t i = 0; i < rows_; ++i) {
            const double norm = norm_of(row_ + i);
            if (norm == kNegativeInfinity) continue;
            terms->factor[i] = power_of_two<double>(s.dz_exponent(row_ + i) - terms->exponent);
            terms->size += std::exp2(norm - terms->exponent);
        }
    }

    // pair[0], pair[1]: the squares of the weight's and of the bias's sum.
    void sum_pairs(const GradientSide<T>& s, const T* right, double* pair) {
        if (left_gram_.size() == 0) {
            left_gram_ = AlignedBuffer<T>(checked_multiply(context_.sequence.batch(), ld_));
            right_gram_ = AlignedBuffer<T>(left_gram_.size());
            std::fill(left_gram_.data(), left_gram_.data() + left_gram_.size(), T(0));
            std::fill(right_gram_.data(), right_gram_.data() + right_gram_.size(), T(0));
        }
        const RowKernels<T>& kernels = *context_.kernels().rows;
        if (!have_left_) kernels.gram(rows_, s.columns(), s.dz(row_), context_.row_size(), left_gram_.data(), ld_);
        have_left_ = true;
        kernels.gram(rows_, s.width(), right, s.width(), right_gram_.data(), ld_);
        context_.kernels().reduce->pair_sums(rows_, round_up(rows_, kColumnMultiple), ld_, left_gram_.data(),
                                             right_gram_.data(), weight_.factor.data(), weight_.factor.data(),
                                             bias_.factor.data(), bias_.factor.data(), pair);
    }

    double form_weight(const GradientSide<T>& s, const T* right) {
        if (!weight_.countable()) return nothing(weight_);
        const std::size_t size = checked_multiply(s.columns(), s.width());
        if (tile_.size() < size) tile_ = AlignedBuffer<T>(size);
        const std::size_t panels = panels_size<T>(context_.sequence.batch(), s.width());
        if (panels_.size() < panels) panels_ = AlignedBuffer<T>(panels);
        std::vector<T> factor(rows_);
        for (std::size_t i = 0; i < rows_; ++i) factor[i] = static_cast<T>(weight_.factor[i]);
        const PanelKernels<T>& panel = *context_.kernels().panel;
        panel.pack(rows_, s.width(), right, s.width(), 1, factor.data(), panels_.data());
        panel.multiply_transposed(s.columns(), s.width(), rows_, s.dz(row_), context_.row_size(), panels_.data(),
                                  tile_.data(), s.width(), false);
        double norm = 0;
        log2_row_norms(context_.kernels(), 1, size, tile_.data(), size, &norm);
        return norm + weight_.exponent;
    }

    double form_bias(const GradientSide<T>& s) const {
        if (!bias_.countable()) return nothing(bias_);
        std::vector<double> sum(s.columns(), 0.0);
        context_.kernels().rows->add_columns(rows_, s.columns(), s.dz(row_), context_.row_size(), bias_.factor.data(),
                                             sum.data());
        double squares = 0;
        for (const double v : sum) squares += v * v;
        return 0.5 * std::log2(squares) + bias_.exponent;
    }

    const DirectionContext<T>& context_;
    std::size_t ld_;
    const GradientSide<T>&ih_, &hh_;
    std::size_t row_ = 0, rows_ = 0;  // of the step under way
    Terms weight_, bias_;
    AlignedBuffer<T> gathered_, left_gram_, right_gram_, panels_, tile_;
    bool have_left_ = false;
};

}  // namespace

template <class T>
void step_norms(const DirectionContext<T>& context, const GradientSide<T>& ih, const GradientSide<T>& hh,
                const StepNorms& steps) {
    const PackedSequence& sequence = context.sequence;
    const Loop loop{sequence.steps(), static_cast<double>(sequence.rows()) * static_cast<double>(sequence.batch()) *
                                          static_cast<double>(2 * ih.columns() + ih.width() + hh.width())};
    std::vector<StepNormPass<T>> passes;
    passes.reserve(loop.workers());
    for (std::size_t i = 0; i < loop.workers(); ++i) passes.emplace_back(context, ih, hh);
    parallel_for(loop, [&](std::size_t t, std::size_t worker) {
        if (!context.interrupt.requested(worker)) passes[worker].run(t, steps);
    });
}

template void step_norms<float>(const DirectionContext<float>&, const GradientSide<float>&, const GradientSide<float>&,
                                const StepNorms&);
template void step_norms<double>(const DirectionContext<double>&, const GradientSide<double>&,
                                 const GradientSide<double>&, const StepNorms&);

}  // namespace gt
