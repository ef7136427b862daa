#include "ops/recurrent_draw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/subnormals.h"

namespace gt {
namespace {

// Apart from the streams of stacks, and so many for each layer; a weight has one for each block of rows.
constexpr std::uint32_t kFirstStream = 1U << 24, kStreams = 16;
constexpr std::uint32_t kWeightIh = 0, kWeightHh = 4, kBiasIh = 8, kBiasHh = 9, kChrono = 10;

// Orthogonal, and the fan-out, are meant gate by gate.
template <class T>
void draw_weight(const IsaKernels& isa, const RecurrentLaw& law, const BlockLaw& weight, std::uint64_t seed,
                 std::uint32_t stream, std::size_t columns, T* out, Interrupt& interrupt) {
    const std::size_t blocks = cell_shape(law.kind).weight_blocks, size = law.hidden * columns;
    for (std::size_t block = 0; block < blocks; ++block) {
        const auto own = static_cast<std::uint32_t>(stream + block);
        T* to = out + block * size;
        if (weight.kind == BlockLaw::Kind::orthogonal)
            fill_orthogonal(isa, seed, own, weight.factor, law.hidden, columns, to, interrupt);
        else
            fill_random(isa, weight.kind == BlockLaw::Kind::normal ? Law::normal : Law::uniform, seed, own,
                        Draw::weight, weight.factor, size, to, interrupt);
    }
}

template <class T>
void draw_bias(const IsaKernels& isa, const RecurrentLaw& law, std::uint64_t seed, std::uint32_t stream, T* out,
               Interrupt& interrupt) {
    if (law.bias_limit == 0)
        std::fill(out, out + law.rows(), T(0));
    else
        fill_random(isa, Law::uniform, seed, stream, Draw::bias, law.bias_limit, law.rows(), out, interrupt);
}

template <class T>
void set_forget_bias(const IsaKernels& isa, const RecurrentLaw& law, std::uint64_t seed, std::uint32_t stream,
                     const LayerParameters<T>& out, Interrupt& interrupt) {
    const ForgetBias& forget = law.forget;
    if (forget.kind == ForgetBias::Kind::left) return;
    const std::size_t n = law.hidden;
    std::vector<double> values(n, forget.number);
    if (forget.kind == ForgetBias::Kind::chrono) {
        fill_random(isa, Law::uniform, seed, stream, Draw::bias, 1.0, n, values.data(), interrupt);
        for (double& value : values) value = std::log(1 + (value + 1) / 2 * (forget.number - 2));
    }
    const auto set = [&](std::size_t block, double sign) {
        for (std::size_t u = 0; u < n; ++u) {
            out.bias_ih[block * n + u] = static_cast<T>(sign * values[u]);
            out.bias_hh[block * n + u] = T(0);
        }
    };
    set(forget.rows[0], 1);
    if (forget.kind == ForgetBias::Kind::chrono) set(forget.rows[1], -1);
}

}  // namespace

template <class T>
void draw_recurrent_layer(const IsaKernels& isa, const RecurrentLaw& law, std::uint64_t seed, std::size_t layer,
                          const LayerParameters<T>& out, Interrupt& interrupt) {
    const SubnormalMode keep(Subnormals::keep);  // whoever calls
    const auto first = static_cast<std::uint32_t>(kFirstStream + kStreams * layer);
    draw_weight(isa, law, layer < law.directions ? law.first_ih : law.ih, seed, first + kWeightIh, law.inputs_of(layer),
                out.weight_ih, interrupt);
    draw_weight(isa, law, law.hh, seed, first + kWeightHh, law.hidden, out.weight_hh, interrupt);
    draw_bias(isa, law, seed, first + kBiasIh, out.bias_ih, interrupt);
    draw_bias(isa, law, seed, first + kBiasHh, out.bias_hh, interrupt);
    set_forget_bias(isa, law, seed, first + kChrono, out, interrupt);
}

template void draw_recurrent_layer<float>(const IsaKernels&, const RecurrentLaw&, std::uint64_t, std::size_t,
                                          const LayerParameters<float>&, Interrupt&);
template void draw_recurrent_layer<double>(const IsaKernels&, const RecurrentLaw&, std::uint64_t, std::size_t,
                                           const LayerParameters<double>&, Interrupt&);

}  // namespace gt
