// Backward pass of a whole recurrent network: layer by layer, direction by direction.
#include "ops/recurrent_tracer.h"

#include <algorithm>
#include <cmath>

namespace gt {

// dL/d(input of a layer), packed rows in the sequence's own order with an exponent each, or their norms alone.
template <class T>
struct RecurrentTracer<T>::InputGradient {
    std::size_t width = 0;
    AlignedBuffer<T> rows;  // (rows, width), or empty: only norms
    std::vector<double> exponent, log2;
    std::size_t first = 0;  // the window's first row
    bool add = false;       // the other direction's is there already
    AlignedBuffer<T> scratch;
    AlignedBuffer<unsigned char> product;  // scratch of products, by worker
    std::vector<std::size_t> target;       // where the rows of the steps under way go

    void start(std::size_t first_row, std::size_t count, std::size_t columns, bool keep_rows) {
        first = first_row;
        width = columns;
        add = false;
        exponent.assign(count, 0.0);
        log2.assign(count, kNegativeInfinity);
        if (!keep_rows)
            rows = AlignedBuffer<T>();
        else if (rows.size() < checked_multiply(count, width))
            rows = AlignedBuffer<T>(count * width);
    }

    // As the layer below meets them: rows of the sequence.
    Injection<T> injection() const {
        return {rows.data() - first * width, exponent.data() - first, width, 0, true, {}, {}};
    }

    // Puts a row dx * 2^e there, or adds it to the other direction's.
    void take(const KernelTable<T>& kernels, std::size_t row, const T* dx, double e, double mantissa_log2) {
        row -= first;
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

// The passes of one direction of a layer, through all windows; what they read of a window moves with it.
template <class T>
struct RecurrentTracer<T>::LayerPass {
    DirectionContext<T> context;
    DirectionState<T> state{};
    Injection<T> injection{};
    SequenceRows<T> input{};
    std::unique_ptr<DirectionBackward<T>> backward{};
    std::unique_ptr<GradientPass<T>> gradients{};
};

template <class T>
struct RecurrentTracer<T>::BackwardCall {
    const std::vector<DirectionOutputs<T>>& out;
    double* log2_dx;
    const KeptRows<T>& kept_dx;
    Interrupt& interrupt;
    LastGradient dh_last, dc_last;
    PackedCotangent arriving{};
    std::vector<double> dz_exponent{}, dz_log2{}, recurrent_log2{};  // of the window's rows
    std::vector<PartedRow<T>> parted{};
    std::vector<std::unique_ptr<LayerPass>> passes{};
    InputGradient above{}, below{};
    bool fits = true;
};

// Of the window under way, from its last step to its first.
template <class T>
void RecurrentTracer<T>::backward_layer(BackwardCall& call, std::size_t layer, InputGradient& above,
                                        InputGradient* below) {
    const CellShape& cell = cell_shape(network_.kind);
    const std::size_t stacked = layer / network_.directions, row = sequence_.first_row(first_);
    const bool wanted = stacked > 0 || call.log2_dx;  // the first layer's only to be told
    if (!call.passes[layer])
        call.passes[layer] = std::make_unique<LayerPass>(LayerPass{.context = context(layer, call.interrupt)});
    LayerPass& pass = *call.passes[layer];
    pass.state = states_[layer];
    pass.state.dz_exponent = call.dz_exponent.data() - row;
    pass.state.dz_log2 = call.dz_log2.data() - row;
    if (cell.hh_first) {
        pass.state.parted = call.parted.data() - row;
        pass.state.recurrent_log2 = call.recurrent_log2.data() - row;
    }
    pass.injection = stacked + 1 < network_.depth() ? above.injection() : call.arriving.injection;
    pass.injection.column = layer % network_.directions * hidden(layer);
    pass.injection.dh_last = call.dh_last.of(layer, hidden(layer), sequence_);
    pass.injection.dc_last = call.dc_last.of(layer, hidden(layer), sequence_);
    pass.input = layer_input(stacked);
    if (!pass.backward) {
        pass.backward = std::make_unique<DirectionBackward<T>>(pass.context, *weights_[layer], pass.injection,
                                                               pass.state, call.out[layer].figures);
        if (call.out[layer].gradients)
            pass.gradients = std::make_unique<GradientPass<T>>(pass.context, pass.state, pass.input, below->width,
                                                               call.out[layer].steps);
    }
    pass.backward->start_window(first_);
    const std::size_t per_chunk = steps_per_chunk(pass.context);
    for (std::size_t end = end_; end > first_;) {
        const std::size_t first = end < first_ + per_chunk ? first_ : end - per_chunk;
        pass.backward->run(first, end);
        if (pass.gradients) pass.gradients->add(first, end);
        if (wanted) input_gradient(pass.context, pass.state, weights_[layer]->ih, first, end, below);
        if (call.interrupt.stopped()) throw Interrupted{};
        end = first;
    }
    if (call.out[layer].kept_dgates) call.fits &= keep_dgates(layer, pass.state, call.out[layer].kept_dgates);
    if (first_ > 0) return;
    call.fits &= pass.backward->finish();
    DirectionGradients<T>& gradients = gradients_[layer];
    if (pass.gradients) gradients = pass.gradients->result();
    to_torch_order(&gradients.ih, cell.ih_order, cell.weight_blocks);
    to_torch_order(&gradients.hh, cell.hh_order, cell.weight_blocks);
    to_torch_order(&gradients.bias_ih, cell.ih_order, cell.weight_blocks);
    to_torch_order(&gradients.bias_hh, cell.hh_order, cell.weight_blocks);
    call.passes[layer].reset();
}

template <class T>
void RecurrentTracer<T>::backward_window(BackwardCall& call, std::size_t w) {
    const CellShape& cell = cell_shape(network_.kind);
    const std::size_t row = sequence_.first_row(first_), rows = sequence_.first_row(end_) - row,
                      directions = network_.directions;
    for (std::vector<double>* of : {&call.dz_exponent, &call.dz_log2}) of->resize(rows);
    call.parted.resize(cell.hh_first ? rows : 0);
    call.recurrent_log2.resize(call.parted.size());
    for (std::size_t stacked = network_.depth(); stacked-- > 0;) {
        call.below.start(row, rows, network_.layers[stacked * directions].inputs,
                         stacked > 0 || (call.log2_dx && (directions == 2 || call.kept_dx)));
        for (std::size_t d = 0; d < directions; ++d) {
            backward_layer(call, stacked * directions + d, call.above, &call.below);
            call.below.add = true;
        }
        std::swap(call.above, call.below);
    }
    if (call.log2_dx == nullptr) return;
    const InputGradient& dx = call.above;
    for (std::size_t step = windows_[w]; step < windows_[w + 1]; ++step)
        for (std::size_t slot = 0; slot < sequence_.active(step); ++slot) {
            const std::size_t from = sequence_.first_row(step) + slot - row,
                              source = step * sequence_.batch() + sequence_.sample(slot);
            call.log2_dx[source] = dx.log2[from];
            if (call.kept_dx)
                call.fits &= keep_row(dx.width, dx.rows.data() + from * dx.width, dx.exponent[from],
                                      call.kept_dx.mantissa + source * dx.width, call.kept_dx.exponent + source);
        }
}

template <class T>
bool RecurrentTracer<T>::backward(const Cotangent& cotangent, const std::vector<DirectionOutputs<T>>& out,
                                  double* log2_dx, const KeptRows<T>& kept_dx, Interrupt& interrupt,
                                  const std::vector<ForwardOutputs<T>>* forwards) {
    const SubnormalMode flush(Subnormals::flush);
    const std::size_t batch = sequence_.batch(), layers = states_.size();
    gradients_ = std::vector<DirectionGradients<T>>(layers);
    BackwardCall call{.out = out,
                      .log2_dx = log2_dx,
                      .kept_dx = kept_dx,
                      .interrupt = interrupt,
                      .dh_last = LastGradient(cotangent.dh_last, batch, network_.widest()),
                      .dc_last = LastGradient(cotangent.dc_last, batch, network_.widest())};
    pack_cotangent(cotangent, &call.arriving);
    call.passes.resize(layers);
    std::vector<std::vector<double>> kept(layers, std::vector<double>(batch, 0.0));
    for (std::size_t w = windows(); w-- > 0;) {
        if (w + 1 < windows()) {
            open_window(w);
            run_window(w, true, interrupt);
            checkpoints_[w + 1].clear();
        }
        for (std::size_t k = 0; forwards && k < layers; ++k) store_retention(k, (*forwards)[k], &kept[k]);
        backward_window(call, w);
    }
    for (std::size_t k = 0; forwards && k < layers; ++k) store_half_life(k, (*forwards)[k], kept[k]);
    return call.fits;
}

template bool RecurrentTracer<float>::backward(const Cotangent&, const std::vector<DirectionOutputs<float>>&, double*,
                                               const KeptRows<float>&, Interrupt&,
                                               const std::vector<ForwardOutputs<float>>*);
template bool RecurrentTracer<double>::backward(const Cotangent&, const std::vector<DirectionOutputs<double>>&, double*,
                                                const KeptRows<double>&, Interrupt&,
                                                const std::vector<ForwardOutputs<double>>*);

}  // namespace gt
