// Where the layers of a stack come from: the caller's arrays, or a seed, from which they are drawn whenever they are
// needed. In few bytes a layer: a stack may have a million.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ops/dense_stack.h"
#include "ops/random.h"

namespace gt {

// What a random stack draws: layer l from streams of that number, times a factor of its own.
struct DrawnParameters {
    std::uint64_t seed;
    MatrixLaw weight_law;
    std::vector<double> weight_factor;  // (depth,)
    bool normal_biases;                 // else uniform
    std::vector<double> bias_factor;    // (depth,), or empty: no biases
};

// The arrays of some layers of a drawn stack; they stand there until others are drawn.
template <class T>
class DrawnArrays {
  public:
    T* reserve(std::size_t count) {
        values_.reserve(count);
        return values_.data();
    }

  private:
    AlignedBuffer<T> values_;
};

template <class T>
struct StackSource {
    std::vector<std::size_t> sizes;                // (depth + 1,)
    std::vector<DenseLayer<T>> kinds;              // layers but for their sizes and arrays
    std::vector<std::uint32_t> kind;               // (depth,)
    std::vector<const T*> weight, bias;            // (depth,), the caller's; empty where they are drawn
    std::vector<const T*> norm_weight, norm_bias;  // (depth,), or empty: none
    std::shared_ptr<const DrawnParameters> drawn;  // null: stored

    std::size_t depth() const { return kind.size(); }
    bool stored() const { return drawn == nullptr; }
    bool normalised(std::size_t l) const { return kinds[kind[l]].normalised; }
    std::size_t parameters(std::size_t l) const;  // that are drawn for a layer; 0 where it is stored
    // Layers [first, end), whose arrays are in `arrays` where they are drawn. Throws Interrupted.
    std::vector<DenseLayer<T>> layers(const IsaKernels& isa, std::size_t first, std::size_t end, DrawnArrays<T>* arrays,
                                      Interrupt& interrupt) const;

  private:
    void draw(const IsaKernels& isa, std::size_t l, T* weight, T* bias) const;
};

}  // namespace gt
