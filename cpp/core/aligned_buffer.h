// Scratch memory: 64-byte aligned, checked sizes, std::bad_alloc when the machine cannot hold it.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#include <unistd.h>

#include "core/buffer_shelf.h"

namespace gt {

inline std::size_t checked_multiply(std::size_t a, std::size_t b) {
    if (b != 0 && a > std::numeric_limits<std::size_t>::max() / b) throw std::bad_alloc();
    return a * b;
}

inline std::size_t checked_add(std::size_t a, std::size_t b) {
    if (a > std::numeric_limits<std::size_t>::max() - b) throw std::bad_alloc();
    return a + b;
}

// An allocation that the machine can never back must fail here: with overcommit, malloc would grant it and the kernel
// would kill the process at some later write.
inline std::size_t physical_memory_bytes() {
    static const std::size_t bytes = [] {
        const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
        if (pages <= 0 || page <= 0) return std::numeric_limits<std::size_t>::max();
        return static_cast<std::size_t>(pages) * static_cast<std::size_t>(page);
    }();
    return bytes;
}

// Uninitialised storage for trivially copyable T.
template <class T>
class AlignedBuffer {
  public:
    AlignedBuffer() = default;

    explicit AlignedBuffer(std::size_t count) : count_(count) {
        if (count == 0) return;
        const std::size_t wanted = checked_multiply(count, sizeof(T));
        if (wanted > physical_memory_bytes()) throw std::bad_alloc();
        const std::size_t alignment = alignment_of(wanted), bytes = bytes_of(wanted);
        if (BufferShelf* shelf = BufferShelf::in_use()) data_ = static_cast<T*>(shelf->take(bytes));
        if (data_) return;
        data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
        if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        // A trace touches its arena once from end to end: fewer page faults, and none of them twice.
        if (alignment == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    }

    AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
    AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
        swap(other);
        return *this;
    }
    AlignedBuffer(const AlignedBuffer&) = delete;
    AlignedBuffer& operator=(const AlignedBuffer&) = delete;
    ~AlignedBuffer() {
        if (data_ == nullptr) return;
        if (BufferShelf* shelf = BufferShelf::in_use())
            shelf->give(data_, bytes_of(count_ * sizeof(T)));
        else
            std::free(data_);
    }

    // Room for so many; what was there is lost if there was not.
    void reserve(std::size_t count) {
        if (count_ < count) *this = AlignedBuffer(count);
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    std::size_t size() const { return count_; }
    T& operator[](std::size_t i) { return data_[i]; }
    const T& operator[](std::size_t i) const { return data_[i]; }

  private:
    static constexpr std::size_t kHugePage = std::size_t{1} << 21;
    static std::size_t alignment_of(std::size_t wanted) { return wanted >= kHugePage ? kHugePage : 64; }
    static std::size_t bytes_of(std::size_t wanted) {
        const std::size_t alignment = alignment_of(wanted);
        return checked_add(wanted, alignment - 1) / alignment * alignment;
    }
    void swap(AlignedBuffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(count_, other.count_);
    }

    T* data_ = nullptr;
    std::size_t count_ = 0;
};

}  // namespace gt
