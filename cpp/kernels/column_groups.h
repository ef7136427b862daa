// Columns of a left operand, copied for tiles that broadcast down them. They lie far apart: they would fall into few
// sets of L1, and each line be fetched once per tile. A few lines' worth of them is therefore copied once, row by row
// of the operand, in groups that tiles read from end to end: kGroupRows columns, kGroupStride apart. Meanwhile the next
// columns are prefetched, or, where L1 has no room for them, the next rows.
#pragma once

#include "simd/vec.h"

namespace gt {
namespace GT_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t kGroups = 4, kGroupRows = 16, kGroupStride = 16;
constexpr std::size_t kCopiedColumns = kGroups * kGroupRows, kPrefetchRows = 0, kPrefetchColumns = kCopiedColumns;
#else
constexpr std::size_t kGroups = 8, kGroupRows = 6, kGroupStride = 8;
constexpr std::size_t kCopiedColumns = kGroups * kGroupRows, kPrefetchRows = 3, kPrefetchColumns = 0;
#endif
constexpr std::size_t kLineBytes = 64;

// From group to group: a line more than a group needs, since powers of two apart all groups of a row would share a set
// of L1.
template <class T>
constexpr std::size_t group_pitch(std::size_t depth) {
    return depth * kGroupStride + kLineBytes / sizeof(T);
}

// Bytes of the copy.
template <class T>
constexpr std::size_t copied_bytes(std::size_t depth) {
    return kGroups * group_pitch<T>(depth) * sizeof(T);
}

constexpr std::size_t kPanelDepth = 256;  // of a panel at a time: 16 or 32 KB of float32

// At most kCopiedColumns columns of from (depth, ld).
template <class T>
GT_INLINE void copy_columns(const T* from, std::size_t ld, std::size_t depth, std::size_t columns, T* to) {
    const std::size_t pitch = group_pitch<T>(depth);
    for (std::size_t k = 0; k < depth; ++k) {
        const T* line = from + k * ld;
        for (std::size_t i = 0; i < kCopiedColumns; i += kLineBytes / sizeof(T))
            __builtin_prefetch(line + kPrefetchRows * ld + kPrefetchColumns + i);
        T* at = to + k * kGroupStride;
        std::size_t i = 0;
        for (; i + kGroupStride <= columns; i += kGroupRows, at += pitch)
            for (std::size_t j = 0; j < kGroupStride; j += kLanes<T>) store(at + j, load(line + i + j));
        for (; i < columns; i += kGroupRows, at += pitch)
            for (std::size_t j = 0; j < kGroupRows && i + j < columns; ++j) at[j] = line[i + j];
    }
}

}  // namespace
}  // namespace GT_ISA
}  // namespace gt
