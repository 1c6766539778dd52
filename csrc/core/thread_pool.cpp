#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/inline.h"

namespace llmcore {
namespace {

LLMCORE_INLINE void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// A container's CPU quota (cgroup v2), rounded up; 0 if there is none. Without a stream, as in core/check.h.
int cgroup_quota() {
    FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file == nullptr) return 0;
    double quota = 0, period = 0;
    int found = std::fscanf(file, "%lf %lf", &quota, &period);  // "max 100000" where there is no limit
    std::fclose(file);
    return found == 2 && period > 0 ? static_cast<int>(std::ceil(quota / period)) : 0;
}

int default_threads() {
    int n = static_cast<int>(std::thread::hardware_concurrency());
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    if (int quota = cgroup_quota(); quota > 0 && quota < n) n = quota;
    return n < 1 ? 1 : n;
}

struct Job {
    int64_t count = 0;
    TaskFunction function = nullptr;
    const void* context = nullptr;
    int workers = 1;

    // A fixed share per worker, as one run of neighbours. Dynamic shares were slower: tiles migrate between caches.
    void run(int worker) const {
        int64_t begin = count * worker / workers, end = count * (worker + 1) / workers;
        for (int64_t task = begin; task < end; ++task) function(context, task, worker);
    }
};

// Waits until `value` differs from `old`: spinning for about 50 us, then asleep. Longer spinning steals the cores of
// other runtimes in the same process.
void wait_while_equal(const std::atomic<uint64_t>& value, uint64_t old) {
    auto limit = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    do {
        for (int i = 0; i < 64; ++i) {
            if (value.load(std::memory_order_acquire) != old) return;
            pause_cpu();
        }
    } while (std::chrono::steady_clock::now() < limit);
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

class ThreadPool {
  public:
    // Fewer than wanted where the system allows the process no more threads.
    explicit ThreadPool(int wanted) : wanted_(wanted) {
        threads_.reserve(wanted - 1);
        try {
            for (int worker = 1; worker < wanted; ++worker) threads_.emplace_back([this, worker] { work(worker); });
        } catch (const std::system_error&) {
        }
    }

    ~ThreadPool() {
        stop_ = true;
        announce();
        for (auto& thread : threads_) thread.join();
    }

    int wanted() const { return wanted_; }

    void run(Job job) {
        if (threads_.empty()) return job.run(0);
        job.workers = static_cast<int>(threads_.size()) + 1;
        job_ = job;
        remaining_.store(threads_.size(), std::memory_order_relaxed);
        announce();
        job.run(0);
        for (uint64_t left = remaining_.load(std::memory_order_acquire); left != 0;
             left = remaining_.load(std::memory_order_acquire))
            wait_while_equal(remaining_, left);
    }

  private:
    void announce() {
        generation_.fetch_add(1, std::memory_order_release);
        generation_.notify_all();
    }

    void work(int worker) {
        for (uint64_t seen = 0;; ++seen) {
            wait_while_equal(generation_, seen);
            if (stop_) return;
            job_.run(worker);
            if (remaining_.fetch_sub(1, std::memory_order_acq_rel) == 1) remaining_.notify_all();
        }
    }

    const int wanted_;
    std::vector<std::thread> threads_;
    Job job_;
    std::atomic<bool> stop_{false};
    alignas(64) std::atomic<uint64_t> generation_{0};
    alignas(64) std::atomic<uint64_t> remaining_{0};
};

struct PoolState {
    std::mutex mutex;  // held while tasks run, and while the pool is exchanged
    std::unique_ptr<ThreadPool> pool;
    std::atomic<int> wanted{0};
};

// Never destroyed, like the allocator. After fork() the child has none of the threads, so it gets a new, empty state;
// the old one is leaked on purpose, its mutex and threads being in an unknown condition there.
PoolState* state = nullptr;

PoolState& pool_state() {
    static const bool ready = [] {
        state = new PoolState;
        pthread_atfork(nullptr, nullptr, [] {
            int wanted = state->wanted;
            state = new PoolState;
            state->wanted = wanted;
        });
        return true;
    }();
    (void)ready;
    return *state;
}

thread_local int fixed_threads = 0;

}  // namespace

void set_num_threads(int n) {
    LLMCORE_CHECK(n >= 0 && n <= 1024, "set_num_threads: n must be 0 (default) to 1024, got ", n);
    pool_state().wanted = n;
}

int num_threads() {
    if (fixed_threads > 0) return fixed_threads;
    static const int standard = default_threads();
    int wanted = pool_state().wanted;
    return wanted > 0 ? wanted : standard;
}

FixedThreads::FixedThreads() : before_(fixed_threads) {
    fixed_threads = num_threads();
}

FixedThreads::~FixedThreads() {
    fixed_threads = before_;
}

void run_tasks(int64_t count, TaskFunction function, const void* context) {
    if (count <= 0) return;
    Job job{count, function, context, 1};
    static thread_local bool inside = false;  // a task that starts tasks runs them itself
    int wanted = num_threads();
    PoolState& shared = pool_state();
    std::unique_lock lock(shared.mutex, std::defer_lock);
    if (count == 1 || wanted == 1 || inside || !lock.try_lock()) return job.run(0);
    if (shared.pool == nullptr || shared.pool->wanted() != wanted) {
        shared.pool.reset();
        shared.pool = std::make_unique<ThreadPool>(wanted);
    }
    inside = true;
    shared.pool->run(job);
    inside = false;
}

}  // namespace llmcore
