// Backward pass of a whole recurrent network: layer by layer, direction by direction.
#include "ops/recurrent_tracer.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace gt {

// dL/d(input of a layer), packed rows in the sequence's own order with an exponent each, or their norms alone.
template <class T>
struct RecurrentTracer<T>::InputGradient {
    std::size_t width = 0;
    AlignedBuffer<T> rows;  // (rows, width), or empty: only norms
    std::vector<double> exponent, log2;
    bool add = false;  // the other direction's is there already
    AlignedBuffer<T> scratch;
    AlignedBuffer<unsigned char> product;  // scratch of products, by worker
    std::vector<std::size_t> target;       // where the rows of the steps under way go

    void start(std::size_t count, std::size_t columns, bool keep_rows) {
        width = columns;
        add = false;
        exponent.assign(count, 0.0);
        log2.assign(count, kNegativeInfinity);
        if (!keep_rows)
            rows = AlignedBuffer<T>();
        else if (rows.size() != checked_multiply(count, width))
            rows = AlignedBuffer<T>(count * width);
    }

    // Puts a row dx * 2^e there, or adds it to the other direction's.
    void take(const KernelTable<T>& kernels, std::size_t row, const T* dx, double e, double mantissa_log2) {
        T* to = rows.size() ? rows.data() + row * width : nullptr;
        if (!add) {
            if (to) std::copy(dx, dx + width, to);
            exponent[row] = e;
            log2[row] = mantissa_log2 + e;
            return;
        }
        const double common = common_exponent(std::max(log2[row], mantissa_log2 + e));
        const T old = log2[row] == kNegativeInfinity ? T(0) : power_of_two<T>(exponent[row] - common),
                more = mantissa_log2 == kNegativeInfinity ? T(0) : power_of_two<T>(e - common);
        for (std::size_t i = 0; i < width; ++i) to[i] = to[i] * old + dx[i] * more;
        exponent[row] = common;
        log2_row_norms(kernels, 1, width, to, width, &log2[row]);
        log2[row] += common;
    }
};

// Of steps [first, end).
template <class T>
void RecurrentTracer<T>::input_gradient(const DirectionContext<T>& context, const DirectionState<T>& state,
                                        const PackedMatrix<T>& ih, std::size_t first, std::size_t end,
                                        InputGradient* out) const {
    constexpr std::size_t kRows = 64;  // that a worker takes at a time
    const std::size_t width = ih.inputs, row_size = context.row_size(), start = sequence_.first_row(first),
                      rows = sequence_.first_row(end) - start;
    const Loop loop{(rows + kRows - 1) / kRows,
                    2.0 * static_cast<double>(rows) * static_cast<double>(ih.inputs * ih.outputs)};
    if (out->scratch.size() < loop.workers() * kRows * width)
        out->scratch = AlignedBuffer<T>(checked_multiply(loop.workers() * kRows, width));
    const std::size_t scratch_bytes = context.kernels().panel->scratch_bytes;
    out->product.reserve(loop.workers() * scratch_bytes);
    out->target.resize(rows);
    std::size_t r = 0;
    for (std::size_t step = first; step < end; ++step)
        for (std::size_t slot = 0; slot < sequence_.active(step); ++slot)
            out->target[r++] = context.forward_row(step, slot);
    parallel_for(loop, [&](std::size_t block, std::size_t worker) {
        const std::size_t from = block * kRows, count = std::min(kRows, rows - from), row = start + from;
        T* dx = out->scratch.data() + worker * kRows * width;
        const T* dz = state.z + row * row_size + context.cell().ih_first * context.hidden;
        context.kernels().panel->multiply(count, width, ih.outputs, dz, row_size, ih.backward.data(), dx, width, false,
                                          PanelOrder::up, ih.rows, out->product.data() + worker * scratch_bytes);
        double norm[kRows];
        log2_row_norms(context.kernels(), count, width, dx, width, norm);
        for (std::size_t i = 0; i < count; ++i)
            out->take(context.kernels(), out->target[from + i], dx + i * width,
                      state.dz_exponent[row + i] + ih.exponent, norm[i]);
    });
}

// Blocks of `hidden` rows from the core's order to PyTorch's.
template <class V>
static void to_torch_order(ParameterGradient<V>* gradient, const std::size_t* order, std::size_t blocks) {
    if (gradient->value.size() == 0 || std::is_sorted(order, order + blocks)) return;
    const std::size_t block = gradient->value.size() / blocks;
    AlignedBuffer<V> ordered(gradient->value.size());
    for (std::size_t i = 0; i < blocks; ++i) {
        const V* from = gradient->value.data() + i * block;
        std::copy(from, from + block, ordered.data() + order[i] * block);
    }
    gradient->value = std::move(ordered);
}

// The caller's cotangent in packed order or by slot, rows normalised: it may hold subnormals, which the passes flush.
template <class T>
struct RecurrentTracer<T>::PackedCotangent {
    AlignedBuffer<T> copy;
    std::vector<double> exponent;
    Injection<T> injection;
};

template <class T>
void RecurrentTracer<T>::pack_cotangent(const Cotangent& cotangent, PackedCotangent* out) const {
    const SubnormalMode keep(Subnormals::keep);
    const std::size_t width = network_.outputs(), batch = sequence_.batch(),
                      count = cotangent.every_step ? sequence_.rows() : batch;
    out->injection.width = width;
    out->injection.every_step = cotangent.every_step;
    if (cotangent.every_step && sequence_.plain() && cotangent.exponent == nullptr) {
        std::vector<double> norm(count);
        log2_row_norms(isa_.get<T>(), count, width, cotangent.rows, width, norm.data());
        const bool safe = std::all_of(norm.begin(), norm.end(), [](double norm_of_row) {
            return norm_of_row == kNegativeInfinity || norm_is_safe<T>(norm_of_row);
        });
        out->injection.rows = cotangent.rows;
        if (safe) return;
    }
    out->copy = AlignedBuffer<T>(checked_multiply(count, width));
    out->exponent.resize(count);
    const auto take = [&](std::size_t row, std::size_t source) {
        const double exponent = cotangent.exponent ? cotangent.exponent[source] : 0.0;
        out->exponent[row] =
            normalise_row(width, cotangent.rows + source * width, exponent, out->copy.data() + row * width);
    };
    if (cotangent.every_step)
        sequence_.for_each(take);
    else
        for (std::size_t slot = 0; slot < batch; ++slot) take(slot, sequence_.sample(slot));
    out->injection.rows = out->copy.data();
    out->injection.exponent = out->exponent.data();
}

template <class T>
bool RecurrentTracer<T>::keep_dgates(std::size_t layer, const DirectionState<T>& state, const KeptRows<T>& to) const {
    const CellShape& cell = cell_shape(network_.kind);
    const std::size_t n = hidden(layer), width = cell.weight_blocks * n, row_size = cell.row_blocks * n;
    bool fits = true;
    std::vector<T> values(width);
    sequence_.for_each([&](std::size_t row, std::size_t source) {
        for (std::size_t i = 0; i < cell.weight_blocks; ++i) {
            const T* from = state.z + row * row_size + (cell.ih_first + i) * n;
            std::copy(from, from + n, values.data() + cell.ih_order[i] * n);
        }
        fits &=
            keep_row(width, values.data(), state.dz_exponent[row], to.mantissa + source * width, to.exponent + source);
    });
    return fits;
}

// What the caller gives of the last states of each layer, one layer at a time: by slot, rows normalised.
template <class T>
struct RecurrentTracer<T>::LastGradient {
    const LayerArrays<const T>& given;
    AlignedBuffer<T> copy;
    std::vector<double> exponent;

    LastGradient(const LayerArrays<const T>& arrays, std::size_t batch, std::size_t widest)
        : given(arrays), copy(arrays.empty() ? 0 : checked_multiply(batch, widest)), exponent(batch) {}

    LastRows<T> of(std::size_t layer, std::size_t n, const PackedSequence& sequence) {
        if (given.empty()) return {};
        const SubnormalMode keep(Subnormals::keep);
        for (std::size_t slot = 0; slot < exponent.size(); ++slot)
            exponent[slot] = normalise_row(n, given[layer] + sequence.sample(slot) * n, 0.0, copy.data() + slot * n);
        return {copy.data(), exponent.data()};
    }
};

template <class T>
bool RecurrentTracer<T>::backward(const Cotangent& cotangent, const std::vector<DirectionOutputs<T>>& out,
                                  double* log2_dx, const KeptRows<T>& kept_dx, Interrupt& interrupt) {
    const SubnormalMode flush(Subnormals::flush);
    const CellShape& cell = cell_shape(network_.kind);
    const std::size_t batch = sequence_.batch(), rows = sequence_.rows(), directions = network_.directions;
    bool fits = true;
    gradients_ = std::vector<DirectionGradients<T>>(states_.size());
    std::vector<double> dz_exponent(rows), dz_log2(rows);
    std::vector<PartedRow<T>> parted(cell.hh_first ? rows : 0);
    std::vector<double> recurrent_log2(parted.size());
    LastGradient dh_last(cotangent.dh_last, batch, network_.widest()),
        dc_last(cotangent.dc_last, batch, network_.widest());
    PackedCotangent arriving;
    pack_cotangent(cotangent, &arriving);
    InputGradient above, below;
    for (std::size_t stacked = network_.depth(); stacked-- > 0;) {
        const bool wanted = stacked > 0 || log2_dx;  // the first layer's only to be told
        below.start(rows, network_.layers[stacked * directions].inputs,
                    wanted && (stacked > 0 || directions == 2 || kept_dx));
        for (std::size_t d = 0; d < directions; ++d) {
            const std::size_t k = stacked * directions + d;
            const DirectionContext<T> here = context(k, interrupt);
            DirectionState<T> state = states_[k];
            state.dz_exponent = dz_exponent.data();
            state.dz_log2 = dz_log2.data();
            if (cell.hh_first) {
                state.parted = parted.data();
                state.recurrent_log2 = recurrent_log2.data();
            }
            Injection<T> injection = arriving.injection;
            if (stacked + 1 < network_.depth())
                injection = {above.rows.data(), above.exponent.data(), above.width, 0, true, {}, {}};
            injection.column = d * hidden(k);
            injection.dh_last = dh_last.of(k, hidden(k), sequence_);
            injection.dc_last = dc_last.of(k, hidden(k), sequence_);
            DirectionBackward<T> pass(here, *weights_[k], injection, state, out[k].figures);
            const SequenceRows<T> input = layer_input(stacked);
            std::optional<GradientPass<T>> gradients;
            if (out[k].gradients) gradients.emplace(here, state, input, below.width, out[k].steps);
            const std::size_t per_chunk = steps_per_chunk(here);
            for (std::size_t end = sequence_.steps(); end > 0;) {
                const std::size_t first = end < per_chunk ? 0 : end - per_chunk;
                pass.run(first, end);
                if (gradients) gradients->add(first, end);
                if (wanted) input_gradient(here, state, weights_[k]->ih, first, end, &below);
                if (interrupt.stopped()) throw Interrupted{};
                end = first;
            }
            fits &= pass.finish();
            if (gradients) gradients_[k] = gradients->result();
            to_torch_order(&gradients_[k].ih, cell.ih_order, cell.weight_blocks);
            to_torch_order(&gradients_[k].hh, cell.hh_order, cell.weight_blocks);
            to_torch_order(&gradients_[k].bias_ih, cell.ih_order, cell.weight_blocks);
            to_torch_order(&gradients_[k].bias_hh, cell.hh_order, cell.weight_blocks);
            below.add = true;
            if (out[k].kept_dgates) fits &= keep_dgates(k, state, out[k].kept_dgates);
        }
        std::swap(above, below);
    }
    if (log2_dx == nullptr) return fits;
    sequence_.for_each([&](std::size_t row, std::size_t source) {
        log2_dx[source] = above.log2[row];
        if (kept_dx)
            fits &= keep_row(above.width, above.rows.data() + row * above.width, above.exponent[row],
                             kept_dx.mantissa + source * above.width, kept_dx.exponent + source);
    });
    return fits;
}

template bool RecurrentTracer<float>::backward(const Cotangent&, const std::vector<DirectionOutputs<float>>&, double*,
                                               const KeptRows<float>&, Interrupt&);
template bool RecurrentTracer<double>::backward(const Cotangent&, const std::vector<DirectionOutputs<double>>&, double*,
                                                const KeptRows<double>&, Interrupt&);

}  // namespace gt
