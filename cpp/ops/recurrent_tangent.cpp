#include "ops/recurrent_tangent.h"

#include <cmath>

#include "ops/recurrent_spectrum.h"

namespace gt {
namespace {

constexpr std::size_t kFactors = 6;  // the most of any cell

double sigmoid(double z) { return z < 0 ? std::exp(z) / (1 + std::exp(z)) : 1 / (1 + std::exp(-z)); }
double sigmoid_slope(double z) { return sigmoid(z) * sigmoid(-z); }
double tanh_slope(double z) {  // 1 / cosh^2
    const double fade = std::exp(-2 * std::fabs(z));
    return 4 * fade / ((1 + fade) * (1 + fade));
}

// y = W x + b; b null: 0.
void affine(std::size_t rows, std::size_t columns, const double* weight, const double* bias, const double* x,
            double* y) {
    for (std::size_t i = 0; i < rows; ++i) {
        double sum = bias ? bias[i] : 0;
        for (std::size_t j = 0; j < columns; ++j) sum += weight[i * columns + j] * x[j];
        y[i] = sum;
    }
}

}  // namespace

RecurrentTangent::RecurrentTangent(const IsaKernels& isa, const RecurrentNetwork<double>& network, std::size_t ld)
    : isa_(&isa), kind_(network.kind), ld_(ld), scratch_(isa.get<double>().gemm->scratch_bytes) {
    const CellShape& cell = cell_shape(kind_);
    std::size_t first = 0;
    for (const RecurrentLayer<double>& weights : network.layers) {
        const std::size_t n = weights.hidden, rows = cell.weight_blocks * n;
        Layer layer{weights, first, {}, {}, {}, {}, {}, {}, {}};
        for (auto* state : {&layer.h, &layer.c}) state->resize(n);
        for (auto* sums : {&layer.z, &layer.q}) sums->resize(rows);
        layer.factors.resize(kFactors * n);
        layer.carried = AlignedBuffer<double>(checked_multiply(rows, ld));
        if (!layers_.empty()) layer.fed = AlignedBuffer<double>(checked_multiply(rows, ld));
        layers_.push_back(std::move(layer));
        first += n * (cell.has_cell_state ? 2 : 1);
    }
}

void RecurrentTangent::start(std::size_t k, const double* h0, const double* c0) {
    Layer& layer = layers_[k];
    for (std::size_t u = 0; u < layer.weights.hidden; ++u) {
        layer.h[u] = h0 ? h0[u] : 0;
        layer.c[u] = c0 ? c0[u] : 0;
    }
}

void RecurrentTangent::advance(const double* x) {
    for (Layer& layer : layers_) {
        advance_layer(&layer, x);
        x = layer.h.data();
    }
}

void RecurrentTangent::advance_layer(Layer* layer, const double* x) {
    const RecurrentLayer<double>& w = layer->weights;
    const std::size_t rows = cell_shape(kind_).weight_blocks * w.hidden;
    affine(rows, w.inputs, w.weight_ih, w.bias_ih, x, layer->z.data());
    affine(rows, w.hidden, w.weight_hh, w.bias_hh, layer->h.data(), layer->q.data());
    if (kind_ == CellKind::lstm)
        advance_lstm(layer);
    else if (kind_ == CellKind::gru)
        advance_gru(layer);
    else
        advance_rnn(layer);
}

// c' = f c + i g, h' = o tanh(c'). Factors: of dc in dc' and of the changes of z_i, z_f, z_g; of dc' and z_o in dh'.
void RecurrentTangent::advance_lstm(Layer* layer) {
    const std::size_t n = layer->weights.hidden;
    const auto z = [&](std::size_t block, std::size_t u) { return layer->z[block * n + u] + layer->q[block * n + u]; };
    for (std::size_t u = 0; u < n; ++u) {
        const double i = z(LstmBlock::input, u), f = z(LstmBlock::forget, u), g = z(LstmBlock::candidate, u),
                     o = z(LstmBlock::output, u), before = layer->c[u],
                     c = sigmoid(f) * before + sigmoid(i) * std::tanh(g);
        double* factor = layer->factors.data() + kFactors * u;
        factor[LstmBlock::input] = std::tanh(g) * sigmoid_slope(i);
        factor[LstmBlock::forget] = before * sigmoid_slope(f);
        factor[LstmBlock::candidate] = sigmoid(i) * tanh_slope(g);
        factor[LstmBlock::output] = std::tanh(c) * sigmoid_slope(o);
        factor[4] = sigmoid(f);
        factor[5] = sigmoid(o) * tanh_slope(c);
        layer->c[u] = c;
        layer->h[u] = sigmoid(o) * std::tanh(c);
    }
}

// h' = (1 - z) n + z h, n = tanh(z_n + r q_n), blocks r, z, n as in PyTorch. Factors: of the changes of z_r, z_z, z_n,
// of q_n, and of dh in dh'.
void RecurrentTangent::advance_gru(Layer* layer) {
    const std::size_t n = layer->weights.hidden;
    for (std::size_t u = 0; u < n; ++u) {
        const double r = layer->z[u] + layer->q[u], z = layer->z[n + u] + layer->q[n + u], q = layer->q[2 * n + u],
                     in = layer->z[2 * n + u] + sigmoid(r) * q, candidate = std::tanh(in), before = layer->h[u],
                     moved = sigmoid(-z) * tanh_slope(in);
        double* factor = layer->factors.data() + kFactors * u;
        factor[0] = moved * q * sigmoid_slope(r);
        factor[1] = (before - candidate) * sigmoid_slope(z);
        factor[2] = moved;
        factor[3] = moved * sigmoid(r);
        factor[4] = sigmoid(z);
        layer->h[u] = sigmoid(-z) * candidate + sigmoid(z) * before;
    }
}

void RecurrentTangent::advance_rnn(Layer* layer) {
    for (std::size_t u = 0; u < layer->weights.hidden; ++u) {
        const double z = layer->z[u] + layer->q[u];
        const bool relu = kind_ == CellKind::rnn_relu;
        layer->factors[kFactors * u] = relu ? (z > 0 ? 1 : z - z) : tanh_slope(z);
        layer->h[u] = relu ? (z > 0 ? z : z - z) : std::tanh(z);
    }
}

void RecurrentTangent::product(const double* weight, std::size_t rows, std::size_t columns, const double* from,
                               double* to, bool add) {
    const GemmColumns<double> set{ld_, from, to};
    isa_->get<double>().gemm->nn(rows, columns, weight, columns, &set, 1, ld_, ld_, add, nullptr, scratch_.data());
}

void RecurrentTangent::apply(const double* before, double* after) {
    const std::size_t blocks = cell_shape(kind_).weight_blocks;
    const double* below = nullptr;
    for (Layer& layer : layers_) {
        const RecurrentLayer<double>& w = layer.weights;
        const std::size_t rows = blocks * w.hidden;
        product(w.weight_hh, rows, w.hidden, before + layer.first * ld_, layer.carried.data(), false);
        // A GRU's candidate takes the two apart.
        if (below && kind_ == CellKind::gru) product(w.weight_ih, rows, w.inputs, below, layer.fed.data(), false);
        if (below && kind_ != CellKind::gru) product(w.weight_ih, rows, w.inputs, below, layer.carried.data(), true);
        if (kind_ == CellKind::lstm)
            apply_lstm(layer, before, after);
        else if (kind_ == CellKind::gru)
            apply_gru(layer, before, after);
        else
            apply_rnn(layer, after);
        below = after + layer.first * ld_;
    }
}

void RecurrentTangent::apply_lstm(const Layer& layer, const double* before, double* after) const {
    const std::size_t n = layer.weights.hidden;
    for (std::size_t u = 0; u < n; ++u) {
        const double* f = layer.factors.data() + kFactors * u;
        const auto dz = [&](std::size_t block) { return layer.carried.data() + (block * n + u) * ld_; };
        const double *i = dz(LstmBlock::input), *forget = dz(LstmBlock::forget), *g = dz(LstmBlock::candidate),
                     *o = dz(LstmBlock::output), *c = before + (layer.first + n + u) * ld_;
        double *dh = after + (layer.first + u) * ld_, *dc = dh + n * ld_;
        for (std::size_t j = 0; j < ld_; ++j) {
            dc[j] = f[4] * c[j] + f[0] * i[j] + f[1] * forget[j] + f[2] * g[j];
            dh[j] = f[5] * dc[j] + f[3] * o[j];
        }
    }
}

void RecurrentTangent::apply_gru(const Layer& layer, const double* before, double* after) const {
    const std::size_t n = layer.weights.hidden;
    const bool fed = layer.first != 0;
    for (std::size_t u = 0; u < n; ++u) {
        const double *f = layer.factors.data() + kFactors * u, *h = before + (layer.first + u) * ld_;
        double* dh = after + (layer.first + u) * ld_;
        const auto row = [&](const AlignedBuffer<double>& of, std::size_t block) {
            return of.data() + (block * n + u) * ld_;
        };
        const double *r = row(layer.carried, 0), *z = row(layer.carried, 1), *q = row(layer.carried, 2);
        for (std::size_t j = 0; j < ld_; ++j) dh[j] = f[4] * h[j] + f[0] * r[j] + f[1] * z[j] + f[3] * q[j];
        for (std::size_t block = 0; block < 3 && fed; ++block) {
            const double* x = row(layer.fed, block);
            for (std::size_t j = 0; j < ld_; ++j) dh[j] += f[block] * x[j];
        }
    }
}

void RecurrentTangent::apply_rnn(const Layer& layer, double* after) const {
    for (std::size_t u = 0; u < layer.weights.hidden; ++u) {
        const double *from = layer.carried.data() + u * ld_, slope = layer.factors[kFactors * u];
        double* dh = after + (layer.first + u) * ld_;
        for (std::size_t j = 0; j < ld_; ++j) dh[j] = slope * from[j];
    }
}

}  // namespace gt
