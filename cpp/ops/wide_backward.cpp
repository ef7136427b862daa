#include "ops/wide_backward.h"

#include <algorithm>

namespace gt {
namespace {

Wide sigmoid_slope(double z) { return wide_sigmoid(z) * wide_sigmoid(-z); }
Wide tanh_slope(double z) { return wide(4) * sigmoid_slope(2 * z); }

bool one_row_holds(const std::vector<Wide>& x, double bits) {
    const double top = top_exponent(x.size(), x.data());
    return std::all_of(x.begin(), x.end(), [&](const Wide& v) { return v.m == 0 || v.e > top - bits; });
}

}  // namespace

template <class T>
void wide_coefficients(CellKind kind, std::size_t hidden, const T* z, const WideFactors& factors, Wide* out) {
    const std::size_t n = hidden;
    const CellShape& cell = cell_shape(kind);
    for (std::size_t u = 0; u < n; ++u) {
        const auto at = [&](std::size_t block) { return static_cast<double>(z[block * n + u]); };
        const auto put = [&](std::size_t block, Wide value) { out[block * n + u] = value; };
        if (kind == CellKind::lstm) {
            const double i = at(LstmBlock::input), f = at(LstmBlock::forget), g = at(LstmBlock::candidate),
                         o = at(LstmBlock::output);
            put(0, wide_sigmoid(f));
            put(1, wide_sigmoid(o) * tanh_slope(plain(factors.c[u])));
            put(2, wide_tanh(factors.candidate[u]) * sigmoid_slope(i));
            put(3, factors.c_previous[u] * sigmoid_slope(f));
            put(4, wide_sigmoid(i) * tanh_slope(g));
            put(5, wide_tanh(factors.c[u]) * sigmoid_slope(o));
        } else if (cell.carries) {
            const double update = at(cell.carry_block());
            const Wide to_candidate = wide_sigmoid(-update) * tanh_slope(at(cell.candidate_block));
            put(0, wide_sigmoid(update));
            put(1 + cell.candidate_block, to_candidate);
            put(1 + cell.carry_block(), factors.difference[u] * sigmoid_slope(update));
            if (!cell.has_recurrent_block()) continue;
            const double reset = at(GruBlock::reset);
            put(1 + GruBlock::reset, to_candidate * factors.recurrent[u] * sigmoid_slope(reset));
            put(1 + cell.recurrent_block(), to_candidate * wide_sigmoid(reset));
        } else {
            put(0, kind == CellKind::rnn_tanh ? tanh_slope(at(0)) : wide(at(0) > 0 ? 1 : 0));
        }
    }
}

template <class T>
const WideOutputs& WideBackward<T>::run(const T* z, const WideFactors& factors, const WideArrivals<T>& in, bool split) {
    const bool has_c = cell_.has_cell_state;
    coefficients_.resize(cell_.coefficient_blocks * n_);
    wide_coefficients(kind_, n_, z, factors, coefficients_.data());
    for (std::vector<Wide>* rows : {&out_.dh, &out_.dc, &out_.direct, &out_.gated}) rows->resize(n_);
    out_.dz.resize(cell_.row_blocks * n_);
    const std::size_t first = cell_.coefficient_blocks - cell_.row_blocks;
    for (std::size_t u = 0; u < n_; ++u) {
        const Wide injected = in.u ? (*in.u)[u] : Wide{}, returned = (*in.p)[u];
        const auto by = [&](std::size_t block) { return coefficients_[block * n_ + u]; };
        // The carried gradient is that of the state: of c, which h reaches through its gate, or of h itself.
        const auto reach = [&](Wide v) { return has_c ? v * by(1) : v; };
        Wide dh = injected + returned, state = dh;
        if (cell_.carries) {
            WideCarries& carries = *in.carries;
            state = carries.whole[u] + reach(dh);
            if (!has_c) dh = state;
            carries.whole[u] = state * by(0);
        }
        if (split) {
            WideCarries& carries = *in.carries;
            out_.direct[u] = carries.direct[u] + reach(injected);
            out_.gated[u] = carries.gated[u] + reach(returned);
            carries.direct[u] = out_.direct[u] * by(0);
            carries.gated[u] = out_.gated[u] * by(0);
        }
        out_.dh[u] = dh;
        out_.dc[u] = state;
        for (std::size_t block = 0; block < cell_.row_blocks; ++block)
            out_.dz[block * n_ + u] = (has_c && block != LstmBlock::output ? state : dh) * by(first + block);
    }
    return out_;
}

template <class T>
bool rows_hold(const WideCarries& carries) {
    constexpr double kBits = sizeof(T) == 4 ? 90 : 900;
    return one_row_holds(carries.whole, kBits) && one_row_holds(carries.direct, kBits) &&
           one_row_holds(carries.gated, kBits);
}

#define GT_INSTANTIATE(T)                                                                           \
    template void wide_coefficients<T>(CellKind, std::size_t, const T*, const WideFactors&, Wide*); \
    template bool rows_hold<T>(const WideCarries&);                                                 \
    template class WideBackward<T>;
GT_INSTANTIATE(float)
GT_INSTANTIATE(double)
#undef GT_INSTANTIATE

}  // namespace gt
