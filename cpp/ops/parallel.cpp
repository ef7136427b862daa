#include "ops/parallel.h"

#include <algorithm>
#include <exception>

#include "ops/thread_pool.h"

#if defined(_OPENMP)
#include <omp.h>
#else
#include <thread>
#endif

namespace gt {
namespace {

std::atomic<int> g_thread_limit{0};
thread_local bool t_one_thread = false;

}  // namespace

void set_thread_limit(int threads) { g_thread_limit.store(threads); }

int thread_limit() { return g_thread_limit.load(); }

// OpenMP is asked for its number only, which OMP_NUM_THREADS and threadpoolctl set; the threads are our own.
int threads_in_use() {
    const int limit = g_thread_limit.load();
    if (limit > 0) return limit;
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#endif
}

const char* thread_count_source() {
#if defined(_OPENMP)
    return "OpenMP";
#else
    return "system";
#endif
}

OneThread::OneThread() : before_(t_one_thread) { t_one_thread = true; }
OneThread::~OneThread() { t_one_thread = before_; }

Loop::Loop(std::size_t items, double operations) : items_(items), workers_(1) {
    constexpr double kOperationsPerWorker = 2e6;
    if (t_one_thread) return;
    const auto worth = static_cast<std::size_t>(std::min(operations / kOperationsPerWorker, 4096.0));
    workers_ = std::max<std::size_t>(1, std::min({items, worth, static_cast<std::size_t>(threads_in_use())}));
}

Loop Loop::of(std::size_t items) const {
    Loop other = *this;
    other.items_ = items;
    other.workers_ = std::max<std::size_t>(1, std::min(items, workers_));
    return other;
}

void parallel_for(const Loop& loop, const std::function<void(std::size_t, std::size_t)>& body) {
    const SubnormalMode flush(Subnormals::flush);
    if (loop.workers() == 1) {
        for (std::size_t item = 0; item < loop.items(); ++item) body(item, 0);
        return;
    }
    std::exception_ptr failure;
    std::atomic<bool> failed{false};
    std::atomic<std::size_t> next{0};
    share_work(loop.workers(), [&](std::size_t worker) {
        while (!failed.load(std::memory_order_relaxed)) {
            const std::size_t item = next.fetch_add(1, std::memory_order_relaxed);
            if (item >= loop.items()) return;
            try {
                body(item, worker);
            } catch (...) {
                if (!failed.exchange(true)) failure = std::current_exception();
            }
        }
    });
    if (failure) std::rethrow_exception(failure);
}

bool Interrupt::requested(std::size_t worker) {
    if (worker == 0 && poll_) {
        constexpr auto kInterval = std::chrono::milliseconds(50);
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ >= kInterval) {
            last_ = now;
            if (poll_()) stopped_.store(true, std::memory_order_relaxed);
        }
    }
    return stopped();
}

}  // namespace gt
