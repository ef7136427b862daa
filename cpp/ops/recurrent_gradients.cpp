#include "ops/recurrent_gradients.h"

#include <algorithm>
#include <cmath>

#include "core/shape.h"
#include "ops/gradient_norms.h"

namespace gt {
namespace {

// One weight matrix: its columns of dz against the rows that multiplied it forward.
template <class T>
struct Side {
    std::size_t first_column, columns;  // of a row of dz
    std::size_t width;                  // of a right row
    bool recurrent;                     // right rows are h of the step before, else the layer's input
    std::vector<double> dz_log2, right_log2;  // (rows,): norms, exponents included
};

template <class T>
class GradientPass {
  public:
    GradientPass(const DirectionContext<T>& context, const T* input, std::size_t inputs,
                 const DirectionState<T>& state)
        : context_(context), sequence_(context.sequence), input_(input), inputs_(inputs), state_(state) {}

    Side<T> side(bool recurrent) const {
        const CellShape& cell = context_.cell();
        Side<T> s{(recurrent ? cell.hh_first : cell.ih_first) * context_.hidden, cell.weight_blocks * context_.hidden,
                  recurrent ? context_.hidden : inputs_, recurrent, {}, {}};
        s.dz_log2.resize(sequence_.rows());
        s.right_log2.resize(sequence_.rows());
        const bool whole = s.columns == context_.row_size();
        const std::size_t per_chunk = steps_per_chunk(sequence_);
        AlignedBuffer<T> scratch(scratch_size(s));
        for (std::size_t step = 0; step < sequence_.steps(); step += per_chunk) {
            const std::size_t end = std::min(step + per_chunk, sequence_.steps());
            for (std::size_t t = step; t < end; ++t) {
                const std::size_t row = sequence_.first_row(t), rows = sequence_.active(t);
                if (rows == 0) continue;
                log2_row_norms(context_.kernels(), rows, s.width, right_rows(s, t, scratch.data()), s.width,
                               s.right_log2.data() + row);
                if (whole) {
                    std::copy(state_.dz_log2 + row, state_.dz_log2 + row + rows, s.dz_log2.begin() +
                                                                                  static_cast<std::ptrdiff_t>(row));
                    continue;
                }
                log2_row_norms(context_.kernels(), rows, s.columns, dz(s, row), context_.row_size(),
                               s.dz_log2.data() + row);
                for (std::size_t r = row; r < row + rows; ++r) s.dz_log2[r] += state_.dz_exponent[r];
            }
        }
        return s;
    }

    void weight(const Side<T>& s, ParameterGradient<T>* out) const {
        out->value = AlignedBuffer<T>(checked_multiply(s.columns, s.width));
        double top = kNegativeInfinity;
        const bool finite = largest_term(s, 0, sequence_.rows(), &top);
        if (!finite || top == kNegativeInfinity) return fill(out, finite);
        out->exponent = common_exponent(top);
        constexpr std::size_t kBlock = 64, kRowsAtATime = 512;
        const std::size_t per_chunk = std::max<std::size_t>(1, kRowsAtATime / std::max<std::size_t>(1, sequence_.batch()));
        const std::size_t most = per_chunk * sequence_.batch();
        AlignedBuffer<T> panels(panels_size<T>(most, s.width)), scratch(checked_multiply(most, s.width));
        std::vector<T> factor(most);
        const std::size_t blocks = (s.columns + kBlock - 1) / kBlock;
        for (std::size_t step = 0; step < sequence_.steps() && sequence_.active(step) > 0; step += per_chunk) {
            if (context_.interrupt.requested(0)) return;
            const std::size_t end = std::min(step + per_chunk, sequence_.steps());
            const std::size_t row = sequence_.first_row(step), rows = sequence_.first_row(end) - row;
            for (std::size_t r = 0; r < rows; ++r)
                factor[r] = s.dz_log2[row + r] == kNegativeInfinity
                                ? T(0)
                                : power_of_two<T>(state_.dz_exponent[row + r] - out->exponent);
            context_.kernels().panel->pack(rows, s.width, right_rows_of_steps(s, step, end, scratch.data()), s.width, 1,
                                           factor.data(), panels.data());
            const Loop loop{blocks, 2.0 * static_cast<double>(rows) * static_cast<double>(s.columns * s.width)};
            parallel_for(loop, [&](std::size_t block, std::size_t) {
                const std::size_t first = block * kBlock, columns = std::min(kBlock, s.columns - first);
                context_.kernels().panel->multiply_transposed(columns, s.width, rows, dz(s, row) + first,
                                                              context_.row_size(), panels.data(),
                                                              out->value.data() + first * s.width, s.width, step > 0);
            });
        }
        out->log2_norm = norm_of(out->value) + out->exponent;
    }

    void bias(const Side<T>& s, ParameterGradient<double>* out) const {
        out->value = AlignedBuffer<double>(s.columns);
        std::fill(out->value.data(), out->value.data() + s.columns, 0.0);
        double top = kNegativeInfinity;
        bool finite = true;
        for (const double norm : s.dz_log2) {
            finite &= !std::isnan(norm);
            top = std::max(top, norm);
        }
        if (!finite || top == kNegativeInfinity) {
            if (!finite) std::fill(out->value.data(), out->value.data() + s.columns, kNaN);
            out->log2_norm = finite ? kNegativeInfinity : kNaN;
            return;
        }
        out->exponent = common_exponent(top);
        std::vector<double> factor(sequence_.rows());
        for (std::size_t r = 0; r < factor.size(); ++r)
            factor[r] = s.dz_log2[r] == kNegativeInfinity ? 0
                                                          : power_of_two<double>(state_.dz_exponent[r] - out->exponent);
        context_.kernels().rows->add_columns(sequence_.rows(), s.columns, dz(s, 0), context_.row_size(), factor.data(),
                                             out->value.data());
        double squares = 0;
        for (std::size_t i = 0; i < s.columns; ++i) squares += out->value[i] * out->value[i];
        out->log2_norm = 0.5 * std::log2(squares) + out->exponent;
    }

    // What every step adds to a weight and to its bias, in norm.
    void steps(const Side<T>& s, double* weight_norm, double* bias_norm) const {
        const std::size_t batch = sequence_.batch(), ld = round_up(batch, kColumnMultiple);
        const double work = static_cast<double>(sequence_.rows()) * static_cast<double>(batch) *
                            static_cast<double>(s.columns + s.width);
        const Loop loop{sequence_.steps(), work};
        struct Scratch {
            AlignedBuffer<T> left, right, rows, panels, tile;
            std::vector<double> weight, bias;
        };
        std::vector<Scratch> all(loop.workers());
        parallel_for(loop, [&](std::size_t t, std::size_t worker) {
            if (context_.interrupt.requested(worker)) return;
            Scratch& scratch = all[worker];
            if (scratch.weight.empty()) {
                scratch.rows = AlignedBuffer<T>(scratch_size(s));
                scratch.weight.assign(ld, 0.0);
                scratch.bias.assign(ld, 0.0);
            }
            const std::size_t row = sequence_.first_row(t), rows = sequence_.active(t);
            if (rows == 0) return;
            const T* right = right_rows(s, t, scratch.rows.data());
            Terms weight = align(s, row, rows, true, scratch.weight.data()),
                  bias = align(s, row, rows, false, scratch.bias.data());
            std::fill(scratch.weight.begin() + static_cast<std::ptrdiff_t>(rows), scratch.weight.end(), 0.0);
            std::fill(scratch.bias.begin() + static_cast<std::ptrdiff_t>(rows), scratch.bias.end(), 0.0);
            double pair[2] = {kNaN, kNaN};
            if (rows == 1) {
                weight_norm[t] = s.dz_log2[row] + s.right_log2[row];
                if (bias_norm) bias_norm[t] = s.dz_log2[row];
                return;
            }
            const bool pairs = pairs_are_cheaper(rows, s.width, s.columns) && weight.safe && weight.finite &&
                               weight.exponent != kNegativeInfinity;
            if (pairs) {
                if (scratch.left.size() == 0) {
                    scratch.left = AlignedBuffer<T>(checked_multiply(batch, ld));
                    scratch.right = AlignedBuffer<T>(batch * ld);
                    std::fill(scratch.left.data(), scratch.left.data() + batch * ld, T(0));
                    std::fill(scratch.right.data(), scratch.right.data() + batch * ld, T(0));
                }
                const std::size_t padded = round_up(rows, kColumnMultiple);
                context_.kernels().rows->gram(rows, s.columns, dz(s, row), context_.row_size(), scratch.left.data(), ld);
                context_.kernels().rows->gram(rows, s.width, right, s.width, scratch.right.data(), ld);
                context_.kernels().reduce->pair_sums(rows, padded, ld, scratch.left.data(), scratch.right.data(),
                                                     scratch.weight.data(), scratch.weight.data(), scratch.bias.data(),
                                                     scratch.bias.data(), pair);
            }
            if (pairs && pair[0] >= kCancelled * weight.size * weight.size)
                weight_norm[t] = 0.5 * std::log2(pair[0]) + weight.exponent;
            else
                weight_norm[t] = form_weight(s, row, rows, right, weight, scratch.weight.data(), &scratch.panels,
                                             &scratch.tile);
            if (bias_norm == nullptr) return;
            if (pairs && pair[1] >= kCancelled * bias.size * bias.size)
                bias_norm[t] = 0.5 * std::log2(pair[1]) + bias.exponent;
            else
                bias_norm[t] = form_bias(s, row, rows, bias, scratch.bias.data());
        });
    }

  private:
    // Terms of a sum over rows at their common exponent; `size`: sum of their norms there.
    struct Terms {
        double exponent = kNegativeInfinity, size = 0;
        bool finite = true, safe = true;
    };

    std::size_t scratch_size(const Side<T>& s) const {
        return context_.reverse && !s.recurrent ? checked_multiply(sequence_.batch(), s.width) : 0;
    }
    const T* dz(const Side<T>& s, std::size_t row) const { return state_.z + row * context_.row_size() + s.first_column; }
    // Right rows of one step, contiguous.
    const T* right_rows(const Side<T>& s, std::size_t t, T* scratch) const {
        if (s.recurrent) return state_.h + context_.previous_state(t, 0) * s.width;
        return input_rows(context_, input_, s.width, t, t + 1, scratch);
    }
    const T* right_rows_of_steps(const Side<T>& s, std::size_t first, std::size_t end, T* scratch) const {
        if (!s.recurrent) return input_rows(context_, input_, s.width, first, end, scratch);
        if (sequence_.plain()) return state_.h + context_.previous_state(first, 0) * s.width;
        T* to = scratch;
        for (std::size_t t = first; t < end; ++t) {
            const T* from = right_rows(s, t, nullptr);
            to = std::copy(from, from + sequence_.active(t) * s.width, to);
        }
        return scratch;
    }

    bool largest_term(const Side<T>& s, std::size_t first, std::size_t end, double* top) const {
        bool finite = true;
        for (std::size_t r = first; r < end; ++r) {
            const double norm = s.dz_log2[r] + s.right_log2[r];
            const bool zero = s.dz_log2[r] == kNegativeInfinity || s.right_log2[r] == kNegativeInfinity;
            if (std::isnan(s.dz_log2[r]) || std::isnan(s.right_log2[r])) finite = false;
            if (!zero) *top = std::max(*top, norm);
        }
        return finite && *top < std::numeric_limits<double>::infinity();
    }

    void fill(ParameterGradient<T>* out, bool zero) const {
        const T value = zero ? T(0) : static_cast<T>(kNaN);
        std::fill(out->value.data(), out->value.data() + out->value.size(), value);
        out->log2_norm = zero ? kNegativeInfinity : kNaN;
    }

    Terms align(const Side<T>& s, std::size_t row, std::size_t rows, bool with_right, double* factor) const {
        Terms terms;
        double top = kNegativeInfinity;
        for (std::size_t r = row; r < row + rows; ++r) {
            const double norm = s.dz_log2[r] + (with_right ? s.right_log2[r] : 0.0);
            terms.finite &= !std::isnan(s.dz_log2[r]) && !(with_right && std::isnan(s.right_log2[r]));
            if (!std::isnan(norm)) top = std::max(top, norm);
            const bool zero = s.dz_log2[r] == kNegativeInfinity || s.right_log2[r] == kNegativeInfinity;
            terms.safe &= zero || (norm_is_safe<T>(s.right_log2[r]) &&
                                   norm_is_safe<T>(s.dz_log2[r] - state_.dz_exponent[r]));
        }
        if (!terms.finite || top == kNegativeInfinity) {
            std::fill(factor, factor + rows, 0.0);
            return terms;
        }
        terms.exponent = common_exponent(top);
        for (std::size_t i = 0; i < rows; ++i) {
            const std::size_t r = row + i;
            const double norm = s.dz_log2[r] + (with_right ? s.right_log2[r] : 0.0);
            const bool zero = std::isnan(norm) || norm == kNegativeInfinity;
            factor[i] = zero ? 0.0 : power_of_two<double>(state_.dz_exponent[r] - terms.exponent);
            terms.size += zero ? 0.0 : std::exp2(norm - terms.exponent);
        }
        return terms;
    }

    double form_weight(const Side<T>& s, std::size_t row, std::size_t rows, const T* right, const Terms& terms,
                       const double* factor, AlignedBuffer<T>* panels, AlignedBuffer<T>* tile) const {
        if (!terms.finite) return kNaN;
        if (terms.exponent == kNegativeInfinity) return kNegativeInfinity;
        if (tile->size() == 0) {
            *panels = AlignedBuffer<T>(panels_size<T>(sequence_.batch(), s.width));
            *tile = AlignedBuffer<T>(checked_multiply(s.columns, s.width));
        }
        std::vector<T> factors(rows);
        for (std::size_t i = 0; i < rows; ++i) factors[i] = static_cast<T>(factor[i]);
        context_.kernels().panel->pack(rows, s.width, right, s.width, 1, factors.data(), panels->data());
        context_.kernels().panel->multiply_transposed(s.columns, s.width, rows, dz(s, row), context_.row_size(),
                                                      panels->data(), tile->data(), s.width, false);
        return norm_of(*tile) + terms.exponent;
    }

    double form_bias(const Side<T>& s, std::size_t row, std::size_t rows, const Terms& terms,
                     const double* factor) const {
        if (!terms.finite) return kNaN;
        if (terms.exponent == kNegativeInfinity) return kNegativeInfinity;
        std::vector<double> sum(s.columns, 0.0);
        context_.kernels().rows->add_columns(rows, s.columns, dz(s, row), context_.row_size(), factor, sum.data());
        double squares = 0;
        for (const double v : sum) squares += v * v;
        return 0.5 * std::log2(squares) + terms.exponent;
    }

    double norm_of(const AlignedBuffer<T>& values) const {
        double norm = 0;
        log2_row_norms(context_.kernels(), 1, values.size(), values.data(), values.size(), &norm);
        return norm;
    }

    const DirectionContext<T>& context_;
    const PackedSequence& sequence_;
    const T* input_;
    std::size_t inputs_;
    const DirectionState<T>& state_;
};

}  // namespace

template <class T>
void direction_gradients(const DirectionContext<T>& context, const T* input, std::size_t inputs,
                         const DirectionState<T>& state, DirectionGradients<T>* gradients, const StepNorms& steps) {
    const GradientPass<T> pass(context, input, inputs, state);
    const Side<T> ih = pass.side(false), hh = pass.side(true);
    pass.weight(ih, &gradients->ih);
    pass.weight(hh, &gradients->hh);
    pass.bias(ih, &gradients->bias_ih);
    pass.steps(ih, steps.ih, steps.bias_ih);
    pass.steps(hh, steps.hh, steps.bias_hh);
    if (steps.bias_hh) pass.bias(hh, &gradients->bias_hh);
}

template void direction_gradients<float>(const DirectionContext<float>&, const float*, std::size_t,
                                         const DirectionState<float>&, DirectionGradients<float>*, const StepNorms&);
template void direction_gradients<double>(const DirectionContext<double>&, const double*, std::size_t,
                                          const DirectionState<double>&, DirectionGradients<double>*,
                                          const StepNorms&);

}  // namespace gt
