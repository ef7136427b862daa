#include "ops/stack_forward.h"

#include "ops/stack_checkpoints.h"

namespace gt {
namespace {

// Where groups of layers end that are drawn together: their weights stay in the cache. A stored stack is one group.
template <class T>
std::vector<std::size_t> groups_of(const StackSource<T>& source) {
    constexpr std::size_t kDrawnBytes = std::size_t{1} << 22;
    std::vector<std::size_t> starts{0};
    std::size_t bytes = 0;
    for (std::size_t l = 0; l < source.depth(); ++l) {
        const std::size_t more = source.parameters(l) * sizeof(T);
        if (l > starts.back() && bytes + more > kDrawnBytes) {
            starts.push_back(l);
            bytes = 0;
        }
        bytes += more;
    }
    starts.push_back(source.depth());
    return starts;
}

}  // namespace

template <class T>
void stack_forward(const IsaKernels& isa, const StackSource<T>& source, const T* x, std::size_t batch, T* y,
                   Interrupt& interrupt) {
    const StackUnits units = units_of(source);
    BatchShape shape = stack_shape<T>(units.total, units.normalised, batch);
    shape.chunk_blocks = kSideBySide * static_cast<std::size_t>(threads_in_use());
    const std::vector<std::size_t> starts = groups_of(source);
    std::vector<std::int64_t> nonfinite(batch, static_cast<std::int64_t>(source.depth()));
    DrawnArrays<T> arrays;
    StackRows<T> before, behind;
    const SampleOutputs nothing;
    for (std::size_t g = 0; g + 1 < starts.size(); ++g) {
        const bool last = g + 2 == starts.size();
        StackNetwork<T> network(isa, source.layers(isa, starts[g], starts[g + 1], &arrays, interrupt));
        StackChunk<T> chunk(isa, network, shape, Keep::last_layer, interrupt);
        if (!last) behind = StackRows<T>(batch, network.units(network.depth()));
        behind.nonfinite = nonfinite.data();
        const auto load = [&](StackPass<T>& pass) { g ? pass.load_rows(before, starts[g]) : pass.load_input(x); };
        for (std::size_t first = 0; first < shape.blocks(); first += chunk.blocks_at_a_time()) {
            chunk.start(first, nothing);
            if (!chunk.forward(first > 0, load, [](StackPass<T>&, std::size_t) {})) throw Interrupted{};
            chunk.for_each_pass(
                [&](StackPass<T>& pass) { last ? pass.store_output(y) : pass.store_rows(starts[g], &behind); });
            if (interrupt.stopped()) throw Interrupted{};
        }
        std::swap(before, behind);
    }
}

template void stack_forward<float>(const IsaKernels&, const StackSource<float>&, const float*, std::size_t, float*,
                                   Interrupt&);
template void stack_forward<double>(const IsaKernels&, const StackSource<double>&, const double*, std::size_t, double*,
                                    Interrupt&);

}  // namespace gt
