// Threads: one parallel loop, the floating-point mode of its workers, and how a long op hears of Ctrl-C.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>

namespace gt {

// 0: as many as OpenMP would use (OMP_NUM_THREADS, threadpoolctl).
void set_thread_limit(int threads);
int threads_in_use();  // what a loop of many items would use now
const char* thread_library();

// How this thread treats subnormals while this stands; the mode before comes back with its end. Ops flush: row scaling
// keeps every figure that counts far from them, and a vanished trace then costs what a healthy one does. What the
// caller brought (inputs, weights, cotangents) is read with subnormals kept, and rescaled.
enum class Subnormals { flush, keep };

class SubnormalMode {
  public:
    explicit SubnormalMode(Subnormals mode);
    ~SubnormalMode();
    SubnormalMode(const SubnormalMode&) = delete;
    SubnormalMode& operator=(const SubnormalMode&) = delete;

  private:
    unsigned long long saved_;
};

// A loop of independent items, its workers chosen once: scratch is made for so many, and another thread may change the
// limit meanwhile. `operations` is a rough count over all items: small loops stay on one thread, whose start would cost
// more than it saves.
class Loop {
  public:
    Loop(std::size_t items, double operations);
    Loop of(std::size_t items) const;  // other items, no more workers

    std::size_t items() const { return items_; }
    std::size_t workers() const { return workers_; }

  private:
    std::size_t items_, workers_;
};

// body(item, worker) for every item, worker < loop.workers(); which worker gets which item is open. When a body throws,
// the items not yet begun are left out and one of the exceptions is thrown again here.
void parallel_for(const Loop& loop, const std::function<void(std::size_t item, std::size_t worker)>& body);

struct Interrupted {};  // thrown by long ops when the caller asked to stop

// Asks the caller now and then whether to stop. Worker 0 is the calling thread and the only one that asks.
class Interrupt {
  public:
    explicit Interrupt(std::function<bool()> poll) : poll_(std::move(poll)) {}
    bool requested(std::size_t worker);
    bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  private:
    std::function<bool()> poll_;
    std::atomic<bool> stopped_{false};
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace gt
