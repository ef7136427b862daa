#include "ops/qr.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/scaled.h"
#include "core/shape.h"

namespace gt {
namespace {

constexpr double kGraded = 0x1p-10;  // of the largest row, under which a row is small
constexpr double kLow = 0x1p-100, kHigh = 0x1p+100;

void add_scaled(std::size_t count, double factor, const double* x, double* y) {
    for (std::size_t i = 0; i < count; ++i) y[i] += factor * x[i];
}

}  // namespace

void Qr::reserve(std::size_t rows, std::size_t n, std::size_t ld) {
    const std::size_t panels = divide_up(n, kQrPanel);
    ld_ = ld;
    order_.resize(rows);
    size_.resize(rows);
    tau_.resize(panels * kQrPanel);
    sum_.resize(n);
    const auto grow = [](AlignedBuffer<double>* buffer, std::size_t count) {
        if (buffer->size() < count) *buffer = AlignedBuffer<double>(count);
    };
    grow(&work_, checked_multiply(rows, ld));
    grow(&q_, rows * ld);
    grow(&reflectors_, rows * panels * kQrPanel);
    grow(&products_, panels * kQrPanel * kQrPanel);
}

// Into work_, rows by size where they are of different ones, times 2^-exponent.
void Qr::load(std::size_t rows, std::size_t n, const double* y) {
    isa_->get<double>().rows->largest(rows, n, y, ld_, size_.data());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    const auto [least, most] = std::minmax_element(size_.begin(), size_.end());
    const double largest = *most;
    if (n > 1 && *least < kGraded * largest)
        std::sort(order_.begin(), order_.end(),
                  [&](std::size_t a, std::size_t b) { return size_[a] > size_[b] || (size_[a] == size_[b] && a < b); });
    const bool plain = largest == 0 || (largest >= kLow && largest <= kHigh) || !std::isfinite(largest);
    exponent_ = plain ? 0 : exponent_of(largest);
    for (std::size_t i = 0; i < rows; ++i) {
        double* to = work_.data() + i * ld_;
        std::copy_n(y + order_[i] * ld_, ld_, to);
        for (std::size_t j = 0; j < n && !plain; ++j) to[j] = scale_by(to[j], -exponent_);
    }
}

void Qr::run(std::size_t rows, std::size_t n, std::size_t ld, double* y) {
    reserve(rows, n, ld);
    load(rows, n, y);
    const QrKernels& kernels = *isa_->get<double>().qr;
    const QrTile tile{rows, n, ld, reflectors_.data(), products_.data(), tau_.data()};
    if (ld > 1 && kernels.factor(tile, work_.data())) {
        kernels.form(tile, q_.data());
    } else {
        load(rows, n, y);
        reflect_all(rows, n);
        form(rows, n);
    }
    for (std::size_t i = 0; i < rows; ++i) std::copy_n(q_.data() + i * ld, ld, y + order_[i] * ld);
}

// One by one, and over the whole range of the format. Reflectors, their first entry 1 and left out, below the diagonal;
// the triangle on and above it.
void Qr::reflect_all(std::size_t rows, std::size_t n) {
    double* w = work_.data();
    std::fill(tau_.begin(), tau_.end(), 0.0);
    for (std::size_t k = 0; k < n; ++k) {
        double most = 0, squares = 0;
        for (std::size_t i = k; i < rows; ++i) most = std::max(most, std::fabs(w[i * ld_ + k]));
        if (most == 0) continue;
        for (std::size_t i = k; i < rows; ++i) squares += (w[i * ld_ + k] / most) * (w[i * ld_ + k] / most);
        const double head = w[k * ld_ + k], end = std::copysign(most * std::sqrt(squares), -head);
        tau_[k] = (end - head) / end;
        for (std::size_t i = k + 1; i < rows; ++i) w[i * ld_ + k] /= head - end;
        w[k * ld_ + k] = end;
        const std::size_t left = n - k - 1;
        double* sum = sum_.data();
        std::copy(w + k * ld_ + k + 1, w + k * ld_ + n, sum);
        for (std::size_t i = k + 1; i < rows; ++i) add_scaled(left, w[i * ld_ + k], w + i * ld_ + k + 1, sum);
        for (std::size_t j = 0; j < left; ++j) sum[j] *= tau_[k];
        add_scaled(left, -1, sum, w + k * ld_ + k + 1);
        for (std::size_t i = k + 1; i < rows; ++i) add_scaled(left, -w[i * ld_ + k], sum, w + i * ld_ + k + 1);
    }
}

// The reflections in reverse on the unit vectors.
void Qr::form(std::size_t rows, std::size_t n) {
    const double* w = work_.data();
    std::fill_n(q_.data(), rows * ld_, 0.0);
    for (std::size_t k = n; k-- > 0;) {
        double *top = q_.data() + k * ld_, *sum = sum_.data();
        const std::size_t left = n - k - 1;
        std::fill(sum, sum + left, 0.0);
        for (std::size_t i = k + 1; i < rows; ++i) add_scaled(left, w[i * ld_ + k], q_.data() + i * ld_ + k + 1, sum);
        for (std::size_t j = 0; j < left; ++j) sum[j] *= tau_[k];
        top[k] = 1 - tau_[k];
        for (std::size_t j = 0; j < left; ++j) top[k + 1 + j] = -sum[j];
        for (std::size_t i = k + 1; i < rows; ++i) {
            double* row = q_.data() + i * ld_;
            const double v = w[i * ld_ + k];
            row[k] = -tau_[k] * v;
            add_scaled(left, -v, sum, row + k + 1);
        }
    }
}

}  // namespace gt
