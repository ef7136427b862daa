// How the steps of a recurrent network's trace are cut into windows so that it fits a given memory.
#pragma once

#include <cstddef>
#include <vector>

#include "ops/recurrent_tracer.h"
#include "ops/stack_checkpoints.h"

namespace gt {

// What a trace takes in memory, beside the figures that are returned.
struct WindowCosts {
    std::size_t steps = 0;
    std::size_t step = 0;        // bytes of a step in the window under way
    std::size_t checkpoint = 0;  // of the states between two windows
    std::size_t fixed = 0;       // weights as the passes take them, gradients
    std::size_t multiple = 1;  // windows are as long, counted from the last step, so that sums over chunks are the same

    std::size_t whole() const { return checked_add(checked_multiply(step, steps), fixed); }
    std::size_t bytes_of(std::size_t length) const {
        return checked_add(checked_add(checked_multiply(step, length), checked_multiply(checkpoint, steps / length)),
                           fixed);
    }
    // The first step of every window, and the number of steps: the longest windows within `memory` bytes, or those that
    // take least where it is 0. Throws MemoryTooSmall.
    std::vector<std::size_t> cut(std::size_t memory) const;
};

template <class T>
WindowCosts window_costs(const RecurrentNetwork<T>& network, std::size_t steps, std::size_t batch);

}  // namespace gt
