#include "ops/directions.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace gt {

template <class T>
Directions<T>::Directions(const StackNetwork<T>& network, bool has_input)
    : has_input_(has_input), first_{0}, count_(network.depth(), 0.0) {
    for (std::size_t l = 0; l < network.depth(); ++l) first_.push_back(first_[l] + network.units(l));
    sum_.assign(first_.back(), 0.0);
    share_.assign(network.units(0), 0.0);
}

template <class T>
void Directions<T>::add(const KernelTable<T>& kernels, std::size_t l, const std::vector<StackBlock<T>>& blocks,
                        std::size_t block_count, const double* log2_activation, double* row) {
    double* to = sum_.data() + first_[l];
    for (std::size_t i = 0; i < block_count; ++i) {
        const StackBlock<T>& block = blocks[i];
        double factor[kMaxColumns];  // of padding, and of samples of zeros, 0
        std::fill_n(factor, block.columns, kNegativeInfinity);
        for (std::size_t b = 0; b < block.samples; ++b) {
            const double norm = log2_activation[i * block.columns + b];
            if (norm == kNegativeInfinity) continue;
            factor[b] = block.exponent_of_a(l)[b] - norm;
            count_[l] += 1;
        }
        kernels.reduce->powers(block.columns, factor, factor);
        kernels.reduce->row_dot(units(l), block.columns, block.columns, block.a(l), factor, row);
        for (std::size_t u = 0; u < units(l); ++u) to[u] += row[u];
        if (l == 0 && has_input_) add_shares(block, factor);
    }
}

template <class T>
void Directions<T>::add_shares(const StackBlock<T>& block, const double* factor) {
    for (std::size_t u = 0; u < share_.size(); ++u) {
        const T* x = block.a(0) + u * block.columns;
        double sum = 0;
        for (std::size_t b = 0; b < block.samples; ++b) {
            const double part = static_cast<double>(x[b]) * factor[b];
            sum += part * part;
        }
        share_[u] += sum;
    }
}

template <class T>
double Directions<T>::similarity(std::size_t l) const {
    const double* sum = sum_.data() + first_[l];
    double squares = 0;
    for (std::size_t u = 0; u < units(l); ++u) squares += sum[u] * sum[u];
    if (count_[l] < 2) return kNaN;
    // Norms are rounded to T; the input's are taken again, so that copies of one sample are alike in all digits.
    const double own = l == 0 && has_input_ ? std::accumulate(share_.begin(), share_.end(), 0.0) : count_[l];
    return (squares - own) / (own * (count_[l] - 1));
}

template <class T>
double Directions<T>::feature_share() const {
    return count_[0] == 0
               ? kNaN
               : *std::max_element(share_.begin(), share_.end()) / std::accumulate(share_.begin(), share_.end(), 0.0);
}

template class Directions<float>;
template class Directions<double>;

}  // namespace gt
