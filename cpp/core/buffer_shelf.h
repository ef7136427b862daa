// Memory of buffers that a thread let go of, for its next ones of that size: what is done many times over asks the
// system the first time only.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <vector>

namespace gt {

class BufferShelf {
  public:
    BufferShelf() { entries_.reserve(kMostEntries); }
    ~BufferShelf() {
        for (const Entry& entry : entries_) std::free(entry.data);
    }
    BufferShelf(const BufferShelf&) = delete;
    BufferShelf& operator=(const BufferShelf&) = delete;

    // While one lives, buffers of this thread come from the shelf and go back to it.
    class Use {
      public:
        explicit Use(BufferShelf& shelf) : before_(in_use()) { in_use() = &shelf; }
        ~Use() { in_use() = before_; }
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;

      private:
        BufferShelf* before_;
    };
    static BufferShelf*& in_use() {
        thread_local BufferShelf* shelf = nullptr;
        return shelf;
    }

    void* take(std::size_t bytes) {  // null where there is none of that size
        for (std::size_t i = entries_.size(); i-- > 0;) {
            if (entries_[i].bytes != bytes) continue;
            void* data = entries_[i].data;
            entries_[i] = entries_.back();
            entries_.pop_back();
            return data;
        }
        return nullptr;
    }
    void give(void* data, std::size_t bytes) {
        if (entries_.size() == kMostEntries)
            std::free(data);
        else
            entries_.push_back({data, bytes});
    }

  private:
    struct Entry {
        void* data;
        std::size_t bytes;
    };
    static constexpr std::size_t kMostEntries = 256;
    std::vector<Entry> entries_;
};

}  // namespace gt
