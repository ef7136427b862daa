// Random weights: which stream of the counter-based generator each array of a network draws from, and the laws.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa/dispatch.h"
#include "ops/parallel.h"

namespace gt {

// What a stream is for: streams of different kinds never share numbers.
enum class Draw : std::uint32_t { weight = 0, bias = 1, cotangent = 2, input = 3 };

enum class Law { normal, uniform };  // standard normal; uniform on (-1, 1)
enum class MatrixLaw { normal, uniform, orthogonal };

// A stream's elements come in blocks of so many.
template <class T>
constexpr std::size_t random_block = sizeof(T) == 4 ? kFastRandomBlock : kRandomBlock;

// out[i] = factor * element `first` + i of T's own stream, i < count, on this thread; `first` begins a block.
template <class T>
void fill_range(const IsaKernels& isa, Law law, std::uint64_t seed, std::uint32_t stream, Draw draw, double factor,
                std::uint64_t first, std::size_t count, T* out);

// The stream's first `count` elements, on as many threads as they are worth. Throws Interrupted.
template <class T>
void fill_random(const IsaKernels& isa, Law law, std::uint64_t seed, std::uint32_t stream, Draw draw, double factor,
                 std::size_t count, T* out, Interrupt& interrupt);

// Elements [first, first + count) of the standard normal stream.
void normal_range(const IsaKernels& isa, std::uint64_t seed, std::uint32_t stream, Draw draw, std::uint64_t first,
                  std::size_t count, double* out);

// What a trace starts from where nothing is given: standard normals, or rows of n on the unit sphere.
template <class T>
void normal_rows(const IsaKernels& isa, std::uint64_t seed, std::size_t count, T* out);
template <class T>
void unit_rows(const IsaKernels& isa, std::uint64_t seed, std::size_t rows, std::size_t n, T* out);

// A Haar-distributed (rows, columns) matrix with orthonormal rows or columns, whichever are fewer, times factor. Throws
// Interrupted.
template <class T>
void fill_orthogonal(const IsaKernels& isa, std::uint64_t seed, std::uint32_t stream, double factor, std::size_t rows,
                     std::size_t columns, T* out, Interrupt& interrupt);

}  // namespace gt
