#include "ops/cell_logs.h"

#include <algorithm>
#include <cmath>

#include "core/scaled.h"

namespace gt {
namespace {

constexpr double kLog2OfE = 1.4426950408889634;

struct LogNumber {
    double log2, sign;
};

LogNumber operator*(LogNumber a, LogNumber b) { return {a.log2 + b.log2, a.sign * b.sign}; }
LogNumber log_of(double x) { return {std::log2(std::fabs(x)), x > 0 ? 1.0 : x < 0 ? -1.0 : x == 0 ? 0.0 : kNaN}; }
LogNumber log_of(Wide x) { return {log2_of(x), x.m > 0 ? 1.0 : x.m < 0 ? -1.0 : x.m == 0 ? 0.0 : kNaN}; }
LogNumber log_sigmoid(double z) { return {(std::min(z, 0.0) - std::log1p(std::exp(-std::fabs(z)))) * kLog2OfE, 1}; }
LogNumber log_sigmoid_slope(double z) { return log_sigmoid(z) * log_sigmoid(-z); }
LogNumber log_tanh(Wide z) { return log_of(wide_tanh(z)); }
LogNumber log_tanh_slope(double z) {
    return {2 - 2 * (std::fabs(z) + std::log1p(std::exp(-2 * std::fabs(z)))) * kLog2OfE, 1};
}

// Exponents count from the largest of the terms: a logarithm of a million would cost the mantissa twenty bits.
template <class T>
double largest_exponent(const LogTerm<T>* terms, std::size_t count) {
    double base = kNegativeInfinity;
    for (std::size_t t = 0; t < count; ++t) base = std::max(base, terms[t].exponent);
    return std::isfinite(base) ? base : 0;
}

template <class T>
LogNumber term_entry(const LogTerm<T>& term, double base, std::size_t i) {
    LogNumber value = log_of(static_cast<double>(term.row[i]));
    value.log2 += term.exponent - base;
    if (term.coefficients == nullptr) return value;
    return value * LogNumber{term.coefficients->log2[term.block + i], term.coefficients->sign[term.block + i]};
}

template <class T>
T to_plain(LogNumber value, double shift) {
    return value.sign == 0 ? T(0) : static_cast<T>(value.sign * std::exp2(value.log2 - shift));
}

}  // namespace

template <class T>
void log_coefficients(CellKind kind, std::size_t hidden, const T* z, const WideFactors& factors, LogNumbers* out) {
    const std::size_t n = hidden;
    out->resize(cell_shape(kind).coefficient_blocks * n);
    const auto put = [&](std::size_t block, std::size_t u, LogNumber value) {
        out->log2[block * n + u] = value.log2;
        out->sign[block * n + u] = value.sign;
    };
    for (std::size_t u = 0; u < n; ++u) {
        const auto at = [&](std::size_t block) { return static_cast<double>(z[block * n + u]); };
        if (kind == CellKind::lstm) {
            const double i = at(LstmBlock::input), f = at(LstmBlock::forget), g = at(LstmBlock::candidate),
                         o = at(LstmBlock::output), state = plain(factors.c[u]);
            put(0, u, log_sigmoid(f));
            put(1, u, log_sigmoid(o) * log_tanh_slope(state));
            put(2, u, log_tanh(factors.candidate[u]) * log_sigmoid_slope(i));
            put(3, u, log_of(factors.c_previous[u]) * log_sigmoid_slope(f));
            put(4, u, log_sigmoid(i) * log_tanh_slope(g));
            put(5, u, log_tanh(factors.c[u]) * log_sigmoid_slope(o));
        } else if (kind == CellKind::gru) {
            const double reset = at(GruBlock::reset), update = at(GruBlock::update), in = at(GruBlock::candidate);
            const LogNumber to_candidate = log_sigmoid(-update) * log_tanh_slope(in);
            put(0, u, log_sigmoid(update));
            put(1 + GruBlock::candidate, u, to_candidate);
            put(1 + GruBlock::reset, u, to_candidate * log_of(factors.recurrent[u]) * log_sigmoid_slope(reset));
            put(1 + GruBlock::update, u, log_of(factors.difference[u]) * log_sigmoid_slope(update));
            put(1 + GruBlock::recurrent, u, to_candidate * log_sigmoid(reset));
        } else {
            put(0, u, kind == CellKind::rnn_tanh ? log_tanh_slope(at(0)) : log_of(at(0) > 0 ? 1.0 : 0.0));
        }
    }
}

// The exponent of the largest entry, counted from `base`.
template <class T>
static double shift_of_largest(std::size_t n, const LogTerm<T>* terms, std::size_t count, double base) {
    double top = kNegativeInfinity;
    for (std::size_t t = 0; t < count; ++t)
        for (std::size_t i = 0; i < n; ++i) {
            const LogNumber value = term_entry(terms[t], base, i);
            if (value.sign != 0) top = std::max(top, value.log2);
        }
    return std::isfinite(top) ? std::floor(top) + 1 : 0;
}

template <class T>
double sum_of_terms(std::size_t n, const LogTerm<T>* terms, std::size_t count, T* to) {
    const double base = largest_exponent(terms, count);
    const double shift = shift_of_largest(n, terms, count, base);
    for (std::size_t i = 0; i < n; ++i) {
        double sum = 0;
        for (std::size_t t = 0; t < count; ++t) sum += to_plain<double>(term_entry(terms[t], base, i), shift);
        to[i] = static_cast<T>(sum);
    }
    return base + shift;
}

template <class T>
double products_side_by_side(std::size_t n, const LogTerm<T>* terms, std::size_t parts, T* to) {
    const double base = largest_exponent(terms, parts);
    const double shift = shift_of_largest(n, terms, parts, base);
    for (std::size_t part = 0; part < parts; ++part)
        for (std::size_t i = 0; i < n; ++i) to[part * n + i] = to_plain<T>(term_entry(terms[part], base, i), shift);
    return base + shift;
}

#define GT_INSTANTIATE(T)                                                                                \
    template void log_coefficients<T>(CellKind, std::size_t, const T*, const WideFactors&, LogNumbers*); \
    template double sum_of_terms<T>(std::size_t, const LogTerm<T>*, std::size_t, T*);                    \
    template double products_side_by_side<T>(std::size_t, const LogTerm<T>*, std::size_t, T*);
GT_INSTANTIATE(float)
GT_INSTANTIATE(double)
#undef GT_INSTANTIATE

}  // namespace gt
