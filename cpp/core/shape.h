// Named sizes, and how a batch is cut: by shapes alone, so that results do not depend on the number of threads.
//
// Stacks. A *batch*, the samples of one call, is cut into *blocks* of at most 64 samples (kMaxColumns). At each layer a
// block is a tile of units x samples, which fills registers and stays in the cache beside the weights that pass it. So
// many blocks as fit into 128 MiB are a *chunk*: held in memory for all layers at once, since the weight gradients are
// sums over samples, and one chunk follows the other through the stack. All of a batch but the last block, and of the
// blocks but the last chunk, is full.
//
// Threads share a chunk out in *parts*. A part is a block or, where there are fewer blocks than workers, some of its
// *quanta* of 16 columns (kColumnMultiple, the widest register). Statistics and losses are summed for every quantum and
// added up in the order of the samples: neither the parts nor who carries them changes a bit. A *pass* is one part on
// its way forward and backward; a worker carries up to four side by side (kSideBySide), so that each layer's weights
// come from memory once for all of them.
//
// Layers are cut into *segments* that stay in the cache: what follows a pass over one, such as the weight gradients
// behind the backward pass, finds its tiles there.
//
// Recurrent networks. Samples of a batch are sorted by length into slots (ops/packed_sequence.h). A part is a range of
// slots, one for each worker, through all steps; a chunk is some steps, whose rows wait in the cache between the
// backward pass and the weight gradients. Figures of a step do not depend on the cut.
//
// Below this, kernels cut matrices, for registers and caches (kernels/gemm.cpp, kernels/panel.cpp).
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/aligned_buffer.h"

namespace gt {

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

constexpr std::size_t divide_up(std::size_t value, std::size_t by) { return (value + by - 1) / by; }

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
    if (samples == 1) return {.samples = 1, .block_samples = 1, .chunk_blocks = 1};
    std::size_t columns = std::min(max_columns, round_up(std::max<std::size_t>(samples, 1), column_multiple));
    while (columns > column_multiple && checked_multiply(columns, bytes_per_sample) > kChunkBytes) columns /= 2;
    columns = round_up(columns, column_multiple);
    const std::size_t per_block = std::max<std::size_t>(1, checked_multiply(columns, bytes_per_sample));
    return {.samples = samples,
            .block_samples = columns,
            .chunk_blocks = std::max<std::size_t>(1, kChunkBytes / per_block)};
}

}  // namespace gt
