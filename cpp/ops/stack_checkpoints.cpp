#include "ops/stack_checkpoints.h"

#include <algorithm>
#include <cmath>

namespace gt {
namespace {

constexpr std::size_t kBookkeeping = 1024;  // of a layer: what names it, its sums, offsets of its tiles

// Tiles and exponents of one layer for all blocks of a chunk.
template <class T>
std::size_t tile_bytes(const BatchShape& shape, std::size_t units, bool normalised) {
    const std::size_t columns = shape.block_samples * std::min(shape.chunk_blocks, shape.blocks());
    return checked_multiply(columns, (2 + normalised) * units * sizeof(T) + 3 * sizeof(double));
}

}  // namespace

template <class T>
StretchCosts::StretchCosts(const StackSource<T>& source, const StackUnits& units, const BatchShape& shape,
                           bool sums_gradients) {
    constexpr std::size_t kFigures = 8 * sizeof(double);  // of a sample and layer, before those wanted are taken
    std::size_t widest = 0;
    behind_.push_back(0);
    for (std::size_t l = 0; l < units.depth(); ++l) {
        const std::size_t inputs = units.sizes[l], outputs = units.sizes[l + 1],
                          sums = sums_gradients ? checked_multiply(inputs, outputs) * sizeof(T) + 8 * outputs : 0;
        std::size_t bytes = tile_bytes<T>(shape, outputs, source.normalised(l));
        for (const std::size_t more : {checked_multiply(source.parameters(l), sizeof(T)), sums, inputs * 8 + outputs,
                                       checked_multiply(shape.samples, kFigures), kBookkeeping})
            bytes = checked_add(bytes, more);
        behind_.push_back(checked_add(behind_.back(), bytes));
        checkpoint_.push_back(checked_multiply(shape.samples, inputs * sizeof(T) + 3 * sizeof(double)));
        widest = std::max({widest, inputs, outputs});
    }
    // The gradient between two stretches, above and below; tiles of the workers.
    fixed_ = checked_multiply(checked_multiply(shape.samples, widest), 2 * sizeof(T)) +
             static_cast<std::size_t>(threads_in_use()) * (8 * tile_bytes<T>(shape, widest, false) + (1 << 18));
}

auto StretchCosts::cut_at(std::size_t stretch_bytes) const -> Cuts {
    Cuts cuts{.starts = {0}};
    std::size_t checkpoints = 0, longest = 0;
    const std::size_t depth = checkpoint_.size();
    for (std::size_t first = 0; first < depth;) {
        const auto end = std::upper_bound(behind_.begin() + static_cast<std::ptrdiff_t>(first) + 1, behind_.end(),
                                          checked_add(behind_[first], stretch_bytes));
        const std::size_t next = std::max(first + 1, static_cast<std::size_t>(end - behind_.begin()) - 1);
        longest = std::max(longest, behind_[next] - behind_[first]);
        if (first > 0) checkpoints = checked_add(checkpoints, checkpoint_[first]);
        cuts.starts.push_back(next);
        first = next;
    }
    cuts.bytes = checked_add(checked_add(longest, checkpoints), fixed_);
    return cuts;
}

std::vector<std::size_t> StretchCosts::cut(std::size_t memory) const {
    constexpr double kFiner = 1.25;
    Cuts least;
    for (double bytes = static_cast<double>(behind_.back()); bytes >= 1; bytes /= kFiner) {
        Cuts cuts = cut_at(static_cast<std::size_t>(bytes));
        const bool single = cuts.starts.size() == checkpoint_.size() + 1;  // every layer is a stretch
        if (memory && cuts.bytes <= memory) return cuts.starts;
        if (least.starts.empty() || cuts.bytes < least.bytes) least = std::move(cuts);
        if (single) break;
    }
    if (memory) throw MemoryTooSmall{least.bytes};
    return least.starts;
}

// One call under way.
template <class T>
struct CheckpointTracer<T>::Call {
    const T* x;
    std::size_t batch;
    const Cotangent<T>& cotangent;
    const CallOutputs<T>& out;
    Interrupt& interrupt;
    BatchShape shape;
    std::vector<std::int64_t> nonfinite;    // (batch,)
    std::vector<StackRows<T>> checkpoints;  // before every stretch; the first is x itself
    StackGradient<T> above{}, below{};
};

// The rows of one stretch's figures, of which those that are wanted are copied to the call's.
template <class T>
struct CheckpointTracer<T>::Rows {
    Rows(const CallOutputs<T>& call, std::size_t batch, std::size_t first, std::size_t depth)
        : batch(batch), values(checked_multiply(checked_multiply(8 * depth + 2, batch), std::size_t{1})) {
        double* at = values.data();
        const auto take = [&](std::size_t rows) {
            double* const here = at;
            at += rows * batch;
            return here;
        };
        SampleOutputs& s = out.samples;
        s.stride = batch;
        s.log2_delta = take(depth);
        s.log2_delta_max = take(depth);
        s.activation_gain = take(depth);
        s.log2_preactivation = take(depth);
        s.log2_grad_weight_sample = take(depth);
        s.weight_gain = take(depth + 1);  // of the layer above the stretch, too
        s.log2_activation = take(depth + 1);
        s.norm_gain = take(depth);
        std::fill_n(s.norm_gain, depth * batch, 0.0);
        s.log2_cotangent = call.samples.log2_cotangent;
        s.log2_grad_input = call.samples.log2_grad_input;
        const auto part = [&](const std::vector<KeptRows<T>>& from, std::vector<KeptRows<T>>* to) {
            if (from.empty()) return;
            const auto begin = from.begin() + static_cast<std::ptrdiff_t>(first);
            to->assign(begin, begin + static_cast<std::ptrdiff_t>(depth));
        };
        part(call.deltas, &out.deltas);
        part(call.activations, &out.activations);
        part(call.derivatives, &out.derivatives);
        out.grad_input = call.grad_input;
    }

    // Row `row` of every figure is of layer first + row; gains of weights are told by the layer below.
    void copy(std::size_t first, std::size_t depth, std::size_t stack_depth, std::size_t every,
              const CallOutputs<T>& call) const {
        const SampleOutputs &from = out.samples, &to = call.samples;
        const auto put = [&](const double* source, std::size_t row, double* target, std::size_t layer,
                             std::size_t shift) {
            if (target == nullptr || layer % every != 0) return;
            std::copy_n(source + row * batch, batch, target + (layer / every + shift) * batch);
        };
        for (std::size_t l = 0; l < depth; ++l) {
            put(from.log2_delta, l, to.log2_delta, first + l, 0);
            put(from.log2_delta_max, l, to.log2_delta_max, first + l, 0);
            put(from.activation_gain, l, to.activation_gain, first + l, 0);
            put(from.log2_preactivation, l, to.log2_preactivation, first + l, 0);
            put(from.log2_grad_weight_sample, l, to.log2_grad_weight_sample, first + l, 0);
            put(from.norm_gain, l, to.norm_gain, first + l, 0);
            put(from.log2_activation, l + 1, to.log2_activation, first + l, 1);
        }
        for (std::size_t l = first > 0; l <= depth && first + l < stack_depth; ++l)
            put(from.weight_gain, l, to.weight_gain, first + l, 0);
        if (first == 0) put(from.log2_activation, 0, to.log2_activation, 0, 0);
    }

    std::size_t batch;
    std::vector<double> values;
    CallOutputs<T> out;
};

template <class T>
CheckpointTracer<T>::CheckpointTracer(const IsaKernels& isa, const StackSource<T>& source, TraceOptions options,
                                      std::vector<std::size_t> starts)
    : AnyStackTracer<T>(isa, units_of(source), std::move(options)),
      source_(source),
      starts_(std::move(starts)),
      totals_(stretches()),
      keeps_totals_(!this->options_.one_call || this->options_.keeps("grad_weights") ||
                    this->options_.keeps("grad_biases")) {}

template <class T>
StackNetwork<T> CheckpointTracer<T>::network_of(std::size_t s, Interrupt& interrupt) {
    return {this->isa_, source_.layers(this->isa_, starts_[s], starts_[s + 1], &arrays_, interrupt)};
}

template <class T>
StackTotals<T>& CheckpointTracer<T>::totals_of(std::size_t s, const StackNetwork<T>& network) {
    if (!totals_[s]) totals_[s] = std::make_unique<StackTotals<T>>(network, s == 0);
    return *totals_[s];
}

template <class T>
typename StackChunk<T>::OnPass CheckpointTracer<T>::load_rows(const Call& call, std::size_t s) const {
    if (s == 0) return [&call](StackPass<T>& pass) { pass.load_input(call.x); };
    return [&call, s, first = starts_[s]](StackPass<T>& pass) { pass.load_rows(call.checkpoints[s], first); };
}

// Through stretch s to the checkpoint behind it; nothing else stays.
template <class T>
void CheckpointTracer<T>::run_forward(Call& call, std::size_t s) {
    StackNetwork<T> network = network_of(s, call.interrupt);
    StackChunk<T> chunk(this->isa_, network, call.shape, Keep::last_layer, call.interrupt);
    StackRows<T>& behind = call.checkpoints[s + 1];
    behind = StackRows<T>(call.batch, network.units(network.depth()));
    behind.nonfinite = call.nonfinite.data();
    const SampleOutputs nothing;
    for (std::size_t first = 0; first < call.shape.blocks(); first += chunk.blocks_at_a_time()) {
        chunk.start(first, nothing);
        if (!chunk.forward(first > 0, load_rows(call, s), [](StackPass<T>&, std::size_t) {})) throw Interrupted{};
        chunk.for_each_pass([&](StackPass<T>& pass) { pass.store_rows(starts_[s], &behind); });
        if (call.interrupt.stopped()) throw Interrupted{};
    }
}

template <class T>
void CheckpointTracer<T>::trace_stretch(Call& call, std::size_t s) {
    const std::size_t first = starts_[s], depth = starts_[s + 1] - first;
    const bool last = s + 1 == stretches();
    StackNetwork<T> network = network_of(s, call.interrupt);
    StackTotals<T>& totals = totals_of(s, network);
    totals.sum_gradients(network, this->sums_weights(call.shape), this->sums_biases(call.shape));
    Rows rows(call.out, call.batch, first, depth);
    if (first > 0) call.below = StackGradient<T>(call.batch, network.units(0));
    StackChunk<T> chunk(this->isa_, network, call.shape, Keep::all_layers, call.interrupt);
    const typename AnyStackTracer<T>::Layers layers{
        .network = network,
        .totals = totals,
        .out = rows.out,
        .load = load_rows(call, s),
        .load_gradient =
            [&](StackPass<T>& pass) { last ? pass.load_cotangent(call.cotangent) : pass.load_gradient(call.above); },
        .finish =
            [&](StackPass<T>& pass) {
                pass.finish_samples();
                if (first > 0) return pass.store_gradient(&call.below);
                pass.finish_backward();
                this->expect(this->keep_input_gradient(rows.out, pass));
            }};
    for (std::size_t block = 0; block < call.shape.blocks(); block += chunk.blocks_at_a_time()) {
        chunk.start(block, rows.out.samples);
        if (!this->trace_chunk(chunk, layers, block > 0) || call.interrupt.stopped()) throw Interrupted{};
        this->check_exponents();
        if (!last) continue;
        this->add_loss(chunk);
        for (std::size_t i = 0; i < chunk.count(); ++i)
            for (std::size_t b = 0; b < chunk.blocks()[i].samples; ++b) {
                const std::ptrdiff_t lost = chunk.blocks()[i].nonfinite[b];
                if (lost < static_cast<std::ptrdiff_t>(depth))
                    call.nonfinite[chunk.blocks()[i].first + b] = static_cast<std::ptrdiff_t>(first) + lost;
            }
    }
    rows.copy(first, depth, this->depth(), this->options_.every, call.out);
    this->take_figures(network, totals, first);
    if (!keeps_totals_) totals_[s].reset();
    std::swap(call.above, call.below);
}

template <class T>
void CheckpointTracer<T>::add(const T* x, std::size_t batch, const Cotangent<T>& cotangent, const CallOutputs<T>& out,
                              Interrupt& interrupt) {
    Call call{.x = x,
              .batch = batch,
              .cotangent = cotangent,
              .out = out,
              .interrupt = interrupt,
              .shape = stack_shape<T>(this->units_.total, this->units_.normalised, batch),
              .nonfinite = std::vector<std::int64_t>(batch, static_cast<std::int64_t>(this->depth())),
              .checkpoints = std::vector<StackRows<T>>(stretches())};
    this->count(batch, cotangent);
    for (std::size_t s = 0; s + 1 < stretches(); ++s) run_forward(call, s);
    for (std::size_t s = stretches(); s-- > 0;) {
        trace_stretch(call, s);
        call.checkpoints[s] = StackRows<T>();
    }
    for (const std::int64_t lost : call.nonfinite)
        this->nonfinite_ = std::min(this->nonfinite_, static_cast<std::size_t>(lost));
}

template <class T>
const LayerGradient<T>& CheckpointTracer<T>::gradient(std::size_t l) const {
    const auto next = std::upper_bound(starts_.begin(), starts_.end(), l);
    const auto s = static_cast<std::size_t>(next - starts_.begin()) - 1;
    return totals_[s]->gradient(l - starts_[s]);
}

template <class T>
std::unique_ptr<AnyStackTracer<T>> open_tracer(const IsaKernels& isa, const StackSource<T>& source,
                                               const TraceOptions& options, std::size_t batch, std::size_t memory) {
    constexpr std::size_t kSmall = std::size_t{256} << 20;
    const StackUnits units = units_of(source);
    const BatchShape shape = stack_shape<T>(units.total, units.normalised, std::max<std::size_t>(batch, 1));
    const bool sums = !options.one_call || shape.chunks() > 1 || options.keeps("grad_weights");
    const StretchCosts costs(source, units, shape, sums);
    const std::size_t most = memory ? memory : source.stored() ? physical_memory_bytes() / 4 : kSmall;
    const bool whole = costs.whole() <= most;
    Interrupt never([] { return false; });
    if (whole && source.stored() && options.every == 1)
        return std::make_unique<StackTracer<T>>(isa, source.layers(isa, 0, source.depth(), nullptr, never), options);
    std::vector<std::size_t> starts{0, source.depth()};
    if (!whole) starts = costs.cut(memory);
    return std::make_unique<CheckpointTracer<T>>(isa, source, options, std::move(starts));
}

template std::unique_ptr<AnyStackTracer<float>> open_tracer(const IsaKernels&, const StackSource<float>&,
                                                            const TraceOptions&, std::size_t, std::size_t);
template std::unique_ptr<AnyStackTracer<double>> open_tracer(const IsaKernels&, const StackSource<double>&,
                                                             const TraceOptions&, std::size_t, std::size_t);
template StretchCosts::StretchCosts(const StackSource<float>&, const StackUnits&, const BatchShape&, bool);
template StretchCosts::StretchCosts(const StackSource<double>&, const StackUnits&, const BatchShape&, bool);
template class CheckpointTracer<float>;
template class CheckpointTracer<double>;

}  // namespace gt
