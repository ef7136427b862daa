#include "ops/recurrent_gradients.h"

#include <algorithm>
#include <cmath>

namespace gt {

template <class T>
GradientSide<T>::GradientSide(const DirectionContext<T>& context, const DirectionState<T>& state, const T* input,
                              std::size_t inputs, Weight weight)
    : context_(context),
      state_(state),
      input_(input),
      first_column_((weight == Weight::hh ? context.cell().hh_first : context.cell().ih_first) * context.hidden),
      columns_(context.cell().weight_blocks * context.hidden),
      width_(weight == Weight::hh ? context.hidden : inputs),
      recurrent_(weight == Weight::hh),
      dz_log2_(context.sequence.rows()),
      right_log2_(context.sequence.rows()) {
    const PackedSequence& sequence = context.sequence;
    AlignedBuffer<T> scratch(scratch_size(1));
    for (std::size_t t = 0; t < sequence.steps() && sequence.active(t) > 0; ++t) {
        const std::size_t row = sequence.first_row(t), rows = sequence.active(t);
        log2_row_norms(context.kernels(), rows, width_, right_rows(t, t + 1, scratch.data()), width_,
                       right_log2_.data() + row);
        if (columns_ == context.row_size()) {
            std::copy(state.dz_log2 + row, state.dz_log2 + row + rows, dz_log2_.data() + row);
            continue;
        }
        log2_row_norms(context.kernels(), rows, columns_, dz(row), context.row_size(), dz_log2_.data() + row);
        for (std::size_t r = row; r < row + rows; ++r) dz_log2_[r] += state.dz_exponent[r];
    }
}

template <class T>
std::size_t GradientSide<T>::scratch_size(std::size_t steps) const {
    const bool in_place = recurrent_ ? context_.sequence.plain() || steps == 1 : !context_.reverse;
    return in_place ? 0 : checked_multiply(checked_multiply(steps, context_.sequence.batch()), width_);
}

template <class T>
const T* GradientSide<T>::right_rows(std::size_t first, std::size_t end, T* scratch) const {
    if (!recurrent_) return input_rows(context_, input_, width_, first, end, scratch);
    if (context_.sequence.plain() || end == first + 1) return state_.h + context_.previous_state(first, 0) * width_;
    T* to = scratch;
    for (std::size_t t = first; t < end; ++t) {
        const T* from = state_.h + context_.previous_state(t, 0) * width_;
        to = std::copy(from, from + context_.sequence.active(t) * width_, to);
    }
    return scratch;
}

namespace {

// The exponent of a sum over all rows; false where a term is not finite.
template <class T, class Norm>
bool exponent_of_sum(std::size_t rows, Norm norm_of, double* exponent) {
    double top = kNegativeInfinity;
    for (std::size_t r = 0; r < rows; ++r) {
        const double norm = norm_of(r);
        if (std::isnan(norm) || norm == -kNegativeInfinity) return false;
        top = std::max(top, norm);
    }
    *exponent = top == kNegativeInfinity ? top : common_exponent(top);
    return true;
}

// -inf - inf: a zero row beside an infinite one.
double norm_of_term(double dz_log2, double right_log2) {
    if (std::isnan(dz_log2) || std::isnan(right_log2)) return kNaN;
    return dz_log2 == kNegativeInfinity || right_log2 == kNegativeInfinity ? kNegativeInfinity : dz_log2 + right_log2;
}

// What there is to say where nothing can be summed: zeros, or NaN.
template <class V>
void fill(ParameterGradient<V>* out, bool finite) {
    std::fill(out->value.data(), out->value.data() + out->value.size(), finite ? V(0) : static_cast<V>(kNaN));
    out->exponent = 0;
    out->log2_norm = finite ? kNegativeInfinity : kNaN;
}

// dz^T right, chunk by chunk of steps; the right rows are brought to the common exponent while they are packed.
template <class T>
void weight_gradient(const DirectionContext<T>& context, const GradientSide<T>& side, ParameterGradient<T>* out) {
    const PackedSequence& sequence = context.sequence;
    out->value = AlignedBuffer<T>(checked_multiply(side.columns(), side.width()));
    const bool finite = exponent_of_sum<T>(
        sequence.rows(), [&](std::size_t r) { return norm_of_term(side.dz_log2(r), side.right_log2(r)); },
        &out->exponent);
    if (!finite || out->exponent == kNegativeInfinity) return fill(out, finite);
    constexpr std::size_t kBlock = 64;  // columns of dz that a worker takes at a time
    const std::size_t per_chunk = 2 * steps_per_chunk(sequence), most = per_chunk * sequence.batch();
    AlignedBuffer<T> panels(panels_size<T>(most, side.width())), scratch(side.scratch_size(per_chunk));
    std::vector<T> factor(most);
    const PanelKernels<T>& panel = *context.kernels().panel;
    for (std::size_t step = 0; step < sequence.steps() && sequence.active(step) > 0; step += per_chunk) {
        if (context.interrupt.requested(0)) return;
        const std::size_t end = std::min(step + per_chunk, sequence.steps());
        const std::size_t row = sequence.first_row(step), rows = sequence.first_row(end) - row;
        for (std::size_t r = 0; r < rows; ++r)
            factor[r] = side.dz_log2(row + r) == kNegativeInfinity
                            ? T(0)
                            : power_of_two<T>(side.dz_exponent(row + r) - out->exponent);
        panel.pack(rows, side.width(), side.right_rows(step, end, scratch.data()), side.width(), 1, factor.data(),
                   panels.data());
        const Loop loop{(side.columns() + kBlock - 1) / kBlock,
                        2.0 * static_cast<double>(rows) * static_cast<double>(out->value.size())};
        parallel_for(loop, [&](std::size_t block, std::size_t) {
            const std::size_t first = block * kBlock, columns = std::min(kBlock, side.columns() - first);
            panel.multiply_transposed(columns, side.width(), rows, side.dz(row) + first, context.row_size(),
                                      panels.data(), out->value.data() + first * side.width(), side.width(), step > 0);
        });
    }
    log2_row_norms(context.kernels(), 1, out->value.size(), out->value.data(), out->value.size(), &out->log2_norm);
    out->log2_norm += out->exponent;
}

template <class T>
void bias_gradient(const DirectionContext<T>& context, const GradientSide<T>& side, ParameterGradient<double>* out) {
    const std::size_t rows = context.sequence.rows();
    out->value = AlignedBuffer<double>(side.columns());
    const bool finite = exponent_of_sum<T>(rows, [&](std::size_t r) { return side.dz_log2(r); }, &out->exponent);
    if (!finite || out->exponent == kNegativeInfinity) return fill(out, finite);
    std::vector<double> factor(rows);
    for (std::size_t r = 0; r < rows; ++r)
        factor[r] =
            side.dz_log2(r) == kNegativeInfinity ? 0 : power_of_two<double>(side.dz_exponent(r) - out->exponent);
    std::fill(out->value.data(), out->value.data() + side.columns(), 0.0);
    context.kernels().rows->add_columns(rows, side.columns(), side.dz(0), context.row_size(), factor.data(),
                                        out->value.data());
    double squares = 0;
    for (std::size_t i = 0; i < side.columns(); ++i) squares += out->value[i] * out->value[i];
    out->log2_norm = 0.5 * std::log2(squares) + out->exponent;
}

}  // namespace

template <class T>
void direction_gradients(const DirectionContext<T>& context, const T* input, std::size_t inputs,
                         const DirectionState<T>& state, DirectionGradients<T>* gradients, const StepNorms& steps) {
    const GradientSide<T> ih(context, state, input, inputs, GradientSide<T>::Weight::ih),
        hh(context, state, input, inputs, GradientSide<T>::Weight::hh);
    weight_gradient(context, ih, &gradients->ih);
    weight_gradient(context, hh, &gradients->hh);
    bias_gradient(context, ih, &gradients->bias_ih);
    if (!ih.same_columns(hh)) bias_gradient(context, hh, &gradients->bias_hh);
    step_norms(context, ih, hh, steps);
}

template class GradientSide<float>;
template class GradientSide<double>;
template void direction_gradients<float>(const DirectionContext<float>&, const float*, std::size_t,
                                         const DirectionState<float>&, DirectionGradients<float>*, const StepNorms&);
template void direction_gradients<double>(const DirectionContext<double>&, const double*, std::size_t,
                                          const DirectionState<double>&, DirectionGradients<double>*, const StepNorms&);

}  // namespace gt
