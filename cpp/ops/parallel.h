// One parallel loop, how many threads share it, and how a long op hears of Ctrl-C.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>

#include "ops/subnormals.h"

namespace gt {

// 0: as many as OpenMP would use (OMP_NUM_THREADS, threadpoolctl), or the machine has where it was built without.
void set_thread_limit(int threads);
int thread_limit();
int threads_in_use();               // what a loop of many items would use now
const char* thread_count_source();  // who gives the number that no limit overrides

// While one lives, loops that this thread begins stay on it: its caller shares out larger items already. What a loop
// computes is the same.
class OneThread {
  public:
    OneThread();
    ~OneThread();
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

  private:
    bool before_;
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
