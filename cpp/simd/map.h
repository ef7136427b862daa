// The strip loop over a flat array and its one tail rule: the last, partial vector goes through a padded local copy, so
// that every element meets the same instructions whatever the length, and nothing is read or written past the end.
#pragma once

#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

// f(Vec<T> x, std::size_t first): called with each vector of x and the index of its first element.
template <class T, class F>
GT_INLINE void for_each_vector(std::size_t count, const T* x, T padding, F&& f) {
    std::size_t i = 0;
    for (; i + kLanes<T> <= count; i += kLanes<T>) f(load(x + i), i);
    if (i == count) return;
    T tail[kLanes<T>];
    for (std::size_t j = 0; j < kLanes<T>; ++j) tail[j] = i + j < count ? x[i + j] : padding;
    f(load(tail), i);
}

// The first min(count - first, lanes) elements of v to y + first.
template <class T>
GT_INLINE void store_vector(std::size_t count, T* y, Vec<T> v, std::size_t first) {
    if (first + kLanes<T> <= count) {
        store(y + first, v);
        return;
    }
    T tail[kLanes<T>];
    store(tail, v);
    for (std::size_t j = 0; first + j < count; ++j) y[first + j] = tail[j];
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
