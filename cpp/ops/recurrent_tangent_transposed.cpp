// The transposed map of a step: gradients of the state after it become those of the state before it.
#include <algorithm>
#include <array>
#include <cmath>

#include "ops/recurrent_tangent.h"

namespace gt {

bool RecurrentTangent::finite(std::size_t slot) const {
    return std::all_of(layers_.begin(), layers_.end(), [&](const Layer& layer) {
        const double* at = layer.coefficients.data() + slot * coefficients_of(layer);
        return std::all_of(at, at + coefficients_of(layer), [](double x) { return std::isfinite(x); });
    });
}

void RecurrentTangent::product_transposed(const double* weight, std::size_t rows, std::size_t inputs,
                                          std::size_t columns, const double* dz, double* to, std::size_t ld, bool add) {
    const GemmColumns<double> set{columns, dz, to};
    isa_->get<double>().gemm->tn(inputs, rows, weight, inputs, &set, 1, columns, ld, add, nullptr, scratch_.data());
}

void RecurrentTangent::apply_transposed(std::size_t slot, std::size_t columns, std::size_t ld, const double* after,
                                        double* before) {
    if (arriving_.size() < size_ * columns) arriving_ = AlignedBuffer<double>(checked_multiply(size_, columns));
    for (std::size_t i = 0; i < size_; ++i) std::copy_n(after + i * ld, columns, arriving_.data() + i * columns);
    const Gradients g{columns, ld, arriving_.data(), before};
    for (std::size_t k = layers_.size(); k-- > 0;) {
        Layer& layer = layers_[k];
        const RecurrentLayer<double>& w = layer.weights;
        const std::size_t rows = cell_.weight_blocks * w.hidden;
        const double *at = layer.coefficients.data() + slot * coefficients_of(layer),
                     *dz = kind_ == CellKind::lstm  ? transposed_lstm(layer, at, g)
                           : kind_ == CellKind::gru ? transposed_gru(layer, at, g)
                                                    : transposed_rnn(layer, at, g);
        product_transposed(w.weight_hh, rows, w.hidden, columns, dz, before + layer.first * ld, ld,
                           cell_.carries && !cell_.has_cell_state);
        if (k == 0) continue;
        if (kind_ == CellKind::gru) dz = layer.fed.data();
        product_transposed(w.weight_ih, rows, w.inputs, columns, dz, g.after + layers_[k - 1].first * columns, columns,
                           true);
    }
}

const double* RecurrentTangent::transposed_rnn(Layer& layer, const double* at, const Gradients& g) {
    double* dz = g.after + layer.first * g.columns;
    isa_->get<double>().rows->scale(layer.weights.hidden, g.columns, dz, g.columns, at);
    return dz;
}

const double* RecurrentTangent::transposed_lstm(Layer& layer, const double* at, const Gradients& g) {
    const std::size_t n = layer.weights.hidden, columns = g.columns;
    const RowKernels<double>& rows = *isa_->get<double>().rows;
    for (std::size_t u = 0; u < n; ++u) {
        const auto factor = [&](std::size_t block) { return at[block * n + u]; };
        const auto dz = [&](std::size_t block) { return layer.carried.data() + (block * n + u) * columns; };
        const double* dh = g.after + (layer.first + u) * columns;
        double* dc = g.after + (layer.first + n + u) * columns;
        const std::array<const double*, 2> both{dc, dh};
        const std::array to_c{1.0, factor(1)};
        rows.combine(2, columns, both.data(), to_c.data(), dc);
        const std::array to_gates{factor(2), factor(3), factor(4)};
        const double* from = dc;
        for (std::size_t i = 0; i < 3; ++i)
            rows.combine(1, columns, &from, &to_gates[i],
                         dz(std::array{LstmBlock::input, LstmBlock::forget, LstmBlock::candidate}[i]));
        const double out = factor(5), kept = factor(0);
        rows.combine(1, columns, &dh, &out, dz(LstmBlock::output));
        rows.combine(1, columns, &from, &kept, g.before + (layer.first + n + u) * g.ld);
    }
    return layer.carried.data();
}

const double* RecurrentTangent::transposed_gru(Layer& layer, const double* at, const Gradients& g) {
    const std::size_t n = layer.weights.hidden, columns = g.columns;
    const RowKernels<double>& rows = *isa_->get<double>().rows;
    for (std::size_t u = 0; u < n; ++u) {
        const double* dh = g.after + (layer.first + u) * columns;
        const auto put = [&](std::size_t block, double* to) { rows.combine(1, columns, &dh, at + block * n + u, to); };
        for (std::size_t block = 0; block < 3; ++block) {  // PyTorch's r, z, n
            const std::size_t row = (block * n + u) * columns;
            put(2 + block, layer.carried.data() + row);
            if (layer.first > 0) put(block == 2 ? 1 : 2 + block, layer.fed.data() + row);
        }
        put(0, g.before + (layer.first + u) * g.ld);
    }
    return layer.carried.data();
}

}  // namespace gt
