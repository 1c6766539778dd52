// TMA (sm_90): boxes of a tensor between global and shared memory, by one thread. Coordinates are innermost first; what
// lies outside the tensor loads as zeros and is not stored. Shared addresses are multiples of 128.
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/tma.h"
#else
#include <cuda.h>
#endif

#if LLMCORE_HAS_SM90A

namespace llmcore::ptx {

// Completes the whole box's bytes on `barrier`, those outside the tensor included.
template <int kRank>
LLMCORE_DEVICE void tma_load(uint32_t destination, const CUtensorMap* map, uint32_t barrier,
                             const int (&c)[kRank] LLMCORE_AND_WHERE) {
    static_assert(kRank >= 1 && kRank <= 4, "tensors of rank 1 to 4");
#if LLMCORE_EMULATE
    emu::tma_load(destination, map, barrier, c, kRank, 0, where);
#else
    if constexpr (kRank == 1)
        asm volatile(
            "cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3}], [%2];" ::"r"(
                destination),
            "l"(map), "r"(barrier), "r"(c[0])
            : "memory");
    else if constexpr (kRank == 2)
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
            "[%2];" ::"r"(destination),
            "l"(map), "r"(barrier), "r"(c[0]), "r"(c[1])
            : "memory");
    else if constexpr (kRank == 3)
        asm volatile(
            "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
            "[%2];" ::"r"(destination),
            "l"(map), "r"(barrier), "r"(c[0]), "r"(c[1]), "r"(c[2])
            : "memory");
    else
        asm volatile(
            "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
            "%6}], [%2];" ::"r"(destination),
            "l"(map), "r"(barrier), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3])
            : "memory");
#endif
}

// The same box into every block of the cluster whose rank's bit is in `ranks`, at the same offsets, on their barriers.
LLMCORE_DEVICE void tma_load_multicast(uint32_t destination, const CUtensorMap* map, uint32_t barrier,
                                       const int (&c)[2], uint16_t ranks LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::tma_load(destination, map, barrier, c, 2, ranks, where);
#else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
        "{%4, %5}], [%2], %3;" ::"r"(destination),
        "l"(map), "r"(barrier), "h"(ranks), "r"(c[0]), "r"(c[1])
        : "memory");
#endif
}

// After fence_proxy_async() in every thread that wrote the box, and a barrier.
template <int kRank>
LLMCORE_DEVICE void tma_store(const CUtensorMap* map, uint32_t source, const int (&c)[kRank] LLMCORE_AND_WHERE) {
    static_assert(kRank >= 1 && kRank <= 4, "tensors of rank 1 to 4");
#if LLMCORE_EMULATE
    emu::tma_store(map, source, c, kRank, false, where);
#else
    if constexpr (kRank == 1)
        asm volatile("cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%0, {%2}], [%1];" ::"l"(map), "r"(source),
                     "r"(c[0])
                     : "memory");
    else if constexpr (kRank == 2)
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                     "r"(source), "r"(c[0]), "r"(c[1])
                     : "memory");
    else if constexpr (kRank == 3)
        asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
                     "r"(source), "r"(c[0]), "r"(c[1]), "r"(c[2])
                     : "memory");
    else
        asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                     "r"(source), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3])
                     : "memory");
#endif
}

// Adds the box to the tensor, in the map's element type (float or bf16).
LLMCORE_DEVICE void tma_reduce_add(const CUtensorMap* map, uint32_t source, const int (&c)[2] LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::tma_store(map, source, c, 2, true, where);
#else
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(source), "r"(c[0]), "r"(c[1])
                 : "memory");
#endif
}

// Without a map: `bytes` in a row; addresses and bytes are multiples of 16.
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

// Stores and reductions are waited for in groups of the thread that issued them.
LLMCORE_DEVICE void bulk_commit() {
#if LLMCORE_EMULATE
    emu::bulk_commit();
#else
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// At most kGroupsLeft groups still read shared memory. Before a thread exits: 0.
template <int kGroupsLeft>
LLMCORE_DEVICE void bulk_wait_read() {
#if LLMCORE_EMULATE
    emu::bulk_wait(kGroupsLeft);
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
