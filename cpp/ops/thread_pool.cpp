#include "ops/thread_pool.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "ops/subnormals.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gt {
namespace {

// How often a thread looks again before it sleeps: some 20 microseconds, the gap between two loops of a trace. A
// sleeper needs the system to wake it, which takes as long; one that looked for longer would take the time of those who
// work.
constexpr int kLooks = 1000;

// A helper's stack whatever the process was started with; kernels and ops keep some kilobytes there.
constexpr std::size_t kStackBytes = std::size_t{1} << 20;

// Where others want the cores too, the system takes a helper or the caller from its core amid an item, or lets the
// caller that slept wait for a core, for milliseconds. For so many times as long nobody is asked again: what crowded
// cores cost stays under 3 % of the time. Less is what waking up takes on an idle machine.
constexpr std::int64_t kTimesAlone = 32, kCrowded = 200'000, kLongestAlone = 1'000'000'000;  // the latter two in ns

std::int64_t nanoseconds(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return std::int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

// A thread's time at one job, and how much of it the system gave to others.
class Stint {
  public:
    std::int64_t lost() const {
        return nanoseconds(CLOCK_MONOTONIC) - clock_ - (nanoseconds(CLOCK_THREAD_CPUTIME_ID) - own_);
    }

  private:
    std::int64_t clock_ = nanoseconds(CLOCK_MONOTONIC), own_ = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
};

void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

template <class Condition>
bool comes_soon(Condition&& condition) {
    for (int look = 0; look < kLooks; ++look) {
        if (condition()) return true;
        pause_briefly();
    }
    return condition();
}

// One loop under way, on its caller's stack. The pool's mutex guards `came`; `working` may be read without it.
struct Job {
    const std::function<void(std::size_t)>& work;
    std::size_t workers;
    std::size_t came = 1;  // the caller is there
    std::atomic<std::size_t> working{0};
    std::int64_t all_back_at = 0;  // where the caller sleeps until then
    std::condition_variable all_back{};

    bool wants_help() const { return came < workers; }
};

class Pool {
  public:
    void run(Job& job) {
        if (nanoseconds(CLOCK_MONOTONIC) < alone_until_.load(std::memory_order_relaxed)) return job.work(0);
        const Stint stint;
        offer(job);
        job.work(0);
        stay_alone(stint.lost());  // a helper may have been woken on the caller's own core
        withdraw(job);
    }

  private:
    void offer(Job& job) {
        const std::lock_guard<std::mutex> lock(mutex_);
        while (threads_ + 1 < job.workers && start_thread()) ++threads_;
        if (threads_ == 0) return;
        jobs_.push_back(&job);
        offers_.fetch_add(1, std::memory_order_release);
        const std::size_t wanted = std::min(sleepers_, job.workers - 1);
        for (std::size_t i = 0; i < wanted; ++i) offered_.notify_one();
    }

    // Nobody comes to the job any more; who is at it still reads it.
    void withdraw(Job& job) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
        }
        const auto back = [&] { return job.working.load(std::memory_order_acquire) == 0; };
        const bool soon = comes_soon(back);
        std::unique_lock<std::mutex> lock(mutex_);  // the last helper lets go of the job with the mutex
        if (soon) return;
        job.all_back.wait(lock, back);
        stay_alone(nanoseconds(CLOCK_MONOTONIC) - job.all_back_at);
    }

    Job* job_that_wants_help() {
        for (Job* job : jobs_)
            if (job->wants_help()) return job;
        return nullptr;
    }

    void help() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            while (Job* job = job_that_wants_help()) {
                const std::size_t worker = job->came++;
                job->working.fetch_add(1, std::memory_order_relaxed);
                lock.unlock();
                const Stint stint;
                job->work(worker);
                lock.lock();
                stay_alone(stint.lost());
                if (job->working.load(std::memory_order_relaxed) == 1) job->all_back_at = nanoseconds(CLOCK_MONOTONIC);
                if (job->working.fetch_sub(1, std::memory_order_release) == 1) job->all_back.notify_one();
            }
            const std::size_t seen = offers_.load(std::memory_order_relaxed);
            lock.unlock();
            const bool again = comes_soon([&] { return offers_.load(std::memory_order_acquire) != seen; });
            lock.lock();
            if (again) continue;
            ++sleepers_;
            offered_.wait(lock, [&] { return offers_.load(std::memory_order_relaxed) != seen; });
            --sleepers_;
        }
    }

    void stay_alone(std::int64_t lost) {
        if (lost < kCrowded) return;
        const std::int64_t until = nanoseconds(CLOCK_MONOTONIC) + std::min(kLongestAlone, kTimesAlone * lost);
        alone_until_.store(std::max(until, alone_until_.load(std::memory_order_relaxed)), std::memory_order_relaxed);
    }

    static void* thread_main(void* pool) {
        // The caller's mode is inherited; a helper has its own, for as long as it lives.
        const SubnormalMode flush(Subnormals::flush);
        static_cast<Pool*>(pool)->help();
        return nullptr;
    }

    // Signals are for the threads of the program: Ctrl-C must reach the interpreter's.
    bool start_thread() {
        sigset_t all, before;
        sigfillset(&all);
        pthread_attr_t attributes;
        if (pthread_attr_init(&attributes) != 0) return false;
        pthread_attr_setstacksize(&attributes, kStackBytes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        pthread_t thread;
        const bool started = pthread_create(&thread, &attributes, &thread_main, this) == 0;
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        pthread_attr_destroy(&attributes);
        return started;
    }

    std::mutex mutex_;
    std::condition_variable offered_;
    std::vector<Job*> jobs_;
    std::atomic<std::size_t> offers_{0};  // jobs so far
    std::atomic<std::int64_t> alone_until_{0};
    std::size_t threads_ = 0, sleepers_ = 0;
};

// Never destroyed: its threads, and daemon threads that trace while the process ends, outlive static objects. A child
// process has none of its parent's threads and starts a pool of its own.
std::atomic<Pool*> g_pool{nullptr};

void forget_pool() { g_pool.store(nullptr); }

Pool& pool() {
    static const int registered = pthread_atfork(nullptr, nullptr, &forget_pool);
    static_cast<void>(registered);
    Pool* there = g_pool.load(std::memory_order_acquire);
    if (there) return *there;
    auto* made = new Pool;
    if (g_pool.compare_exchange_strong(there, made)) return *made;
    delete made;
    return *there;
}

}  // namespace

void share_work(std::size_t workers, const std::function<void(std::size_t)>& work) {
    Job job{work, workers};
    pool().run(job);
}

}  // namespace gt
