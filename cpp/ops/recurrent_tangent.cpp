#include "ops/recurrent_tangent.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace gt {

RecurrentTangent::RecurrentTangent(const IsaKernels& isa, const RecurrentNetwork<double>& network, std::size_t columns,
                                   std::size_t slots)
    : isa_(&isa),
      kind_(network.kind),
      cell_(cell_shape(kind_)),
      live_(slots),
      scratch_(isa.get<double>().gemm->scratch_bytes) {
    std::size_t first = 0;
    for (const RecurrentLayer<double>& weights : network.layers) {
        layers_.emplace_back();
        layers_.back().weights = weights;
        layers_.back().first = first;
        prepare(&layers_.back(), columns, slots);
        first += weights.hidden * (cell_.has_cell_state ? 2 : 1);
    }
    size_ = first;
}

void RecurrentTangent::prepare(Layer* layer, std::size_t columns, std::size_t slots) const {
    const RecurrentLayer<double>& w = layer->weights;
    const std::size_t n = w.hidden, rows = cell_.weight_blocks * n;
    for (auto* state : {&layer->h, &layer->c, &layer->next_h, &layer->next_c, &layer->units}) state->resize(n);
    layer->z.resize(cell_.row_blocks * n);
    layer->bias.resize(cell_.row_blocks * n);
    for (std::size_t block = 0; block < cell_.weight_blocks; ++block)
        for (std::size_t u = 0; u < n; ++u) {
            double* bias = layer->bias.data() + block * n + u;
            if (w.bias_ih) bias[cell_.ih_first * n] += w.bias_ih[cell_.ih_order[block] * n + u];
            if (w.bias_hh) bias[cell_.hh_first * n] += w.bias_hh[cell_.hh_order[block] * n + u];
        }
    layer->coefficients.resize(checked_multiply(slots, coefficients_of(*layer)));
    if (!cell_.gates) return;
    layer->carried = AlignedBuffer<double>(checked_multiply(rows, columns));
    if (layer->first > 0) layer->fed = AlignedBuffer<double>(checked_multiply(rows, columns));
}

void RecurrentTangent::start(std::size_t k, const double* h0, const double* c0) {
    Layer& layer = layers_[k];
    for (std::size_t u = 0; u < layer.weights.hidden; ++u) {
        layer.h[u] = h0 ? h0[u] : 0;
        layer.c[u] = c0 ? c0[u] : 0;
    }
}

void RecurrentTangent::advance(const double* x, std::size_t slot) {
    live_[slot] = 0;
    for (Layer& layer : layers_) {
        advance_layer(&layer, x, slot);
        x = layer.h.data();
    }
}

// z += W x, blocks of W in this order.
void RecurrentTangent::add_product(const double* weight, std::size_t columns, const std::size_t* order,
                                   std::size_t hidden, const double* x, double* z) const {
    std::size_t block = 0;
    while (block < cell_.weight_blocks) {
        std::size_t end = block + 1;
        while (end < cell_.weight_blocks && order[end] == order[end - 1] + 1) ++end;
        const GemmColumns<double> set{1, x, z + block * hidden};
        isa_->get<double>().gemm->nn((end - block) * hidden, columns, weight + order[block] * hidden * columns, columns,
                                     &set, 1, 1, 1, true, nullptr, nullptr);
        block = end;
    }
}

void RecurrentTangent::advance_layer(Layer* layer, const double* x, std::size_t slot) {
    const RecurrentLayer<double>& w = layer->weights;
    const std::size_t n = w.hidden;
    const CellKernels<double>& kernels = *isa_->get<double>().cells[static_cast<std::size_t>(kind_)];
    double* coefficients = layer->coefficients.data() + slot * coefficients_of(*layer);
    std::fill(layer->z.begin(), layer->z.end(), 0.0);
    add_product(w.weight_ih, w.inputs, cell_.ih_order, n, x, layer->z.data() + cell_.ih_first * n);
    add_product(w.weight_hh, n, cell_.hh_order, n, layer->h.data(), layer->z.data() + cell_.hh_first * n);
    double squares = 0, carry = 0, gates[8];
    CellForward<double> s{};
    s.rows = 1;
    s.hidden = n;
    s.z = layer->z.data();
    s.bias = layer->bias.data();
    s.h_previous = layer->h.data();
    s.h = layer->next_h.data();
    if (cell_.has_cell_state) {
        s.c_previous = layer->c.data();
        s.c = layer->next_c.data();
    }
    s.h_squares = &squares;
    s.gate_sums = gates;
    s.carry_log2 = &carry;
    s.add_carry_log2_units = layer->units.data();
    kernels.forward(s);
    kernels.coefficients({1, n, s.z, s.h_previous, s.c_previous, s.c, coefficients});
    std::swap(layer->h, layer->next_h);
    std::swap(layer->c, layer->next_c);
    // An LSTM's h takes its rank from what the output gate adds, its c from the forget gate; a GRU's from its update
    // gate.
    const auto live_of = [&](std::size_t block) {
        const double* of = coefficients + block * n;
        return n - static_cast<std::size_t>(std::count(of, of + n, 0.0));
    };
    live_[slot] += live_of(0) + (cell_.has_cell_state ? live_of(5) : 0);
}

void RecurrentTangent::product(const double* weight, std::size_t rows, std::size_t inputs, const Tiles& tiles,
                               const double* from, double* to, std::size_t to_ld, bool add) {
    const GemmColumns<double> set{tiles.columns, from, to};
    isa_->get<double>().gemm->nn(rows, inputs, weight, inputs, &set, 1, tiles.ld, to_ld, add, nullptr, scratch_.data());
}

void RecurrentTangent::apply(std::size_t slot, std::size_t columns, std::size_t ld, const double* before,
                             double* after) {
    const Tiles tiles{columns, ld, before, after};
    const double* below = nullptr;
    for (Layer& layer : layers_) {
        const double* at = layer.coefficients.data() + slot * coefficients_of(layer);
        cell_.gates ? apply_gates(layer, at, tiles, below) : apply_rnn(layer, at, tiles, below);
        below = after + layer.first * ld;
    }
}

void RecurrentTangent::apply_rnn(const Layer& layer, const double* at, const Tiles& tiles, const double* below) {
    const RecurrentLayer<double>& w = layer.weights;
    double* to = tiles.after + layer.first * tiles.ld;
    product(w.weight_hh, w.hidden, w.hidden, tiles, tiles.before + layer.first * tiles.ld, to, tiles.ld, false);
    if (below) product(w.weight_ih, w.hidden, w.inputs, tiles, below, to, tiles.ld, true);
    isa_->get<double>().rows->scale(w.hidden, tiles.columns, to, tiles.ld, at);
}

void RecurrentTangent::apply_gates(Layer& layer, const double* at, const Tiles& tiles, const double* below) {
    const RecurrentLayer<double>& w = layer.weights;
    const std::size_t rows = cell_.weight_blocks * w.hidden, columns = tiles.columns;
    double *carried = layer.carried.data(), *fed = layer.fed.data();
    product(w.weight_hh, rows, w.hidden, tiles, tiles.before + layer.first * tiles.ld, carried, columns, false);
    // A GRU's candidate takes the two apart.
    const bool apart = cell_.has_recurrent_block();
    if (below) product(w.weight_ih, rows, w.inputs, tiles, below, apart ? fed : carried, columns, !apart);
    apart ? apply_gru(layer, at, tiles) : apply_lstm(layer, at, tiles);
}

// dc' = f dc + what i, f, g add; dh' = o sech^2(c') dc' + what o adds. Coefficients as CellCoefficients has them.
void RecurrentTangent::apply_lstm(const Layer& layer, const double* at, const Tiles& tiles) const {
    const std::size_t n = layer.weights.hidden, columns = tiles.columns;
    const RowKernels<double>& rows = *isa_->get<double>().rows;
    for (std::size_t u = 0; u < n; ++u) {
        const auto dz = [&](std::size_t block) { return layer.carried.data() + (block * n + u) * columns; };
        const auto factor = [&](std::size_t block) { return at[block * n + u]; };
        double *dh = tiles.after + (layer.first + u) * tiles.ld, *dc = dh + n * tiles.ld;
        const std::array from_c{tiles.before + (layer.first + n + u) * tiles.ld, dz(LstmBlock::input),
                                dz(LstmBlock::forget), dz(LstmBlock::candidate)};
        const std::array to_c{factor(0), factor(2), factor(3), factor(4)};
        rows.combine(4, columns, from_c.data(), to_c.data(), dc);
        const std::array<const double*, 2> from_h{dc, dz(LstmBlock::output)};
        const std::array to_h{factor(1), factor(5)};
        rows.combine(2, columns, from_h.data(), to_h.data(), dh);
    }
}

// dh' = z dh + what r, z and the candidate's recurrent part add, and from the layer below r, z and the candidate.
void RecurrentTangent::apply_gru(const Layer& layer, const double* at, const Tiles& tiles) const {
    const std::size_t n = layer.weights.hidden, terms = layer.first == 0 ? 4 : 7;
    for (std::size_t u = 0; u < n; ++u) {
        const auto row = [&](const AlignedBuffer<double>& of, std::size_t block) {  // PyTorch's r, z, n
            return of.size() == 0 ? nullptr : of.data() + (block * n + u) * tiles.columns;
        };
        const auto factor = [&](std::size_t block) { return at[block * n + u]; };
        const std::array<const double*, 7> from{tiles.before + (layer.first + u) * tiles.ld,
                                                row(layer.carried, 0),
                                                row(layer.carried, 1),
                                                row(layer.carried, 2),
                                                row(layer.fed, 0),
                                                row(layer.fed, 1),
                                                row(layer.fed, 2)};
        const std::array to{factor(0), factor(2), factor(3), factor(4), factor(2), factor(3), factor(1)};
        isa_->get<double>().rows->combine(terms, tiles.columns, from.data(), to.data(),
                                          tiles.after + (layer.first + u) * tiles.ld);
    }
}

}  // namespace gt
