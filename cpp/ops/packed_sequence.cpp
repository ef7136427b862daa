#include "ops/packed_sequence.h"

#include <algorithm>
#include <numeric>

namespace gt {

PackedSequence::PackedSequence(std::size_t steps, std::size_t batch, const std::int64_t* lengths)
    : first_row_(steps + 1), sample_(batch), length_(batch, steps), plain_(true) {
    std::iota(sample_.begin(), sample_.end(), std::size_t{0});
    if (lengths) {
        std::stable_sort(sample_.begin(), sample_.end(),
                         [&](std::size_t a, std::size_t b) { return lengths[a] > lengths[b]; });
        for (std::size_t slot = 0; slot < batch; ++slot) {
            length_[slot] = static_cast<std::size_t>(lengths[sample_[slot]]);
            plain_ &= length_[slot] == steps;
        }
    }
    std::size_t active = batch;
    for (std::size_t step = 0; step < steps; ++step) {
        while (active > 0 && length_[active - 1] <= step) --active;
        first_row_[step + 1] = first_row_[step] + active;
    }
}

}  // namespace gt
