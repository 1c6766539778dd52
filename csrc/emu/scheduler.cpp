#include "emu/scheduler.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include "emu/cuda_language.h"
#include "emu/global_race.h"
#include "emu/machine.h"
#include "emu/policy.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace llmcore::emu {

Thread* running_thread = nullptr;

namespace {

Resident* running = nullptr;
uint64_t random_state = 1;
uint64_t switches_left = 0;

void set_current(Thread* thread) {
    running_thread = thread;
    if (!thread) return;
    threadIdx = thread->index;
    blockIdx = thread->block->index;
    blockDim = running->block_dim;
    gridDim = running->grid_dim;
}

void switch_to(Thread* from, Thread* to) {  // null is the caller of run()
    ++statistics().switches;
    set_current(to);
    Fiber::switch_to(from ? from->fiber : running->main, to ? to->fiber : running->main, from && from->done);
}

void land_one_effect() {
    auto& effects = running->effects;
    if (policy().copies == Landing::kMixed) std::swap(effects.front(), effects[draw() % effects.size()]);
    auto effect = std::move(effects.front());
    effects.pop_front();
    made_progress();
    struct Outside {  // whatever goes wrong in an effect is nobody's running line
        Thread* thread = running_thread;
        Outside() { running_thread = nullptr; }
        ~Outside() { running_thread = thread; }
    } outside;
    effect();
}

Thread* pick() {
    if (switches_left-- == 0) fail("watchdog", "more switches than policy().switch_limit", {"launch", 0, 0});
    auto& ready = running->ready;
    bool mixed = policy().copies == Landing::kMixed;
    // Loops that wait would keep late effects from landing for ever.
    auto stuck = [&] { return ready.empty() || running->idle_spins > 2 * ready.size(); };
    while (!running->effects.empty() && (stuck() || (mixed && draw() % 8 == 0))) land_one_effect();
    if (ready.empty()) return nullptr;
    if (policy().order == Order::kRandom) std::swap(ready.front(), ready[draw() % ready.size()]);
    Thread* thread = ready.front();
    ready.pop_front();
    return thread;
}

void run_kernel(Thread& thread) {
    try {
        ++thread.block->lifetime.started;
        (*running->kernel)();
        check_wgmma_at_exit(thread);
        check_bulk_at_exit(thread);
        note_exit(thread);
        made_progress();
        thread.done = true;
        --running->alive;
    } catch (Error& error) {
        running->error = std::make_unique<Error>(error);
    } catch (std::exception& error) {
        running->error = std::make_unique<Error>("exception", error.what());
    }
}

// The body of every fiber. Errors are kept and thrown on the caller's stack: an exception cannot cross fibers.
void fiber_body() {
    Fiber::entered();
    Thread& thread = self();
    run_kernel(thread);
    Thread* next = nullptr;
    if (!running->error) {
        try {
            next = pick();
        } catch (Error& error) {
            running->error = std::make_unique<Error>(error);
        }
    }
    thread.done = true;
    switch_to(&thread, next);
    __builtin_unreachable();
}

unsigned count(dim3 d) {
    return d.x * d.y * d.z;
}

bool everybody(const LaunchShape& s) {
    return s.all_resident || policy().all_resident;
}

void check(const LaunchShape& s) {
    auto refuse = [](const std::string& message) { throw Error("launch", message); };
    if (running) refuse("launch inside a launch");
    if (!count(s.grid) || !count(s.block) || count(s.block) > 1024)
        refuse("a block has 1 to 1024 threads, a grid 1 block");
    if (s.grid.x % s.cluster.x || s.grid.y % s.cluster.y || s.grid.z % s.cluster.z)
        refuse("the grid is not a multiple of the cluster");
    if (count(s.cluster) > 16) refuse("a cluster has at most 16 blocks");
    if (race_detection() && everybody(s) && size_t(count(s.grid)) * count(s.block) > 8192)
        refuse("the race detector runs at most 8192 threads at once: fewer blocks, or not all of them resident");
    if (s.shared_bytes > kMaxSharedBytes) refuse("more than 227 KiB of shared memory");
}

// Blocks may not depend on each other's having run, so their order is a matter of policy, too.
std::vector<unsigned> cluster_order(unsigned clusters) {
    std::vector<unsigned> order(clusters);
    for (unsigned i = 0; i < clusters; ++i) order[i] = policy().order == Order::kReverse ? clusters - 1 - i : i;
    if (policy().order == Order::kRandom)
        for (unsigned i = clusters; i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
    return order;
}

void add_block(Resident& r, Cluster& cluster, const LaunchShape& s, uint3 index, unsigned ordinal) {
    cluster.blocks.push_back(std::make_unique<Block>());
    Block& block = *cluster.blocks.back();
    block.cluster = &cluster;
    block.rank = static_cast<unsigned>(cluster.blocks.size() - 1);
    block.ordinal = ordinal;
    block.index = index;
    block.size = count(s.block);
    block.threads = &r.threads[size_t(ordinal) * block.size];
    block.warps.resize((block.size + 31) / 32);
    block.warpgroups.resize((block.size + 127) / 128);
    block.shared.allocate_dynamic(static_cast<uint32_t>(s.shared_bytes));
    if (race_detection())
        for (Barrier& barrier : block.barriers) barrier.clock.start(r.actors);
    for (unsigned i = 0; i < block.size; ++i) {
        Thread& thread = block.threads[i];
        thread.block = &block;
        thread.index = {i % s.block.x, i / s.block.x % s.block.y, i / (s.block.x * s.block.y)};
        thread.number = i;
        thread.actor = ordinal * block.size + i;
        thread.fiber.start(fiber_body, thread.actor);
        if (race_detection()) {
            thread.clock.start(r.actors);
            thread.clock.seen[thread.actor] = 1;
            thread.clock.kernels = kernels_known_at_start();
        }
        if (policy().order == Order::kReverse)
            r.ready.push_front(&thread);
        else
            r.ready.push_back(&thread);
    }
}

void add_cluster(Resident& r, const LaunchShape& s, unsigned number) {
    r.clusters.push_back(std::make_unique<Cluster>());
    Cluster& cluster = *r.clusters.back();
    cluster.number = number;
    if (race_detection()) cluster.barrier.clock.start(r.actors);
    unsigned across = s.grid.x / s.cluster.x, down = s.grid.y / s.cluster.y, size = count(s.cluster);
    unsigned x = number % across * s.cluster.x, y = number / across % down * s.cluster.y;
    unsigned z = number / (across * down) * s.cluster.z;
    for (unsigned rank = 0; rank < size; ++rank) {
        uint3 index{x + rank % s.cluster.x, y + rank / s.cluster.x % s.cluster.y,
                    z + rank / (s.cluster.x * s.cluster.y)};
        add_block(r, cluster, s, index, static_cast<unsigned>(r.clusters.size() - 1) * size + rank);
    }
}

void run_resident(const LaunchShape& s, const std::function<void()>& kernel, const unsigned* numbers, size_t clusters) {
    Resident r;
    size_t blocks = clusters * count(s.cluster);
    r.kernel = &kernel;
    r.block_dim = s.block;
    r.grid_dim = s.grid;
    r.threads.resize(blocks * count(s.block));
    r.alive = r.threads.size();
    r.warpgroups = (count(s.block) + 127) / 128;
    r.tma_actor = static_cast<unsigned>(r.alive);
    r.global_writer = r.tma_actor + 1;
    r.actors = r.global_writer + 1 + static_cast<unsigned>(blocks) * r.warpgroups;
    r.residence = begin_residence();
    for (size_t i = 0; i < clusters; ++i) add_cluster(r, s, numbers[i]);

    struct Running {  // whatever happens, nobody runs afterwards
        explicit Running(Resident* r) { running = r; }
        ~Running() { running = nullptr, running_thread = nullptr; }
    } guard(&r);
    while (r.alive && !r.error) {
        Thread* thread = pick();
        if (!thread) throw Error("deadlock", deadlock_report());
        switch_to(nullptr, thread);
    }
    if (r.error) throw *r.error;
    check_registers_at_end();
    for (Thread& thread : r.threads) write_pending_stores(thread);
    for (const auto& cluster : r.clusters)
        for (const auto& block : cluster->blocks) count_conflicts(*block);
    if (!r.effects.empty()) throw Error("tma", "the block exits with a bulk load in flight");
}

}  // namespace

Policy& policy() {
    static Policy instance;
    return instance;
}

Statistics& statistics() {
    static Statistics instance;
    return instance;
}

uint32_t draw() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return static_cast<uint32_t>(random_state >> 20);
}

bool lands_now(Landing landing) {
    return landing == Landing::kEarly || (landing == Landing::kMixed && draw() % 2);
}

Resident& resident() {
    return *running;
}

Thread& self() {
    return *running_thread;
}

void wait(const char* name, Location where, std::function<std::string()> detail) {
    Thread& thread = self();
    thread.waiting = true;
    thread.wait_name = name;
    thread.wait_location = where;
    thread.wait_detail = std::move(detail);
    Thread* next = pick();
    if (next == &thread)
        set_current(next);
    else
        switch_to(&thread, next);  // nobody: the caller of run() reports the deadlock
}

void wake(Thread& thread) {
    thread.waiting = false;
    made_progress();
    running->ready.push_back(&thread);
}

void yield() {
    Thread& thread = self();
    running->ready.push_back(&thread);
    Thread* next = pick();
    if (next != &thread) switch_to(&thread, next);
}

void spin(const void* address, Location where) {
    // In order each of the others has had its turn after as many spins as there are threads; by lot it takes longer.
    if (running->effects.empty() && ++running->idle_spins > 1000 + 64 * running->ready.size()) {
        std::ostringstream text;
        text << "nothing can change the word at " << address << " that this loop waits for";
        if (running->threads.size() < size_t(count(running->grid_dim)) * count(running->block_dim))
            text << "; only one cluster runs at a time unless the launch asks for all blocks to be resident";
        text << "; " << deadlock_report();
        fail("deadlock", text.str(), where);
    }
    if (!running->effects.empty()) ++running->idle_spins;
    yield();
}

void made_progress() {
    running->idle_spins = 0;
}

void stop(const Error& error) {
    running->error = std::make_unique<Error>(error);
    Thread& thread = self();
    thread.done = true;
    switch_to(&thread, nullptr);
    __builtin_unreachable();
}

void post_effect(std::function<void()> effect) {
    running->effects.push_back(std::move(effect));
}

void run(const LaunchShape& shape, const std::function<void()>& kernel) {
    check(shape);
    random_state = 88172645463325252ull ^ (policy().seed * 0x9e3779b97f4a7c15ull);
    switches_left = policy().switch_limit;
    begin_kernel(shape.overlaps_previous);
    std::vector<unsigned> order = cluster_order(count(shape.grid) / count(shape.cluster));
    if (everybody(shape)) return run_resident(shape, kernel, order.data(), order.size());
    for (const unsigned& number : order) run_resident(shape, kernel, &number, 1);
}

}  // namespace llmcore::emu
