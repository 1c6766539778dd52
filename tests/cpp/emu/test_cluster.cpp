// Distributed shared memory (PTX ISA 5.1.7, "Shared State Space": a block's memory is there from its start to its exit;
// mapa 9.7.9.22; st.async 9.7.9.12) and copies between the blocks of a cluster.
#include "check.h"
#include "cuda/arch/cluster.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"

using namespace llmcore;

namespace {

enum class Sync { kBoth, kNoneBefore, kNoneBetween, kNoneAfter };

// Every block writes into the next one's memory and reads the one's after that.
void ring_kernel(float* result, Sync sync) {
    LLMCORE_SHARED(float[32], inbox);
    LLMCORE_SHARED(float4[32], wide);
    const uint32_t rank = ptx::cluster_rank(), size = ptx::cluster_size(), t = threadIdx.x;
    const uint32_t mine = shared_address(&inbox[t]), mine4 = shared_address(&wide[t]);
    if (sync != Sync::kNoneBefore) ptx::cluster_sync();
    ptx::store_cluster(ptx::map_to_rank(mine, (rank + 1) % size), float(rank * 100 + t));
    ptx::store_cluster4(ptx::map_to_rank(mine4, (rank + 1) % size), {float(rank), float(t), 2, 3});
    if (sync != Sync::kNoneBetween) ptx::cluster_sync();
    result[blockIdx.x * 64 + t] = ptx::load_cluster(ptx::map_to_rank(mine, (rank + 2) % size));
    const float4 four = ptx::load_cluster4(ptx::map_to_rank(mine4, (rank + 2) % size));
    result[blockIdx.x * 64 + 32 + t] = four.x * 1000 + four.y * 10 + four.z + four.w;
    if (sync != Sync::kNoneAfter) ptx::cluster_sync();
}

TEST(blocks_of_a_cluster_share_memory) {
    for_every_policy([] {
        float result[8 * 64];
        launch({8, 32, 0, nullptr, 4}, ring_kernel, result, Sync::kBoth);
        for (int block = 0; block < 8; ++block)
            for (int t = 0; t < 32; ++t) {
                int writer = (block + 1) % 4;  // of the memory that this block reads: the one before (block + 2)
                EXPECT(result[block * 64 + t] == float(writer * 100 + t));
                EXPECT(result[block * 64 + 32 + t] == float(writer * 1000 + t * 10 + 5));
            }
    });
}

TEST(cluster_memory_needs_barriers_around_it) {
    static float result[4 * 64];
    auto start = [](Sync sync) { launch({4, 32, 0, nullptr, 4}, ring_kernel, result, sync); };
    int caught[3] = {};
    for_every_policy([&] {
        Outcome before = outcome_of([&] { start(Sync::kNoneBefore); });
        Outcome between = outcome_of([&] { start(Sync::kNoneBetween); });
        Outcome after = outcome_of([&] { start(Sync::kNoneAfter); });
        caught[0] += before.kind == "cluster" && before.text.find("may not have started") != std::string::npos;
        caught[1] += between.kind == "race" && between.text.find("of shared address 0x") != std::string::npos;
        caught[2] += after.kind == "cluster" && after.text.find("after the") != std::string::npos;
    });
    EXPECT(caught[0] == 15);
    EXPECT(caught[1] == (emu::race_detection() ? 15 : 0));
    EXPECT(emu::race_detection() ? caught[2] == 15 : caught[2] >= 5);  // otherwise where a block is gone in time
}

void misaligned_kernel() {
    ptx::cluster_sync();
    ptx::load_cluster(ptx::map_to_rank(shared_address(shared_memory<char>()), 1) + 2);
}

TEST(misaligned_cluster_memory_is_refused) {
    expect_error("align", "cluster memory is not aligned", [] { launch({2, 1, 64, nullptr, 2}, misaligned_kernel); });
}

// Every block sends 64 bytes by a bulk copy and, by st.async, one float a thread to the next block.
void send_kernel(float* result, bool fenced) {
    LLMCORE_SHARED(uint64_t, word);
    LLMCORE_SHARED(float[32], inbox);
    float* memory = shared_memory<float>();
    const uint32_t barrier = shared_address(&word), rank = ptx::cluster_rank(), to = rank ^ 1, t = threadIdx.x;
    if (t == 0) {
        ptx::mbarrier_init(barrier, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect(barrier, 64 + 32 * 4);
    }
    if (t < 16) memory[t] = float(rank * 16 + t);
    if (fenced) ptx::fence_proxy_async();
    ptx::cluster_sync();
    if (t == 0)
        ptx::bulk_copy_to_cluster(ptx::map_to_rank(shared_address(memory + 16), to), shared_address(memory), 64,
                                  ptx::map_to_rank(barrier, to));
    ptx::store_async_cluster(ptx::map_to_rank(shared_address(&inbox[t]), to), float(rank * 100 + t),
                             ptx::map_to_rank(barrier, to));
    ptx::mbarrier_wait(barrier, 0);
    result[blockIdx.x * 64 + t] = inbox[t];
    if (t < 16) result[blockIdx.x * 64 + 32 + t] = memory[16 + t];
    ptx::cluster_sync();
}

TEST(copies_between_blocks_complete_the_receivers_barrier) {
    for_every_policy([] {
        float result[4 * 64];
        launch({4, 32, 128, nullptr, 2}, send_kernel, result, true);
        for (int block = 0; block < 4; ++block)
            for (int t = 0; t < 32; ++t) {
                int from = block % 2 ^ 1;
                EXPECT(result[block * 64 + t] == float(from * 100 + t));
                if (t < 16) EXPECT(result[block * 64 + 32 + t] == float(from * 16 + t));
            }
    });
    if (emu::race_detection()) {
        static float result[2 * 64];
        expect_error("proxy", "without fence.proxy.async",
                     [] { launch({2, 32, 128, nullptr, 2}, send_kernel, result, false); });
    }
}

}  // namespace
