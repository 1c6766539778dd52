// Indices, orders, barriers, clusters, shared memory, launches that are refused.
#include "check.h"
#include "cuda/arch/barrier.cuh"
#include "cuda/arch/global.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "emu/barrier.h"

using namespace llmcore;

namespace {

void index_kernel(int* seen) {
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    ++seen[block * blockDim.x * blockDim.y * blockDim.z + thread];
}

TEST(every_thread_runs_once_with_its_own_indices) {
    for_every_policy([] {
        std::vector<int> seen(2 * 3 * 4 * 5 * 3 * 2, 0);
        launch({dim3(2, 3, 4), dim3(5, 3, 2)}, index_kernel, seen.data());
        for (int count : seen) EXPECT(count == 1);
    });
}

void order_kernel(unsigned* order, int* ticket) {
    order[atomicAdd(ticket, 1)] = blockIdx.x * 4 + threadIdx.x;
}

TEST(orders_of_threads_and_blocks_follow_the_policy) {
    auto order_of = [](emu::Order order) {
        emu::policy().order = order;
        std::vector<unsigned> result(8);
        int ticket = 0;
        launch({2, 4}, order_kernel, result.data(), &ticket);
        return result;
    };
    EXPECT((order_of(emu::Order::kForward) == std::vector<unsigned>{0, 1, 2, 3, 4, 5, 6, 7}));
    EXPECT((order_of(emu::Order::kReverse) == std::vector<unsigned>{7, 6, 5, 4, 3, 2, 1, 0}));
    std::vector<unsigned> random = order_of(emu::Order::kRandom);
    EXPECT(random == order_of(emu::Order::kRandom));  // the same seed
    emu::policy().seed = 2;
    EXPECT(random != order_of(emu::Order::kRandom));
}

void rotate_kernel(int* result, int rounds) {
    LLMCORE_SHARED(int[96], slots);
    slots[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    for (int i = 0; i < rounds; ++i) {
        int next = slots[(threadIdx.x + 1) % 96];
        __syncthreads();
        slots[threadIdx.x] = next;
        __syncthreads();
    }
    result[threadIdx.x] = slots[threadIdx.x];
}

TEST(syncthreads_orders_all_threads) {
    for_every_policy([] {
        int result[96];
        launch({1, 96}, rotate_kernel, result, 5);
        for (int i = 0; i < 96; ++i) EXPECT(result[i] == (i + 5) % 96);
    });
}

// Warp 0 produces, warp 1 consumes: bar.arrive does not wait, bar.sync does.
void handover_kernel(int* result) {
    LLMCORE_SHARED(int[2][32], boxes);
    int lane = int(threadIdx.x % 32);
    for (int i = 0; i < 4; ++i) {
        if (threadIdx.x < 32) {
            if (i >= 2) i % 2 ? ptx::bar_sync(4, 64) : ptx::bar_sync(3, 64);
            boxes[i % 2][lane] = i * 100 + lane;
            i % 2 ? ptx::bar_arrive(2, 64) : ptx::bar_arrive(1, 64);
        } else {
            i % 2 ? ptx::bar_sync(2, 64) : ptx::bar_sync(1, 64);
            result[i * 32 + lane] = boxes[i % 2][31 - lane];
            if (i < 2) i % 2 ? ptx::bar_arrive(4, 64) : ptx::bar_arrive(3, 64);
        }
    }
}

TEST(named_barriers_hand_over) {
    for_every_policy([] {
        int result[128];
        launch({1, 64}, handover_kernel, result);
        for (int i = 0; i < 128; ++i) EXPECT(result[i] == i / 32 * 100 + 31 - i % 32);
    });
}

void cluster_kernel(unsigned* ranks, int* order, int* ticket) {
    emu::Location where = emu::Location::here();
    atomicAdd(ticket, 1);
    emu::cluster_arrive(where);
    emu::cluster_wait(where);
    if (threadIdx.x == 0) ranks[blockIdx.x] = emu::cluster_rank() + 10 * emu::cluster_size();
    order[blockIdx.x * 32 + threadIdx.x] = atomicAdd(ticket, 1);
}

TEST(a_cluster_is_resident_together) {
    for_every_policy([] {
        unsigned ranks[4];
        int order[128], ticket = 0;
        launch({4, 32, 0, nullptr, 2}, cluster_kernel, ranks, order, &ticket);
        for (unsigned block = 0; block < 4; ++block) EXPECT(ranks[block] == block % 2 + 20);
        // Of each cluster's 128 tickets the first 64 were drawn before its barrier.
        for (int value : order) EXPECT(value % 128 >= 64);
    });
}

void poison_kernel(float* result) {
    LLMCORE_SHARED(float[4], fixed);
    result[0] = fixed[3];
    result[1] = shared_memory<float>()[7];
}

TEST(fresh_shared_memory_is_nan) {
    float result[2] = {};
    launch({1, 1, 32}, poison_kernel, result);
    EXPECT(std::isnan(result[0]) && std::isnan(result[1]));
}

// A barrier of the whole grid, as stream-K and cooperative kernels have it.
void grid_kernel(uint32_t* arrived, uint32_t* seen) {
    ptx::add_release(arrived, 1);
    while (ptx::load_acquire(arrived) < gridDim.x) {
    }
    seen[blockIdx.x] = *arrived;
}

TEST(a_grid_barrier_needs_all_blocks_resident) {
    uint32_t arrived = 0, seen[6];
    for_every_policy([&] {
        arrived = 0;
        launch({.grid = 6, .block = 1, .all_resident = true}, grid_kernel, &arrived, seen);
        for (uint32_t value : seen) EXPECT(value == 6);
    });
    arrived = 0;
    expect_error("deadlock", "only one cluster runs at a time unless the launch asks for all blocks to be resident",
                 [&] { launch({6, 1}, grid_kernel, &arrived, seen); });
    arrived = 0;
    emu::policy().switch_limit = 100;
    expect_error("watchdog", "more switches than policy().switch_limit",
                 [&] { launch({6, 1}, grid_kernel, &arrived, seen); });
}

void nested_kernel() {
    launch({1, 1}, nested_kernel);
}

TEST(impossible_launches_are_refused) {
    auto start = [](const Launch& shape) { launch(shape, nested_kernel); };
    expect_error("launch", "1 to 1024 threads", [&] { start({1, 1025}); });
    expect_error("launch", "227 KiB", [&] { start({1, 1, 228 * 1024}); });
    expect_error("launch", "multiple of the cluster", [&] { start({3, 1, 0, nullptr, 2}); });
    expect_error("launch", "inside a launch", [&] { start({1, 1}); });
}

}  // namespace
