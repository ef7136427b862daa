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

// How a strip of several arrays is read and written: as a whole vector, or as the `count` elements that are left,
// padded with zeros.
struct WholeVector {
    template <class T>
    GT_INLINE Vec<T> load(const T* x) const {
        return GT_ISA::load(x);
    }
    template <class T>
    GT_INLINE void store(T* x, Vec<T> v) const {
        GT_ISA::store(x, v);
    }
    template <class V>
    GT_INLINE V keep(V v) const {  // zero in the padding
        return v;
    }
    template <class M>
    GT_INLINE void mark(std::uint8_t* flags, M mask, std::uint8_t flag) const {  // set where the mask is, else left
        for (std::size_t i = 0; i < sizeof(M) / sizeof(mask[0]); ++i) flags[i] |= mask[i] != 0 ? flag : 0;
    }
    template <class V>
    GT_INLINE void add_to(double* sums, V v) const {
        accumulate(sums, v);
    }
};
struct PartVector {
    std::size_t count;

    template <class T>
    GT_INLINE Vec<T> load(const T* x) const {
        T tail[kLanes<T>] = {};
        for (std::size_t i = 0; i < count; ++i) tail[i] = x[i];
        return GT_ISA::load(tail);
    }
    template <class T>
    GT_INLINE void store(T* x, Vec<T> v) const {
        T tail[kLanes<T>];
        GT_ISA::store(tail, v);
        for (std::size_t i = 0; i < count; ++i) x[i] = tail[i];
    }
    template <class V>
    GT_INLINE V keep(V v) const {
        decltype(v[0] + v[0]) tail[sizeof(V) / sizeof(v[0])];
        GT_ISA::store(tail, v);
        return load(tail);
    }
    template <class M>
    GT_INLINE void mark(std::uint8_t* flags, M mask, std::uint8_t flag) const {
        for (std::size_t i = 0; i < count; ++i) flags[i] |= mask[i] != 0 ? flag : 0;
    }
    template <class V>
    GT_INLINE void add_to(double* sums, V v) const {
        for (std::size_t i = 0; i < count; ++i) sums[i] += static_cast<double>(v[i]);
    }
};

// f(std::size_t first, WholeVector or PartVector) for every strip of a row.
template <class T, class F>
GT_INLINE void for_each_strip(std::size_t count, F&& f) {
    std::size_t i = 0;
    for (; i + kLanes<T> <= count; i += kLanes<T>) f(i, WholeVector{});
    if (i < count) f(i, PartVector{count - i});
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
