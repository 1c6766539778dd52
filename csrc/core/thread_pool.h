// One pool of threads for the process. Work is cut into a number of tasks that never depends on the number of threads,
// and no task adds to another one's results: that is what keeps every bit the same for any number of threads.
#pragma once

#include <cstdint>

namespace llmcore {

// 1 or more; 0 restores the default: the CPUs this process may use (affinity mask and cgroup quota).
void set_num_threads(int n);
int num_threads();

// While it lives, num_threads() keeps its value in this thread, whatever other threads set: an op sizes its workspace
// by one call and cuts its work by the next.
class FixedThreads {
  public:
    FixedThreads();
    ~FixedThreads();
    FixedThreads(const FixedThreads&) = delete;
    FixedThreads& operator=(const FixedThreads&) = delete;

  private:
    const int before_;
};

using TaskFunction = void (*)(const void* context, int64_t task, int worker);

// Runs tasks 0 .. count-1, each once, and returns when all are done. worker < num_threads() names the thread, for
// scratch memory. Neighbouring tasks run on the same thread, so rows stay in its cache from one op to the next. While
// another thread is inside, the caller runs its tasks alone: two trainers in two threads are allowed. A task must not
// throw: there may be nobody above it to catch that.
void run_tasks(int64_t count, TaskFunction function, const void* context);

// body(task, worker)
template <class Body>
void parallel_tasks(int64_t count, const Body& body) {
    run_tasks(
        count,
        [](const void* context, int64_t task, int worker) { (*static_cast<const Body*>(context))(task, worker); },
        &body);
}

// body(begin, end) over [0, n) in pieces of `grain`.
template <class Body>
void parallel_for(int64_t n, int64_t grain, const Body& body) {
    if (n <= 0) return;
    parallel_tasks((n + grain - 1) / grain, [&](int64_t task, int) {
        int64_t begin = task * grain, end = begin + grain < n ? begin + grain : n;
        body(begin, end);
    });
}

}  // namespace llmcore
