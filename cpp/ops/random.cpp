#include "ops/random.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/aligned_buffer.h"
#include "ops/parallel.h"

namespace gt {
namespace {

constexpr std::size_t kItem = 4096;  // numbers of one item of the parallel loop, whole blocks

// Whole blocks [first, first + blocks).
void fill_blocks(const RandomKernels& random, Law law, std::uint64_t seed, std::uint32_t stream, Draw draw,
                 double factor, std::uint64_t first, std::size_t blocks, float* out) {
    const auto fill = law == Law::normal ? random.fast_normal : random.fast_uniform;
    fill(seed, stream, static_cast<std::uint32_t>(draw), first, blocks, static_cast<float>(factor), out);
}
void fill_blocks(const RandomKernels& random, Law law, std::uint64_t seed, std::uint32_t stream, Draw draw,
                 double factor, std::uint64_t first, std::size_t blocks, double* out) {
    const bool normal = law == Law::normal;
    (normal ? random.normal : random.uniform)(seed, stream, static_cast<std::uint32_t>(draw), first, blocks, out);
    for (std::size_t i = 0; i < blocks * kRandomBlock; ++i) out[i] = factor * (normal ? out[i] : 2 * out[i] - 1);
}

}  // namespace

template <class T>
void fill_range(const IsaKernels& isa, Law law, std::uint64_t seed, std::uint32_t stream, Draw draw, double factor,
                std::uint64_t first, std::size_t count, T* out) {
    constexpr std::size_t kBlock = random_block<T>;
    const RandomKernels& random = *isa.f64.random;
    const std::size_t whole = count / kBlock, rest = count % kBlock;
    fill_blocks(random, law, seed, stream, draw, factor, first / kBlock, whole, out);
    if (rest == 0) return;
    T last[kBlock];
    fill_blocks(random, law, seed, stream, draw, factor, first / kBlock + whole, 1, last);
    std::copy(last, last + rest, out + whole * kBlock);
}

template <class T>
void fill_random(const IsaKernels& isa, Law law, std::uint64_t seed, std::uint32_t stream, Draw draw, double factor,
                 std::size_t count, T* out, Interrupt& interrupt) {
    const std::size_t items = (count + kItem - 1) / kItem;
    parallel_for(Loop{items, 20.0 * static_cast<double>(count)}, [&](std::size_t item, std::size_t worker) {
        if (interrupt.requested(worker)) return;
        const std::size_t first = item * kItem;
        fill_range(isa, law, seed, stream, draw, factor, first, std::min(kItem, count - first), out + first);
    });
    if (interrupt.stopped()) throw Interrupted{};
}

void normal_range(const IsaKernels& isa, std::uint64_t seed, std::uint32_t stream, Draw draw, std::uint64_t first,
                  std::size_t count, double* out) {
    double block[kRandomBlock];
    for (std::size_t done = 0; done < count;) {
        const std::uint64_t at = first + done;
        isa.f64.random->normal(seed, stream, static_cast<std::uint32_t>(draw), at / kRandomBlock, 1, block);
        const std::size_t offset = at % kRandomBlock, n = std::min(kRandomBlock - offset, count - done);
        std::copy(block + offset, block + offset + n, out + done);
        done += n;
    }
}

template <class T>
void normal_rows(const IsaKernels& isa, std::uint64_t seed, std::size_t count, T* out) {
    std::vector<double> numbers(count);
    normal_range(isa, seed, 0, Draw::cotangent, 0, count, numbers.data());
    std::copy(numbers.begin(), numbers.end(), out);
}

template <class T>
void unit_rows(const IsaKernels& isa, std::uint64_t seed, std::size_t rows, std::size_t n, T* out) {
    std::vector<double> numbers(rows * n);
    normal_range(isa, seed, 0, Draw::cotangent, 0, numbers.size(), numbers.data());
    for (std::size_t r = 0; r < rows; ++r) {
        double squares = 0;
        for (std::size_t i = 0; i < n; ++i) squares += numbers[r * n + i] * numbers[r * n + i];
        for (std::size_t i = 0; i < n; ++i) out[r * n + i] = static_cast<T>(numbers[r * n + i] / std::sqrt(squares));
    }
}

template void fill_range<float>(const IsaKernels&, Law, std::uint64_t, std::uint32_t, Draw, double, std::uint64_t,
                                std::size_t, float*);
template void fill_range<double>(const IsaKernels&, Law, std::uint64_t, std::uint32_t, Draw, double, std::uint64_t,
                                 std::size_t, double*);
template void fill_random<float>(const IsaKernels&, Law, std::uint64_t, std::uint32_t, Draw, double, std::size_t,
                                 float*, Interrupt&);
template void fill_random<double>(const IsaKernels&, Law, std::uint64_t, std::uint32_t, Draw, double, std::size_t,
                                  double*, Interrupt&);

template void normal_rows<float>(const IsaKernels&, std::uint64_t, std::size_t, float*);
template void normal_rows<double>(const IsaKernels&, std::uint64_t, std::size_t, double*);
template void unit_rows<float>(const IsaKernels&, std::uint64_t, std::size_t, std::size_t, float*);
template void unit_rows<double>(const IsaKernels&, std::uint64_t, std::size_t, std::size_t, double*);

}  // namespace gt
