// The arrays of a trace's figures. Fresh pages cost more than filling them, so the memory of traces that were dropped
// is used again: NumPy's own allocator hands large arrays back to the system each time.
#pragma once

#include <pybind11/numpy.h>

#include <memory>
#include <mutex>
#include <vector>

#include "core/aligned_buffer.h"

namespace gt {

namespace py = pybind11;

// Buffers that wait for their next use; safe from several threads.
class ResultShelf {
  public:
    using Buffer = AlignedBuffer<double>;
    static ResultShelf& get() {
        static auto* shelf = new ResultShelf;  // never destroyed: arrays may outlive the module
        return *shelf;
    }

    // The smallest that fits without much waste, or a new one.
    Buffer take(std::size_t count) {
        const std::lock_guard<std::mutex> lock(mutex_);
        auto best = waiting_.end();
        for (auto i = waiting_.begin(); i != waiting_.end(); ++i)
            if (i->size() >= count && i->size() / 2 <= count && (best == waiting_.end() || i->size() < best->size()))
                best = i;
        if (best == waiting_.end()) return Buffer(count);
        Buffer found = std::move(*best);
        waiting_.erase(best);
        held_ -= found.size();
        return found;
    }

    void give(Buffer buffer) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (held_ + buffer.size() > kMostHeld) return;
        held_ += buffer.size();
        waiting_.push_back(std::move(buffer));
    }

  private:
    static constexpr std::size_t kMostHeld = std::size_t{8} << 20;  // 64 MB
    std::mutex mutex_;
    std::vector<Buffer> waiting_;
    std::size_t held_ = 0;
};

inline py::array_t<double> result_array(const std::vector<py::ssize_t>& shape) {
    constexpr std::size_t kWorthKeeping = 1 << 13;  // 64 KB; what is smaller never leaves the process anyway
    std::size_t count = 1;
    for (const py::ssize_t n : shape) count = checked_multiply(count, static_cast<std::size_t>(n));
    if (count < kWorthKeeping) return py::array_t<double>(shape);
    auto owner = std::make_unique<ResultShelf::Buffer>(ResultShelf::get().take(count));
    double* data = owner->data();
    const py::capsule capsule(owner.get(), [](void* pointer) {
        const std::unique_ptr<ResultShelf::Buffer> buffer(static_cast<ResultShelf::Buffer*>(pointer));
        ResultShelf::get().give(std::move(*buffer));
    });
    static_cast<void>(owner.release());
    return py::array_t<double>(shape, data, capsule);
}

}  // namespace gt
