#include "ops/ensemble_pass.h"

#include <algorithm>

#include "core/shape.h"

namespace gt {
namespace {

// Squared norms within these are as good as T; a row whose square leaves the inner ones gets an exponent.
template <class T>
constexpr double kLeast = sizeof(T) == 4 ? 0x1p-80 : 0x1p-400;
template <class T>
constexpr double kMost = sizeof(T) == 4 ? 0x1p+100 : 0x1p+400;
constexpr double kSmall = 0x1p-40, kLarge = 0x1p+40;
bool out_of_range(double squared) { return squared != 0 && (squared < kSmall || squared > kLarge); }

double half_exponent(double squared) { return std::floor(exponent_of(squared) / 2); }

}  // namespace

template <class T>
EnsemblePass<T>::EnsemblePass(const IsaKernels& isa, const EnsembleSpec<T>& spec, const EnsembleOutputs& out,
                              std::size_t keep_bytes)
    : isa_(isa),
      kernels_(*isa.get<T>().ensemble),
      spec_(spec),
      out_(out),
      ld_(round_up(spec.width, kColumnMultiple)),
      tile_(checked_multiply(spec.samples, ld_)),
      group_(spec.samples > 4 ? kEnsembleRows : 4 * kEnsembleRows),  // accumulators enough to hide an FMA's latency
      matrix_(checked_multiply(spec.width, ld_)) {
    using F = EnsembleFigure;
    const std::size_t L = spec.depth, S = spec.samples;
    const std::size_t dear = spec.law == MatrixLaw::orthogonal ? 16 : 1;  // to draw twice
    const std::size_t fit = std::min(L, dear * keep_bytes / checked_multiply(matrix_, sizeof(T)));
    first_kept_ = L - fit;
    statistics_ = wants(F::saturated) || wants(F::derivative_mean) || wants(F::dead_samples);
    gradients_ = wants(F::log2_grad_weight) || wants(F::log2_grad_bias);
    keeps_a_ = wants(F::log2_grad_weight);
    const auto zeroed = [](AlignedBuffer<T>& buffer, std::size_t count) {  // what lies beyond the units stays so
        buffer = AlignedBuffer<T>(count);
        std::fill(buffer.data(), buffer.data() + count, T(0));
    };
    zeroed(kept_, checked_multiply(fit, matrix_));
    zeroed(drawn_, fit == L ? 0 : matrix_);
    panel_ = AlignedBuffer<T>(checked_multiply(spec.width, std::min(group_, ld_)));
    spare_ = AlignedBuffer<T>(checked_multiply(group_, spec.width));
    zeroed(bias_, ld_);
    rows_ = AlignedBuffer<T>(checked_multiply(S, spec.width));
    zeroed(z_, tile_);
    zeroed(a_, checked_multiply(keeps_a_ ? L + 1 : 2, tile_));
    zeroed(delta_, checked_multiply(L, tile_));
    zeroed(da_, tile_);
    zeroed(next_da_, tile_);
    for (Table* table : {&z_squared_, &da_squared_, &delta_squared_, &z_exponent_, &da_exponent_, &delta_exponent_})
        table->resize(L * S);
    da_squared_.resize((L + 1) * S);  // the last row is of the input
    da_exponent_.resize((L + 1) * S);
    a_squared_.resize((L + 1) * S);
    a_exponent_.resize((L + 1) * S);
    on_.resize(L * S);
    for (auto* sums : {&exponent_, &size_, &saturated_}) sums->resize(S);
    for (auto* gram : {&gram_a_, &gram_delta_}) gram->resize(S * S);
    log2_.resize((L + 1) * S);
    linear_.resize(S);
}

template <class T>
double* EnsemblePass<T>::figure(EnsembleFigure figure, std::size_t network) const {
    const auto f = static_cast<std::size_t>(figure);
    const EnsembleFigureInfo& info = ensemble_figures()[f];
    return out_[f] ? out_[f] + network * spec_.rows_of(info) * spec_.entries_of(info) : nullptr;
}

template <class T>
T* EnsemblePass<T>::weight(std::size_t l) {
    return is_kept(l) ? kept_.data() + (l - first_kept_) * matrix_ : drawn_.data();
}

template <class T>
void EnsemblePass<T>::load(T* tile, const T* rows) const {
    for (std::size_t b = 0; b < spec_.samples; ++b)
        std::copy(rows + b * spec_.width, rows + (b + 1) * spec_.width, tile + b * ld_);
}

template <class T>
bool EnsemblePass<T>::trace(std::uint64_t seed, std::size_t network, const std::function<bool()>& stopped) {
    seed_ = seed;
    network_ = network;
    const std::size_t S = spec_.samples, L = spec_.depth;
    draw_ensemble_inputs(isa_, spec_, seed, rows_.data());
    load(a(0), rows_.data());
    for (std::size_t b = 0; b < S; ++b) {
        const T* row = a(0) + b * ld_;
        a_squared_[b] = kernels_.dot(ld_, row, row);
        a_exponent_[b] = 0;
        if (!(a_squared_[b] < kMost<T>) || (a_squared_[b] < kLeast<T> && a_squared_[b] != 0)) return false;
    }
    for (std::size_t l = 0; l < L; ++l) {
        if (stopped()) throw Interrupted{};
        if (!forward_layer(l)) return false;
    }
    draw_ensemble_cotangent(isa_, spec_, seed, rows_.data());
    load(da_.data(), rows_.data());
    std::fill(exponent_.begin(), exponent_.end(), 0.0);
    for (std::size_t l = L; l-- > 0;) {
        if (stopped()) throw Interrupted{};
        if (!backward_layer(l)) return false;
    }
    for (std::size_t b = 0; b < S; ++b) {
        const T* row = da_.data() + b * ld_;
        da_squared_[L * S + b] = kernels_.dot(ld_, row, row);
        da_exponent_[L * S + b] = exponent_[b];
    }
    put_norms(network);
    return true;
}

// ---- forward --------------------------------------------------------------------------------------------------------

// Some rows of the matrix are drawn, turned and multiplied while they are in L1.
template <class T>
void EnsemblePass<T>::multiply(std::size_t l) {
    const std::size_t n = spec_.width;
    T* w = weight(l);
    if (spec_.law == MatrixLaw::orthogonal) draw_weight(l);
    for (std::size_t row = 0; row < n; row += group_) {
        const std::size_t rows = std::min(group_, n - row), columns = round_up(rows, kColumnMultiple);
        if (spec_.law != MatrixLaw::orthogonal)
            draw_ensemble_rows(isa_, spec_, seed_, l, row, rows, ld_, spare_.data(), w + row * ld_);
        kernels_.transpose(rows, n, w + row * ld_, ld_, panel_.data(), columns);
        kernels_.product(spec_.samples, n, columns, a(l), ld_, panel_.data(), columns, z_.data() + row, ld_);
    }
}

template <class T>
void EnsemblePass<T>::draw_weight(std::size_t l) {
    const std::size_t n = spec_.width;
    T* w = weight(l);
    if (spec_.law != MatrixLaw::orthogonal) {
        for (std::size_t row = 0; row < n; row += group_)
            draw_ensemble_rows(isa_, spec_, seed_, l, row, std::min(group_, n - row), ld_, spare_.data(),
                               w + row * ld_);
        return;
    }
    Interrupt nobody(nullptr);
    fill_orthogonal(isa_, seed_, static_cast<std::uint32_t>(l), spec_.weight_factor, n, n, w, nobody);
    for (std::size_t row = n; ld_ != n && row-- > 0;) {  // spread out from the last
        std::copy_backward(w + row * n, w + (row + 1) * n, w + row * ld_ + n);
        std::fill(w + row * ld_ + n, w + (row + 1) * ld_, T(0));
    }
}

// What products of rows with an exponent become: mantissas where phi is linear there, else true values.
template <class T>
bool EnsemblePass<T>::settle_exponents(std::size_t l) {
    const ActivationInfo& info = layer(l).info;
    const double limit = sizeof(T) == 4 ? info.linear_below_log2.f32 : info.linear_below_log2.f64;
    for (std::size_t b = 0; b < spec_.samples; ++b) {
        const double exponent = at(a_exponent_, l)[b];
        double& kept = at(z_exponent_, l)[b];
        kept = exponent;
        linear_[b] = 0;
        if (exponent == 0 || info.near_zero == NearZero::homogeneous) continue;
        T* z = z_.data() + b * ld_;
        const double squares = kernels_.dot(ld_, z, z);
        if (!(squares > kLeast<T> && squares < kMost<T>)) return false;
        if (info.near_zero == NearZero::linear && 0.5 * std::log2(squares) + exponent < limit) {
            linear_[b] = 1;
        } else {
            kernels_.scale(ld_, power_of_two<T>(exponent), z);
            kept = 0;
        }
    }
    return true;
}

template <class T>
bool EnsemblePass<T>::forward_layer(std::size_t l) {
    const DenseLayer<T>& layer = this->layer(l);
    multiply(l);
    if (spec_.has_bias) draw_ensemble_bias(isa_, spec_, seed_, l, bias_.data());
    const double* exponent = at(a_exponent_, l);
    const bool carried = std::any_of(exponent, exponent + spec_.samples, [](double e) { return e != 0; });
    if (carried && !settle_exponents(l)) return false;
    if (!carried) std::fill_n(at(z_exponent_, l), spec_.samples, 0.0);
    const bool slopes = carried && layer.info.near_zero == NearZero::linear;
    kernels_.forward[layer.activation]({.samples = spec_.samples,
                                        .units = spec_.width,
                                        .ld = ld_,
                                        .z = z_.data(),
                                        .a = a(l + 1),
                                        .derivative = delta(l),
                                        .bias = spec_.has_bias ? bias_.data() : nullptr,
                                        .linear = slopes ? linear_.data() : nullptr,
                                        .parameter = layer.parameter,
                                        .z_squared = at(z_squared_, l),
                                        .a_squared = at(a_squared_, l + 1),
                                        .on = at(on_, l),
                                        .size = statistics_ ? size_.data() : nullptr,
                                        .saturated = saturated_.data()});
    collect(l);
    if (layer.residual != 0) {
        if (carried) return false;
        kernels_.add(spec_.samples, spec_.width, ld_, static_cast<T>(layer.residual), a(l), a(l + 1),
                     at(a_squared_, l + 1));
    }
    return check_values(l);
}

// Gives rows an exponent where they need one and can have it.
template <class T>
bool EnsemblePass<T>::check_values(std::size_t l) {
    const ActivationInfo& info = layer(l).info;
    const bool homogeneous = info.near_zero == NearZero::homogeneous;
    const bool may_carry = !spec_.has_bias && layer(l).residual == 0 && info.near_zero != NearZero::offset;
    for (std::size_t b = 0; b < spec_.samples; ++b) {
        const double z = at(z_squared_, l)[b];
        double& squared = at(a_squared_, l + 1)[b];
        if (!(z < kMost<T> && squared < kMost<T>)) return false;  // NaN too
        const bool nothing = z == 0 && at(a_squared_, l)[b] == 0;
        if (z < kLeast<T> && !nothing) return false;
        if (squared < kLeast<T> && !(squared == 0 && (info.can_die || z == 0))) return false;
        const bool keeps = homogeneous || (at(z_exponent_, l)[b] != 0 && linear_[b] != T(0));
        double& exponent = at(a_exponent_, l + 1)[b];
        exponent = keeps ? at(z_exponent_, l)[b] : 0;
        if (!may_carry || !out_of_range(squared) || (!homogeneous && squared > kLarge)) continue;
        const double shift = half_exponent(squared);
        kernels_.scale(ld_, power_of_two<T>(-shift), a(l + 1) + b * ld_);
        squared = std::ldexp(squared, static_cast<int>(-2 * shift));
        exponent += shift;
    }
    return true;
}

// Figures of the layer that needs its tiles: z, phi', and their sums.
template <class T>
void EnsemblePass<T>::collect(std::size_t l) {
    using F = EnsembleFigure;
    const auto units = static_cast<double>(spec_.width), samples = static_cast<double>(spec_.samples);
    const ActivationInfo& info = layer(l).info;
    pair_similarity(z_.data(), at(z_squared_, l), figure(F::similarity, network_), l);
    if (double* to = figure(F::dead_units, network_))
        to[l] = info.can_die ? static_cast<double>(kernels_.off(spec_.samples, spec_.width, ld_, delta(l))) / units : 0;
    if (!statistics_) return;
    double size = 0, saturated = 0, off = 0;
    for (std::size_t b = 0; b < spec_.samples; ++b) {
        size += size_[b];
        saturated += saturated_[b];
        off += at(on_, l)[b] == 0;
    }
    if (double* to = figure(F::derivative_mean, network_)) to[l] = size / (units * samples) / info.derivative_sup;
    if (double* to = figure(F::saturated, network_)) to[l] = saturated / (units * samples);
    if (double* to = figure(F::dead_samples, network_)) to[l] = off / samples;
}

template <class T>
void EnsemblePass<T>::pair_similarity(const T* tile, const double* squares, double* to, std::size_t l) const {
    if (!to) return;
    for (std::size_t pair = 0; 2 * pair + 1 < spec_.samples; ++pair) {
        const std::size_t b = 2 * pair;
        const double product = kernels_.dot(ld_, tile + b * ld_, tile + (b + 1) * ld_);
        to[pair * spec_.depth + l] = product / std::sqrt(squares[b] * squares[b + 1]);
    }
}

// ---- backward -------------------------------------------------------------------------------------------------------

template <class T>
bool EnsemblePass<T>::backward_layer(std::size_t l) {
    using F = EnsembleFigure;
    const DenseLayer<T>& layer = this->layer(l);
    const std::size_t S = spec_.samples;
    const bool gains = wants(F::activation_gain) || wants(F::weight_gain);
    std::copy(exponent_.begin(), exponent_.end(), at(da_exponent_, l));
    kernels_.backward(S, ld_, ld_, layer.residual != 0 ? static_cast<T>(layer.residual) : T(1), da_.data(), delta(l),
                      gains ? at(da_squared_, l) : nullptr, at(delta_squared_, l));
    if (!check_gradients(l)) return false;
    pair_similarity(delta(l), at(delta_squared_, l), figure(F::delta_similarity, network_), l);
    if (gradients_ && !gradient_of_weights(l)) return false;
    if (l == 0 && !wants(F::log2_grad_input) && !wants(F::weight_gain)) return true;
    if (!is_kept(l)) draw_weight(l);
    kernels_.product(S, spec_.width, ld_, delta(l), ld_, weight(l), ld_, next_da_.data(), ld_);
    if (layer.residual != 0) kernels_.add(S, spec_.width, ld_, T(1), da_.data(), next_da_.data(), size_.data());
    std::swap(da_, next_da_);
    return true;
}

template <class T>
bool EnsemblePass<T>::check_gradients(std::size_t l) {
    for (std::size_t b = 0; b < spec_.samples; ++b) {
        double& squared = at(delta_squared_, l)[b];
        const T* da = da_.data() + b * ld_;
        const bool dead = squared == 0 && (at(on_, l)[b] == 0 || kernels_.dot(ld_, da, da) == 0);
        if (!(squared < kMost<T>) || (squared < kLeast<T> && !dead)) return false;
        if (out_of_range(squared)) {
            const double shift = half_exponent(squared);
            const T factor = power_of_two<T>(-shift);
            kernels_.scale(ld_, factor, delta(l) + b * ld_);
            if (layer(l).residual != 0) kernels_.scale(ld_, factor, da_.data() + b * ld_);
            squared = std::ldexp(squared, static_cast<int>(-2 * shift));
            exponent_[b] += shift;
        }
        at(delta_exponent_, l)[b] = exponent_[b];
    }
    return true;
}

template class EnsemblePass<float>;
template class EnsemblePass<double>;

}  // namespace gt
