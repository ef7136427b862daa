// What this core does at most, as the yardstick of the benchmarks: multiply-adds in registers, and reading memory.
#include "kernels/kernel_table.h"
#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

// Enough to hide 4 cycles of latency on two units, few enough for 16 registers with both factors.
constexpr std::size_t kChains = 12;

template <class T>
double multiply_add(std::size_t rounds, T factor, T term) {
    Vec<T> chain[kChains];
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kChains; ++i) chain[i] = broadcast(term * T(i + 1));  // all different, or one would do
    const Vec<T> a = broadcast(factor), b = broadcast(term);
    for (std::size_t round = 0; round < rounds; ++round)
#pragma GCC unroll 16
        for (std::size_t i = 0; i < kChains; ++i) chain[i] = chain[i] * a + b;
    double sum = 0;  // read, so that no compiler leaves the work out
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kChains; ++i) sum += reduce_add(chain[i]);
    return sum;
}

// Adds up an array, one load and one addition a vector; what is left of whole rounds is not read.
template <class T>
double read(std::size_t count, const T* x) {
    constexpr std::size_t kStreams = 8, kRound = kStreams * kLanes<T>;
    Vec<T> sum[kStreams] = {};
    for (std::size_t i = 0; i + kRound <= count; i += kRound)
#pragma GCC unroll 8
        for (std::size_t j = 0; j < kStreams; ++j) sum[j] += load(x + i + j * kLanes<T>);
    double total = 0;
#pragma GCC unroll 8
    for (std::size_t j = 0; j < kStreams; ++j) total += reduce_add(sum[j]);
    return total;
}

template <class T>
constexpr PeakKernels<T> table{.operations = 2 * kChains * kLanes<T>, .multiply_add = multiply_add<T>, .read = read<T>};

}  // namespace

GT_DEFINE_KERNELS(PeakKernels, peak, table)

}  // namespace GT_ISA
}  // namespace gt
