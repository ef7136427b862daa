// The arena of a trace, kept between calls: fresh pages cost more than many a trace. Safe from several threads; at most
// one arena waits, and none larger than kKeptBytes.
#pragma once

#include <mutex>
#include <utility>

#include "core/aligned_buffer.h"

namespace gt {

class Workspace {
  public:
    explicit Workspace(std::size_t bytes) {
        {
            const std::lock_guard<std::mutex> lock(shelf_mutex());
            if (shelf().size() >= bytes) std::swap(buffer_, shelf());
        }
        if (buffer_.size() < bytes) buffer_ = AlignedBuffer<unsigned char>(bytes);
    }
    ~Workspace() {
        if (buffer_.size() > kKeptBytes) return;
        const std::lock_guard<std::mutex> lock(shelf_mutex());
        if (buffer_.size() > shelf().size()) std::swap(buffer_, shelf());
    }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    template <class T>
    T* as() {
        return reinterpret_cast<T*>(buffer_.data());
    }

  private:
    static constexpr std::size_t kKeptBytes = std::size_t{256} << 20;
    // Never destroyed: a daemon thread may still trace while the process ends.
    static std::mutex& shelf_mutex() {
        static auto* mutex = new std::mutex;
        return *mutex;
    }
    static AlignedBuffer<unsigned char>& shelf() {
        static auto* buffer = new AlignedBuffer<unsigned char>;
        return *buffer;
    }

    AlignedBuffer<unsigned char> buffer_;
};

}  // namespace gt
