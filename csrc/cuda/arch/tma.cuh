// TMA (sm_90): boxes of a tensor between global and shared memory, by one thread. Coordinates are innermost first; what
// lies outside the tensor loads as zeros and is not stored. Shared addresses are multiples of 128. Tensors have rank 1
// to 4; every instruction stands here once, its rank and coordinates are filled in.
#pragma once

#include "cuda/arch/cache_policy.cuh"
#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/tma.h"
#else
#include <cuda.h>
#endif

#if LLMCORE_HAS_SM90A

namespace llmcore::ptx {

#if !LLMCORE_EMULATE
// Coordinates are always operands 0 to 3, named or not.
#define LLMCORE_BOX_AT "r"(c[0]), "r"(c[kRank > 1]), "r"(c[kRank > 2 ? 2 : 0]), "r"(c[kRank > 3 ? 3 : 0])
#define LLMCORE_FOR_RANK(INSTRUCTION)                                  \
    static_assert(kRank >= 1 && kRank <= 4, "tensors of rank 1 to 4"); \
    if constexpr (kRank == 1) INSTRUCTION("1d", "{%0}");               \
    if constexpr (kRank == 2) INSTRUCTION("2d", "{%0, %1}");           \
    if constexpr (kRank == 3) INSTRUCTION("3d", "{%0, %1, %2}");       \
    if constexpr (kRank == 4) INSTRUCTION("4d", "{%0, %1, %2, %3}");
#endif

// Brings a map into the cache before its first use; by one thread at the kernel's start.
LLMCORE_DEVICE void prefetch_tensor_map(const CUtensorMap* map LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::check_tensor_map(map, where);
#else
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// loads

// Completes the whole box's bytes on `barrier`, those outside the tensor included.
template <int kRank>
LLMCORE_DEVICE void tma_load(uint32_t destination, const CUtensorMap* map, uint32_t barrier,
                             const int (&c)[kRank] LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::tma_load(destination, map, barrier, c, kRank, where);
#else
#define LLMCORE_LOAD(rank, at)                                                                                      \
    asm volatile("cp.async.bulk.tensor." rank ".shared::cluster.global.mbarrier::complete_tx::bytes [%4], [%5, " at \
                 "], [%6];" ::LLMCORE_BOX_AT,                                                                       \
                 "r"(destination), "l"(map), "r"(barrier)                                                           \
                 : "memory")
    LLMCORE_FOR_RANK(LLMCORE_LOAD)
#undef LLMCORE_LOAD
#endif
}

// The same with a hint to L2.
template <int kRank>
LLMCORE_DEVICE void tma_load(uint32_t destination, const CUtensorMap* map, uint32_t barrier, const int (&c)[kRank],
                             CachePolicy policy LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::check_cache_policy(policy.bits, where);
    emu::tma_load(destination, map, barrier, c, kRank, where);
#else
#define LLMCORE_LOAD(rank, at)                                                                        \
    asm volatile("cp.async.bulk.tensor." rank                                                         \
                 ".shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%4], [%5, " at \
                 "], [%6], %7;" ::LLMCORE_BOX_AT,                                                     \
                 "r"(destination), "l"(map), "r"(barrier), "l"(policy.bits)                           \
                 : "memory")
    LLMCORE_FOR_RANK(LLMCORE_LOAD)
#undef LLMCORE_LOAD
#endif
}

// The same box into every block of the cluster whose rank's bit is in `ranks`, at the same offsets, on their barriers.
template <int kRank>
LLMCORE_DEVICE void tma_load_multicast(uint32_t destination, const CUtensorMap* map, uint32_t barrier,
                                       const int (&c)[kRank], uint16_t ranks LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::tma_load_multicast(destination, map, barrier, c, kRank, ranks, where);
#else
#define LLMCORE_LOAD(rank, at)                                                                            \
    asm volatile("cp.async.bulk.tensor." rank                                                             \
                 ".shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%4], [%5, " at \
                 "], [%6], %7;" ::LLMCORE_BOX_AT,                                                         \
                 "r"(destination), "l"(map), "r"(barrier), "h"(ranks)                                     \
                 : "memory")
    LLMCORE_FOR_RANK(LLMCORE_LOAD)
#undef LLMCORE_LOAD
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// stores

// After fence_proxy_async() in every thread that wrote the box, and a barrier.
template <int kRank>
LLMCORE_DEVICE void tma_store(const CUtensorMap* map, uint32_t source, const int (&c)[kRank] LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::tma_store(map, source, c, kRank, false, where);
#else
#define LLMCORE_STORE(rank, at)                                                                                      \
    asm volatile("cp.async.bulk.tensor." rank ".global.shared::cta.bulk_group [%4, " at "], [%5];" ::LLMCORE_BOX_AT, \
                 "l"(map), "r"(source)                                                                               \
                 : "memory")
    LLMCORE_FOR_RANK(LLMCORE_STORE)
#undef LLMCORE_STORE
#endif
}

// Adds the box to the tensor, in the map's element type (float, bf16 or fp16).
template <int kRank>
LLMCORE_DEVICE void tma_reduce_add(const CUtensorMap* map, uint32_t source, const int (&c)[kRank] LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::tma_store(map, source, c, kRank, true, where);
#else
#define LLMCORE_STORE(rank, at)                                                                    \
    asm volatile("cp.reduce.async.bulk.tensor." rank ".global.shared::cta.add.bulk_group [%4, " at \
                 "], [%5];" ::LLMCORE_BOX_AT,                                                      \
                 "l"(map), "r"(source)                                                             \
                 : "memory")
    LLMCORE_FOR_RANK(LLMCORE_STORE)
#undef LLMCORE_STORE
#endif
}

#if !LLMCORE_EMULATE
#undef LLMCORE_BOX_AT
#undef LLMCORE_FOR_RANK
#endif

// ---------------------------------------------------------------------------------------------------------------------
// without a map: `bytes` in a row; addresses and bytes are multiples of 16

LLMCORE_DEVICE void bulk_load(uint32_t destination, const void* source, uint32_t bytes,
                              uint32_t barrier LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::bulk_load(destination, source, bytes, barrier, where);
#else
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(destination),
        "l"(source), "r"(bytes), "r"(barrier)
        : "memory");
#endif
}

LLMCORE_DEVICE void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier,
                              CachePolicy policy LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::check_cache_policy(policy.bits, where);
    emu::bulk_load(destination, source, bytes, barrier, where);
#else
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
        "%4;" ::"r"(destination),
        "l"(source), "r"(bytes), "r"(barrier), "l"(policy.bits)
        : "memory");
#endif
}

// From this block's shared memory into another's of the cluster: `destination` and `barrier` are from map_to_rank.
LLMCORE_DEVICE void bulk_copy_to_cluster(uint32_t destination, uint32_t source, uint32_t bytes,
                                         uint32_t barrier LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::bulk_copy_to_cluster(destination, source, bytes, barrier, where);
#else
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     destination),
                 "r"(source), "r"(bytes), "r"(barrier)
                 : "memory");
#endif
}

LLMCORE_DEVICE void bulk_store(void* destination, uint32_t source, uint32_t bytes LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::bulk_store(destination, source, bytes, false, where);
#else
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(destination), "r"(source),
                 "r"(bytes)
                 : "memory");
#endif
}

LLMCORE_DEVICE void bulk_reduce_add(float* destination, uint32_t source, uint32_t bytes LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::bulk_store(destination, source, bytes, true, where);
#else
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(destination),
                 "r"(source), "r"(bytes)
                 : "memory");
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// stores and reductions are waited for in groups of the thread that issued them

LLMCORE_DEVICE void bulk_commit() {
#if LLMCORE_EMULATE
    emu::bulk_commit();
#else
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// At most kGroupsLeft groups still read shared memory, which may then be written again. Before a thread exits: 0. It
// says nothing about the writes: before anybody is told that they are there, bulk_wait.
template <int kGroupsLeft>
LLMCORE_DEVICE void bulk_wait_read() {
#if LLMCORE_EMULATE
    emu::bulk_wait_read(kGroupsLeft);
#else
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// At most kGroupsLeft groups have not completed their writes.
template <int kGroupsLeft>
LLMCORE_DEVICE void bulk_wait() {
#if LLMCORE_EMULATE
    emu::bulk_wait(kGroupsLeft);
#else
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

}  // namespace llmcore::ptx

#endif
