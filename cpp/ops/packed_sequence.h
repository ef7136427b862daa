// Samples of different lengths side by side: sorted by falling length, so that every step holds the first few slots,
// and all steps' rows behind each other (the layout of PyTorch's PackedSequence). Nothing is computed past an end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gt {

class PackedSequence {
  public:
    PackedSequence(std::size_t steps, std::size_t batch,
                   const std::int64_t* lengths);  // lengths (batch,), or null: all

    std::size_t steps() const { return first_row_.size() - 1; }
    std::size_t batch() const { return sample_.size(); }
    std::size_t rows() const { return first_row_.back(); }
    std::size_t first_row(std::size_t step) const { return first_row_[step]; }
    std::size_t active(std::size_t step) const { return first_row_[step + 1] - first_row_[step]; }
    std::size_t sample(std::size_t slot) const { return sample_[slot]; }
    std::size_t length(std::size_t slot) const { return length_[slot]; }
    // Rows are those of a (steps, batch, n) array as it is.
    bool plain() const { return plain_; }
    // A reverse direction meets the same rows, each sample's from its own end: of its step `step`, the row here.
    std::size_t mirrored(std::size_t step, std::size_t slot) const {
        return first_row_[length_[slot] - 1 - step] + slot;
    }

    // Rows of a (steps, batch, width) array in packed order, and back; what is past an end is left alone.
    template <class T>
    void pack(const T* from, std::size_t width, T* to) const {
        for_each([&](std::size_t row, std::size_t source) {
            for (std::size_t i = 0; i < width; ++i) to[row * width + i] = from[source * width + i];
        });
    }
    template <class T>
    void unpack(const T* from, std::size_t width, T* to) const {
        for_each([&](std::size_t row, std::size_t source) {
            for (std::size_t i = 0; i < width; ++i) to[source * width + i] = from[row * width + i];
        });
    }
    // f(packed row, row of the (steps, batch) array)
    template <class F>
    void for_each(F&& f) const {
        for (std::size_t step = 0; step < steps(); ++step)
            for (std::size_t slot = 0; slot < active(step); ++slot)
                f(first_row_[step] + slot, step * batch() + sample_[slot]);
    }

  private:
    std::vector<std::size_t> first_row_, sample_, length_;
    bool plain_;
};

}  // namespace gt
