// Norms, column scaling, transposition and the pair sums behind weight-gradient norms.
#include "kernels/kernel_table.h"
#include "simd/map.h"
#include "simd/math.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

constexpr std::size_t kGroup = 16;  // rows summed in T before the sum moves to float64

template <class T>
GT_INLINE void moments_of_row(std::size_t count, const T* x, T shift, double* sums, double* squares) {
    *sums = *squares = 0;
    for (std::size_t group = 0; group < count; group += kGroup * kLanes<T>) {
        const std::size_t left = count - group, length = left < kGroup * kLanes<T> ? left : kGroup * kLanes<T>;
        Vec<T> sum{}, square{};
        for_each_strip<T>(length, [&](std::size_t i, auto at) GT_INLINE_LAMBDA {
            const Vec<T> v = at.keep(at.load(x + group + i) - broadcast(shift));
            sum += v;
            square += v * v;
        });
        *sums += reduce_add(sum);
        *squares += reduce_add(square);
    }
}

template <class T>
void column_moments(std::size_t rows, std::size_t columns, std::size_t ld, const T* x, T shift, double* sums,
                    double* squares) {
    if (columns == 1) return moments_of_row(rows, x, shift, sums, squares);
    for (std::size_t column = 0; column < columns; column += kLanes<T>) {
        double sum[kLanes<T>] = {}, square[kLanes<T>] = {};
        for (std::size_t group = 0; group < rows; group += kGroup) {
            const std::size_t end = group + kGroup < rows ? group + kGroup : rows;
            Vec<T> partial_sum{}, partial_square{};
            for (std::size_t row = group; row < end; ++row) {
                const Vec<T> v = load(x + row * ld + column) - broadcast(shift);
                partial_sum += v;
                partial_square += v * v;
            }
            accumulate(sum, partial_sum);
            accumulate(square, partial_square);
        }
        for (std::size_t i = 0; i < kLanes<T>; ++i) {
            sums[column + i] = sum[i];
            squares[column + i] = square[i];
        }
    }
}

template <class T>
void column_max(std::size_t rows, std::size_t columns, std::size_t ld, const T* x, T* largest) {
    if (columns == 1) {
        Vec<T> most{};
        for_each_strip<T>(rows,
                          [&](std::size_t i, auto at) GT_INLINE_LAMBDA { most = max(abs(at.load(x + i)), most); });
        *largest = largest_lane<T>(most);
        return;
    }
    for (std::size_t column = 0; column < columns; column += kLanes<T>) {
        Vec<T> most{};
        for (std::size_t row = 0; row < rows; ++row) most = max(abs(load(x + row * ld + column)), most);
        store(largest + column, most);
    }
}

template <class T>
void scale_columns(std::size_t rows, std::size_t columns, std::size_t ld, T* x, const T* factor) {
    if (columns == 1) {
        for_each_strip<T>(rows, [&](std::size_t i, auto at)
                                    GT_INLINE_LAMBDA { at.store(x + i, at.load(x + i) * broadcast(*factor)); });
        return;
    }
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t column = 0; column < columns; column += kLanes<T>) {
            T* at = x + row * ld + column;
            store(at, load(at) * load(factor + column));
        }
}

GT_INLINE VecF64 dot_step(const double* x, const double* weight, VecF64 sum) { return load(x) * load(weight) + sum; }
GT_INLINE VecF64 dot_step(const float* x, const double* weight, VecF64 sum) {
    const VecF32 v = load(x);
    return widen_high(v) * load(weight + kLanes<double>) + (widen_low(v) * load(weight) + sum);
}

template <class T>
void row_dot(std::size_t rows, std::size_t columns, std::size_t ld, const T* x, const double* weight, double* sums) {
    if (columns == 1) {
        for (std::size_t row = 0; row < rows; ++row) sums[row] = static_cast<double>(x[row]) * *weight;
        return;
    }
    for (std::size_t row = 0; row < rows; ++row) {
        VecF64 sum{};
        for (std::size_t column = 0; column < columns; column += kLanes<T>)
            sum = dot_step(x + row * ld + column, weight + column, sum);
        sums[row] = reduce_add(sum);
    }
}

// Several sums side by side: one alone would wait for each of its additions.
template <class T>
double flat_squares(std::size_t count, const T* x) {
    constexpr std::size_t kChains = 4;
    VecF64 total{};
    std::size_t i = 0;
    for (; i + kGroup * kLanes<T> <= count; i += kGroup * kLanes<T>) {
        Vec<T> sum[kChains] = {};
#pragma GCC unroll 16
        for (std::size_t j = 0; j < kGroup; ++j) {
            const Vec<T> v = load(x + i + j * kLanes<T>);
            sum[j % kChains] = v * v + sum[j % kChains];
        }
        total += widened((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
    Vec<T> sum{};
    for_each_vector(count - i, x + i, T(0), [&](Vec<T> v, std::size_t) GT_INLINE_LAMBDA { sum = v * v + sum; });
    return reduce_add(total + widened(sum));
}

// Of rows narrower than a vector.
template <class T>
double apart_squares_narrow(std::size_t rows, std::size_t columns, std::size_t ld, const T* x) {
    double total = 0;
    for (std::size_t column = 0; column < columns; ++column) {
        double sum = 0;
        for (std::size_t row = 0; row < rows; ++row) sum += static_cast<double>(x[row * ld + column]);
        const T mean = static_cast<T>(sum / static_cast<double>(rows));
        for (std::size_t row = 0; row < rows; ++row) {
            const double apart = static_cast<double>(x[row * ld + column] - mean);
            total += apart * apart;
        }
    }
    return total;
}

// Means first, then differences, while a block of columns is in cache.
template <class T>
double apart_squares(std::size_t rows, std::size_t columns, std::size_t ld, const T* x) {
    if (columns < kLanes<T>) return apart_squares_narrow(rows, columns, ld, x);
    constexpr std::size_t kBlock = 512;
    double sum[kBlock];
    T mean[kBlock];
    VecF64 total{};
    for (std::size_t column = 0; column < columns; column += kBlock) {
        const std::size_t count = columns - column < kBlock ? columns - column : kBlock;
        const T* block = x + column;
        for (std::size_t i = 0; i < kBlock; ++i) sum[i] = 0;
        for (std::size_t row = 0; row < rows; ++row)
            for_each_vector(count, block + row * ld, T(0),
                            [&](Vec<T> v, std::size_t i) GT_INLINE_LAMBDA { accumulate(sum + i, v); });
        for (std::size_t i = 0; i < kBlock; ++i) mean[i] = static_cast<T>(sum[i] / static_cast<double>(rows));
        for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t group = 0; group < count; group += kGroup * kLanes<T>) {
                const std::size_t left = count - group, length = left < kGroup * kLanes<T> ? left : kGroup * kLanes<T>;
                Vec<T> square{};
                for_each_vector(length, block + row * ld + group, T(0), [&](Vec<T> v, std::size_t i) GT_INLINE_LAMBDA {
                    const Vec<T> apart = v - load(mean + group + i);  // 0 in the padding, as its mean is
                    square = apart * apart + square;
                });
                total += widened(square);
            }
    }
    return reduce_add(total);
}

template <class T>
bool all_finite(std::size_t count, const T* x) {
    Vec<T> sum{};  // x - x is 0, or NaN for good
    for_each_vector(count, x, T(0), [&](Vec<T> v, std::size_t) GT_INLINE_LAMBDA { sum += v - v; });
    return !any(sum != T(0));
}

template <class T>
void transpose(std::size_t rows, std::size_t columns, const T* from, std::size_t ld_from, T* to, std::size_t ld_to,
               const T* factor) {
    constexpr std::size_t kBlock = 16;  // one cache line of float32 on either side
    for (std::size_t column = 0; column < columns; column += kBlock)
        for (std::size_t row = 0; row < rows; row += kBlock) {
            const std::size_t column_end = column + kBlock < columns ? column + kBlock : columns;
            const std::size_t row_end = row + kBlock < rows ? row + kBlock : rows;
            for (std::size_t c = column; c < column_end; ++c) {
                const T f = factor ? factor[c] : T(1);
                for (std::size_t r = row; r < row_end; ++r) to[c * ld_to + r] = from[r * ld_from + c] * f;
            }
        }
}

GT_INLINE void pair_step(const double* p, const double* q, const double* both, const double* single, VecF64& both_sum,
                         VecF64& single_sum) {
    const VecF64 vp = load(p);
    both_sum = vp * load(q) * load(both) + both_sum;
    single_sum = vp * load(single) + single_sum;
}
GT_INLINE void pair_step(const float* p, const float* q, const double* both, const double* single, VecF64& both_sum,
                         VecF64& single_sum) {
    const VecF32 vp = load(p), vq = load(q);
    const VecF64 low = widen_low(vp), high = widen_high(vp);
    both_sum = low * widen_low(vq) * load(both) + both_sum;
    both_sum = high * widen_high(vq) * load(both + kLanes<double>) + both_sum;
    single_sum = low * load(single) + single_sum;
    single_sum = high * load(single + kLanes<double>) + single_sum;
}

template <class T>
void pair_sums(std::size_t m, std::size_t n, std::size_t ld, const T* p, const T* q, const double* both_rows,
               const double* both_columns, const double* p_rows, const double* p_columns, double* pair) {
    VecF64 both_total{}, single_total{};
    for (std::size_t i = 0; i < m; ++i) {
        VecF64 both_sum{}, single_sum{};
        for (std::size_t j = 0; j < n; j += kLanes<T>)
            pair_step(p + i * ld + j, q + i * ld + j, both_columns + j, p_columns + j, both_sum, single_sum);
        both_total += both_sum * broadcast(both_rows[i]);
        single_total += single_sum * broadcast(p_rows[i]);
    }
    pair[0] = reduce_add(both_total);
    pair[1] = reduce_add(single_total);
}

void log2_norms(std::size_t count, const double* squares, double* out) {
    for_each_vector(count, squares, 1.0, [&](VecF64 v, std::size_t first) GT_INLINE_LAMBDA {
        store_vector(count, out, 0.5 * log2(v), first);
    });
}

void powers(std::size_t count, const double* log2, double* out) {
    constexpr double kLn2 = 0.6931471805599453;
    for_each_vector(count, log2, 0.0, [&](VecF64 v, std::size_t first) GT_INLINE_LAMBDA {
        store_vector(count, out, exp(v * kLn2), first);
    });
}

template <class T>
constexpr ReduceKernels<T> table{.column_moments = column_moments<T>,
                                 .column_max = column_max<T>,
                                 .scale_columns = scale_columns<T>,
                                 .row_dot = row_dot<T>,
                                 .flat_squares = flat_squares<T>,
                                 .apart_squares = apart_squares<T>,
                                 .all_finite = all_finite<T>,
                                 .transpose = transpose<T>,
                                 .pair_sums = pair_sums<T>,
                                 .log2_norms = log2_norms,
                                 .powers = powers};

}  // namespace

GT_DEFINE_KERNELS(ReduceKernels, reduce, table)

}  // namespace GT_ISA
}  // namespace gt
