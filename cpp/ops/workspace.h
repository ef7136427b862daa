// The arena of a trace, kept between calls: fresh pages cost more than many a trace. Safe from several threads; at most
// one arena waits, and none larger than kKeptBytes.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "core/aligned_buffer.h"
#include "core/shape.h"

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

// Arrays one after the other in a workspace: first their sizes are added up, then each takes its place.
class Arena {
  public:
    template <class V>
    void plan(std::size_t count) {
        bytes_ = checked_add(bytes_, round_up(checked_multiply(count, sizeof(V)), kAlignment));
    }
    std::size_t planned() const { return bytes_; }
    void open() { workspace_ = std::make_unique<Workspace>(bytes_); }
    template <class V>
    V* take(std::size_t count) {
        unsigned char* at = workspace_->as<unsigned char>() + taken_;
        taken_ += round_up(count * sizeof(V), kAlignment);
        return reinterpret_cast<V*>(at);
    }

  private:
    static constexpr std::size_t kAlignment = 64;
    std::size_t bytes_ = 0, taken_ = 0;
    std::unique_ptr<Workspace> workspace_;
};

}  // namespace gt
