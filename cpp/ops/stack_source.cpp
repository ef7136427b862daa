#include "ops/stack_source.h"

#include <optional>

#include "core/shape.h"

namespace gt {
namespace {

constexpr std::size_t kLine = 64;

template <class T>
std::size_t on_lines(std::size_t count) {
    return round_up(count, kLine / sizeof(T));
}

}  // namespace

template <class T>
std::size_t StackSource<T>::parameters(std::size_t l) const {
    if (stored()) return 0;
    const std::size_t weights = on_lines<T>(checked_multiply(sizes[l], sizes[l + 1]));
    return checked_add(weights, drawn->bias_factor.empty() ? 0 : on_lines<T>(sizes[l + 1]));
}

template <class T>
void StackSource<T>::draw(const IsaKernels& isa, std::size_t l, T* weight, T* bias) const {
    Interrupt never([] { return false; });  // who draws several asks between them
    const auto stream = static_cast<std::uint32_t>(l);
    const std::size_t rows = sizes[l + 1], columns = sizes[l];
    const auto fill = [&](bool normal, Draw kind, double factor, std::size_t count, T* to) {
        fill_random(isa, normal ? Law::normal : Law::uniform, drawn->seed, stream, kind, factor, count, to, never);
    };
    const double factor = drawn->weight_factor[l];
    if (drawn->weight_law == MatrixLaw::orthogonal)
        fill_orthogonal(isa, drawn->seed, stream, factor, rows, columns, weight, never);
    else
        fill(drawn->weight_law == MatrixLaw::normal, Draw::weight, factor, rows * columns, weight);
    if (bias) fill(drawn->normal_biases, Draw::bias, drawn->bias_factor[l], rows, bias);
}

template <class T>
std::vector<DenseLayer<T>> StackSource<T>::layers(const IsaKernels& isa, std::size_t first, std::size_t end,
                                                  DrawnArrays<T>* arrays, Interrupt& interrupt) const {
    std::vector<DenseLayer<T>> all;
    all.reserve(end - first);
    for (std::size_t l = first; l < end; ++l) {
        DenseLayer<T> layer = kinds[kind[l]];
        layer.inputs = sizes[l];
        layer.outputs = sizes[l + 1];
        layer.weight = stored() ? weight[l] : nullptr;
        layer.bias = stored() ? bias[l] : nullptr;
        layer.norm_weight = norm_weight.empty() ? nullptr : norm_weight[l];
        layer.norm_bias = norm_bias.empty() ? nullptr : norm_bias[l];
        all.push_back(layer);
    }
    if (stored()) return all;
    std::size_t total = 0;
    for (std::size_t l = first; l < end; ++l) total = checked_add(total, parameters(l));
    T* at = arrays->reserve(total);
    std::vector<T*> place;
    for (std::size_t l = first; l < end; ++l) {
        place.push_back(at);
        at += parameters(l);
    }
    const Loop loop{end - first, 10.0 * static_cast<double>(total)};
    parallel_for(loop, [&](std::size_t i, std::size_t worker) {
        if (interrupt.requested(worker)) return;
        std::optional<OneThread> alone;
        if (loop.workers() > 1) alone.emplace();
        DenseLayer<T>& layer = all[i];
        T* bias_at = drawn->bias_factor.empty() ? nullptr : place[i] + on_lines<T>(layer.inputs * layer.outputs);
        draw(isa, first + i, place[i], bias_at);
        layer.weight = place[i];
        layer.bias = bias_at;
    });
    if (interrupt.stopped()) throw Interrupted{};
    return all;
}

template struct StackSource<float>;
template struct StackSource<double>;

}  // namespace gt
