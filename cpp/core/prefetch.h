// What to prefetch. Deep stacks outgrow the caches, and their layers come in a known order: a product prefetches one
// line of the next layer's rows at every step along its summed axis. All at once, the lines would stand in the way of
// what the product itself reads.
#pragma once

#include <cstddef>

namespace gt {

class Prefetch {
  public:
    static constexpr std::size_t kLine = 64;

    // An array up to kMostBytes; what is larger streams by itself.
    template <class T>
    void add(const T* from, std::size_t count) {
        constexpr std::size_t kMostBytes = std::size_t{256} << 10;
        const std::size_t bytes = count * sizeof(T);
        if (ranges_ == kMostRanges || bytes > kMostBytes) return;
        const char* at = reinterpret_cast<const char*>(from);
        range_[ranges_] = {at, at + bytes};
        ++ranges_;
    }

    // Where the next `lines` lines start, or null. They may run past the end: prefetching does no harm anywhere.
    const char* take(std::size_t lines) {
        if (next_ == ranges_) return nullptr;
        Range& range = range_[next_];
        const char* at = range.at;
        range.at += lines * kLine;
        if (range.at >= range.end) ++next_;
        return at;
    }

  private:
    struct Range {
        const char *at, *end;
    };
    static constexpr std::size_t kMostRanges = 9;  // the weights, and two tiles for each of the passes side by side
    Range range_[kMostRanges] = {};
    std::size_t ranges_ = 0, next_ = 0;
};

}  // namespace gt
