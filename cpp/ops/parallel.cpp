#include "ops/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <exception>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gt {
namespace {

std::atomic<int> g_thread_limit{0};

#if defined(_OPENMP)
// libgomp's workers do not survive a fork, and its next parallel region in the child waits for them for ever: a child
// of a process whose pool has run stays serial.
std::atomic<bool> g_pool_started{false};
std::atomic<bool> g_pool_lost{false};

void note_fork_in_child() {
    if (g_pool_started.load()) g_pool_lost.store(true);
}

void watch_forks() {
    static const int registered = pthread_atfork(nullptr, nullptr, note_fork_in_child);
    static_cast<void>(registered);
}
#endif

}  // namespace

void set_thread_limit(int threads) { g_thread_limit.store(threads); }

int threads_in_use() {
#if defined(_OPENMP)
    if (g_pool_lost.load()) return 1;
    const int limit = g_thread_limit.load();
    return limit > 0 ? limit : omp_get_max_threads();
#else
    return 1;
#endif
}

const char* thread_library() {
#if defined(_OPENMP)
    return "OpenMP";
#else
    return "none";
#endif
}

#if defined(__x86_64__)
SubnormalMode::SubnormalMode(Subnormals mode) : saved_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 1u << 15, kDenormalsAreZero = 1u << 6, kBoth = kFlushToZero | kDenormalsAreZero;
    const auto now = static_cast<unsigned>(saved_);
    _mm_setcsr(mode == Subnormals::flush ? now | kBoth : now & ~kBoth);
}
SubnormalMode::~SubnormalMode() { _mm_setcsr(static_cast<unsigned>(saved_)); }
#elif defined(__aarch64__)
SubnormalMode::SubnormalMode(Subnormals mode) {
    constexpr unsigned long long kFlushToZero = 1ull << 24;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(saved_));
    const unsigned long long now = mode == Subnormals::flush ? saved_ | kFlushToZero : saved_ & ~kFlushToZero;
    __asm__ __volatile__("msr fpcr, %0" : : "r"(now));
}
SubnormalMode::~SubnormalMode() { __asm__ __volatile__("msr fpcr, %0" : : "r"(saved_)); }
#else
SubnormalMode::SubnormalMode(Subnormals) : saved_(0) {}
SubnormalMode::~SubnormalMode() {}
#endif

Loop::Loop(std::size_t items, double operations) : items_(items) {
    constexpr double kOperationsPerWorker = 2e6;
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
#if defined(_OPENMP)
    const int workers = static_cast<int>(loop.workers());
    if (workers > 1) {
        watch_forks();
        g_pool_started.store(true);
        // Threads that the library starts here inherit the caller's mode and keep it, for whoever else uses them.
        const SubnormalMode keep(Subnormals::keep);
        std::exception_ptr failure;  // an exception must not leave a parallel region
        std::atomic<bool> failed{false};
#pragma omp parallel num_threads(workers)
        {
            const SubnormalMode flush(Subnormals::flush);
            const auto worker = static_cast<std::size_t>(omp_get_thread_num());
#pragma omp for schedule(dynamic, 1) nowait
            for (std::size_t item = 0; item < loop.items(); ++item) {
                if (failed.load(std::memory_order_relaxed)) continue;
                try {
                    body(item, worker);
                } catch (...) {
                    if (!failed.exchange(true)) failure = std::current_exception();
                }
            }
        }
        if (failure) std::rethrow_exception(failure);
        return;
    }
#endif
    const SubnormalMode flush(Subnormals::flush);
    for (std::size_t item = 0; item < loop.items(); ++item) body(item, 0);
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
