// Named sizes, and how a batch is cut: by shapes alone, so that results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/aligned_buffer.h"

namespace gt {

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

constexpr std::size_t divide_up(std::size_t value, std::size_t by) { return (value + by - 1) / by; }

// `samples` cut into chunks of blocks: a block is what one thread carries through all layers, a chunk is what is held
// in memory at a time.
struct BatchShape {
    std::size_t samples;
    std::size_t block_samples;
    std::size_t chunk_blocks;

    std::size_t blocks() const { return divide_up(samples, block_samples); }
    std::size_t chunks() const { return divide_up(blocks(), chunk_blocks); }
};

// `bytes_per_sample`: what one sample needs in the arena (activations and deltas of all layers). A single sample is not
// padded: its units are what vectors run over.
inline BatchShape cut_batch(std::size_t samples, std::size_t bytes_per_sample, std::size_t column_multiple,
                            std::size_t max_columns) {
    constexpr std::size_t kChunkBytes = std::size_t{128} << 20;
    if (samples == 1) return {1, 1, 1};
    std::size_t columns = std::min(max_columns, round_up(std::max<std::size_t>(samples, 1), column_multiple));
    while (columns > column_multiple && checked_multiply(columns, bytes_per_sample) > kChunkBytes) columns /= 2;
    columns = round_up(columns, column_multiple);
    const std::size_t per_block = std::max<std::size_t>(1, checked_multiply(columns, bytes_per_sample));
    return {samples, columns, std::max<std::size_t>(1, kChunkBytes / per_block)};
}

}  // namespace gt
