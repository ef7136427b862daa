// What a pass leaves between two layers, and how another goes on from there: values are moved, never rounded.
#include <algorithm>

#include "ops/dense_stack.h"

namespace gt {

template <class T>
void StackPass<T>::load_rows(const StackRows<T>& rows, std::size_t first) {
    const std::size_t units = network_.units(0), ld = part_.ld;
    const auto before = static_cast<std::ptrdiff_t>(first), none = static_cast<std::ptrdiff_t>(network_.depth());
    T* a = part_.a(0);
    double* exponent = part_.exponent_of_a(0);
    kernels_.reduce->transpose(part_.samples, units, rows.values.data() + part_.first * units, units, a, ld, nullptr);
    for (std::size_t b = 0; b < part_.columns; ++b) {
        const std::size_t sample = b < part_.samples ? part_.first + b : part_.block_first();  // padding is its copy
        if (b >= part_.samples)
            kernels_.reduce->transpose(1, units, rows.values.data() + sample * units, units, a + b, ld, nullptr);
        exponent[b] = rows.exponent[sample];
        if (b >= part_.samples) continue;
        const std::ptrdiff_t lost = rows.nonfinite[sample];
        part_.nonfinite(b) = lost < before ? lost - before : none;
        if (out_.log2_activation) out_.log2_activation[sample] = rows.log2_norm[sample];
    }
}

template <class T>
void StackPass<T>::store_rows(std::size_t first, StackRows<T>* rows) const {
    const std::size_t depth = network_.depth(), units = network_.units(depth);
    kernels_.reduce->transpose(units, part_.samples, part_.a(depth), part_.ld,
                               rows->values.data() + part_.first * units, units, nullptr);
    for (std::size_t b = 0; b < part_.samples; ++b) {
        const std::size_t sample = part_.first + b;
        rows->exponent[sample] = part_.exponent_of_a(depth)[b];
        rows->log2_norm[sample] = log2_output_[b];
        if (part_.nonfinite(b) < static_cast<std::ptrdiff_t>(depth))
            rows->nonfinite[sample] = static_cast<std::ptrdiff_t>(first) + part_.nonfinite(b);
    }
}

template <class T>
void StackPass<T>::load_gradient(const StackGradient<T>& gradient) {
    const std::size_t depth = network_.depth(), units = network_.units(depth), ld = part_.ld;
    T* da = part_.da(depth);
    for (std::size_t u = 0; u < units; ++u) std::fill(da + u * ld + part_.samples, da + u * ld + part_.columns, T(0));
    kernels_.reduce->transpose(part_.samples, units, gradient.values.data() + part_.first * units, units, da, ld,
                               nullptr);
    const auto load = [&](const std::vector<double>& from, double* to) {
        std::fill(to, to + kMaxColumns, 0.0);
        std::copy_n(from.data() + part_.first, part_.samples, to);
    };
    load(gradient.exponent, da_exponent_);
    load(gradient.log2_delta, log2_delta_);
    load(gradient.delta_exponent, delta_exponent_);
    continues_ = true;
}

template <class T>
void StackPass<T>::store_gradient(StackGradient<T>* gradient) const {
    const std::size_t units = network_.units(0);
    kernels_.reduce->transpose(units, part_.samples, part_.da(0), part_.ld,
                               gradient->values.data() + part_.first * units, units, nullptr);
    const auto store = [&](const double* from, std::vector<double>* to) {
        std::copy_n(from, part_.samples, to->data() + part_.first);
    };
    store(da_exponent_, &gradient->exponent);
    store(log2_delta_, &gradient->log2_delta);
    store(delta_exponent_, &gradient->delta_exponent);
}

template void StackPass<float>::load_rows(const StackRows<float>&, std::size_t);
template void StackPass<double>::load_rows(const StackRows<double>&, std::size_t);
template void StackPass<float>::store_rows(std::size_t, StackRows<float>*) const;
template void StackPass<double>::store_rows(std::size_t, StackRows<double>*) const;
template void StackPass<float>::load_gradient(const StackGradient<float>&);
template void StackPass<double>::load_gradient(const StackGradient<double>&);
template void StackPass<float>::store_gradient(StackGradient<float>*) const;
template void StackPass<double>::store_gradient(StackGradient<double>*) const;

}  // namespace gt
