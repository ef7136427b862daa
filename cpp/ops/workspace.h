// The arena of a trace, kept between calls: fresh pages cost more than many a trace. Safe from several threads, and in
// a child that a thread was forked into meanwhile, since no lock is held; at most one arena waits, none larger than
// kKeptBytes.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "core/aligned_buffer.h"
#include "core/shape.h"

namespace gt {

class Workspace {
  public:
    explicit Workspace(std::size_t bytes) : buffer_(pool().exchange(nullptr)) {
        if (buffer_ && buffer_->size() >= bytes) return;
        put_back();
        buffer_ = std::make_unique<Buffer>(bytes);
    }
    ~Workspace() { put_back(); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    template <class T>
    T* as() {
        return reinterpret_cast<T*>(buffer_->data());
    }

  private:
    using Buffer = AlignedBuffer<unsigned char>;
    static constexpr std::size_t kKeptBytes = std::size_t{256} << 20;

    // What waits when the process ends stays where it is: a daemon thread may still trace.
    static std::atomic<Buffer*>& pool() {
        static std::atomic<Buffer*> waiting{nullptr};
        return waiting;
    }

    // The larger of this arena and the one that waits is kept, or neither where another thread comes between.
    void put_back() {
        if (!buffer_ || buffer_->size() > kKeptBytes) return;
        std::unique_ptr<Buffer> other(pool().exchange(nullptr));
        if (other && other->size() > buffer_->size()) std::swap(other, buffer_);
        Buffer* none = nullptr;
        if (pool().compare_exchange_strong(none, buffer_.get())) static_cast<void>(buffer_.release());
    }

    std::unique_ptr<Buffer> buffer_;
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
