// ldmatrix, stmatrix (sm_90) and mma.sync with float accumulators.
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/matrix.h"
#endif

namespace llmcore::ptx {

// kCount 8x8 matrices of 16-bit elements, one register each; `address` is shared memory's, of one row of 16 bytes:
// lanes 8i to 8i+7 give the rows of matrix i. Lane l gets elements (l / 4, l % 4 * 2) and the next, of the transpose if
// asked.
template <int kCount, bool kTransposed = false>
LLMCORE_DEVICE void ldmatrix(uint32_t (&r)[kCount], uint32_t address LLMCORE_AND_WHERE) {
    static_assert(kCount == 1 || kCount == 2 || kCount == 4, "ldmatrix loads 1, 2 or 4 matrices");
#if LLMCORE_EMULATE
    emu::ldmatrix(r, kCount, kTransposed, address, where);
#else
    if constexpr (kCount == 1 && !kTransposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
    else if constexpr (kCount == 1)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                     : "=r"(r[0])
                     : "r"(address)
                     : "memory");
    else if constexpr (kCount == 2 && !kTransposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1])
                     : "r"(address)
                     : "memory");
    else if constexpr (kCount == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1])
                     : "r"(address)
                     : "memory");
    else if constexpr (!kTransposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
#endif
}

#if LLMCORE_HAS_SM90A
// The inverse of ldmatrix.
template <int kCount, bool kTransposed = false>
LLMCORE_DEVICE void stmatrix(uint32_t address, const uint32_t (&r)[kCount] LLMCORE_AND_WHERE) {
    static_assert(kCount == 1 || kCount == 2 || kCount == 4, "stmatrix stores 1, 2 or 4 matrices");
#if LLMCORE_EMULATE
    emu::stmatrix(r, kCount, kTransposed, address, where);
#else
    if constexpr (kCount == 1 && !kTransposed)
        asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(address), "r"(r[0]) : "memory");
    else if constexpr (kCount == 1)
        asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(address), "r"(r[0]) : "memory");
    else if constexpr (kCount == 2 && !kTransposed)
        asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(r[0]), "r"(r[1])
                     : "memory");
    else if constexpr (kCount == 2)
        asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(r[0]),
                     "r"(r[1])
                     : "memory");
    else if constexpr (!kTransposed)
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]),
                     "r"(r[1]), "r"(r[2]), "r"(r[3])
                     : "memory");
    else
        asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]),
                     "r"(r[1]), "r"(r[2]), "r"(r[3])
                     : "memory");
#endif
}
#endif

// d (16, 8) += a (16, 16) b (16, 8). With g = lane / 4, t = lane % 4:
//   a[r] = A[g + 8 (r % 2)][2t + 8 (r / 2)] and the next column, b[r] = B[2t + 8r][g] and the next row,
//   d[i] = D[g + 8 (i / 2)][2t + i % 2]
LLMCORE_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mma(emu::MmaType::kBf16, d, a, b, where);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

LLMCORE_DEVICE void mma_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mma(emu::MmaType::kFp16, d, a, b, where);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// d (16, 8) += a (16, 8) b (8, 8) in tf32: a[r] = A[g + 8 (r % 2)][t + 4 (r / 2)], b[r] = B[t + 4r][g], d as above.
LLMCORE_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mma(emu::MmaType::kTf32, d, a, b, where);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace llmcore::ptx
