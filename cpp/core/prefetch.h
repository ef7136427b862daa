// Deep stacks outgrow the caches, and their layers come in a known order: the next layer's rows are asked for while
// this layer is computed.
#pragma once

#include <cstddef>

namespace gt {

// Asks for up to kPrefetchBytes of an array; what is larger streams by itself.
template <class T>
inline void prefetch(const T* from, std::size_t count) {
    constexpr std::size_t kPrefetchBytes = std::size_t{64} << 10, kLine = 64;
    const std::size_t bytes = count * sizeof(T);
    if (bytes > kPrefetchBytes) return;
    const char* at = reinterpret_cast<const char*>(from);
    for (std::size_t i = 0; i < bytes; i += kLine) __builtin_prefetch(at + i, 0, 2);
}

}  // namespace gt
