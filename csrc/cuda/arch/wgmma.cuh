// wgmma (sm_90a) in bf16 with float accumulators: d (64, N) = a (64, 16) b (N, 16)^T, plus what d held if `accumulate`.
//
// Per batch: wgmma_fence(), any number of wgmma(), wgmma_commit(), wgmma_wait<groups left>(); between the first and the
// wait nobody touches d. Thread t of the warpgroup with l = t % 32 holds rows 16 (t / 32) + l / 4 (+ 8 for i / 2 odd)
// and columns 8 (i / 4) + 2 (l % 4) + i % 2 in d[i].
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/wgmma.h"
#endif

#if LLMCORE_HAS_SM90A

namespace llmcore::ptx {

enum class OperandSwizzle : uint64_t { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

// The descriptor of an operand in shared memory. `leading` and `stride` in bytes:
//   K-major: stride is from eight rows to the next eight, leading is ignored; the next 16 k are at address + 32.
//   MN-major: stride is from eight k to the next eight, leading from one swizzle's width of rows to the next.
// Without a swizzle the operand is made of blocks of 8 by 16 bytes, 128 bytes in a row each:
//   K-major: stride is from eight rows to the next eight, leading from eight k to the next eight.
//   MN-major: stride is from eight rows (of M or N) to the next eight, leading from eight k to the next eight.
LLMCORE_DEVICE uint64_t operand(uint32_t address, uint32_t leading, uint32_t stride,
                                OperandSwizzle swizzle = OperandSwizzle::k128) {
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
           static_cast<uint64_t>(swizzle) << 62;
}

// Before the first wgmma of a batch, and whenever registers that it uses were written by ordinary code.
LLMCORE_DEVICE void wgmma_fence() {
#if LLMCORE_EMULATE
    emu::wgmma_fence();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

LLMCORE_DEVICE void wgmma_commit() {
#if LLMCORE_EMULATE
    emu::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int kGroupsLeft>
LLMCORE_DEVICE void wgmma_wait(LLMCORE_WHERE) {
#if LLMCORE_EMULATE
    emu::wgmma_wait(kGroupsLeft, where);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// Registers per thread of this warpgroup, a multiple of 8 in 24..256; all warpgroups of a block share 65536.
template <int kCount>
LLMCORE_DEVICE void set_max_registers_up(LLMCORE_WHERE) {
#if LLMCORE_EMULATE
    emu::set_max_registers(kCount, where);
#else
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

template <int kCount>
LLMCORE_DEVICE void set_max_registers_down(LLMCORE_WHERE) {
#if LLMCORE_EMULATE
    emu::set_max_registers(kCount, where);
#else
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

#if !LLMCORE_EMULATE
// The text of n accumulators and their constraints, each four more than the one before: an asm's operands cannot be
// counted out by a loop.
#define LLMCORE_D4 "%0, %1, %2, %3"
#define LLMCORE_O4 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define LLMCORE_D8 LLMCORE_D4 ", %4, %5, %6, %7"
#define LLMCORE_O8 LLMCORE_O4, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define LLMCORE_D12 LLMCORE_D8 ", %8, %9, %10, %11"
#define LLMCORE_O12 LLMCORE_O8, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define LLMCORE_D16 LLMCORE_D12 ", %12, %13, %14, %15"
#define LLMCORE_O16 LLMCORE_O12, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define LLMCORE_D20 LLMCORE_D16 ", %16, %17, %18, %19"
#define LLMCORE_O20 LLMCORE_O16, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define LLMCORE_D24 LLMCORE_D20 ", %20, %21, %22, %23"
#define LLMCORE_O24 LLMCORE_O20, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define LLMCORE_D28 LLMCORE_D24 ", %24, %25, %26, %27"
#define LLMCORE_O28 LLMCORE_O24, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define LLMCORE_D32 LLMCORE_D28 ", %28, %29, %30, %31"
#define LLMCORE_O32 LLMCORE_O28, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define LLMCORE_D36 LLMCORE_D32 ", %32, %33, %34, %35"
#define LLMCORE_O36 LLMCORE_O32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define LLMCORE_D40 LLMCORE_D36 ", %36, %37, %38, %39"
#define LLMCORE_O40 LLMCORE_O36, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define LLMCORE_D44 LLMCORE_D40 ", %40, %41, %42, %43"
#define LLMCORE_O44 LLMCORE_O40, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define LLMCORE_D48 LLMCORE_D44 ", %44, %45, %46, %47"
#define LLMCORE_O48 LLMCORE_O44, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define LLMCORE_D52 LLMCORE_D48 ", %48, %49, %50, %51"
#define LLMCORE_O52 LLMCORE_O48, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define LLMCORE_D56 LLMCORE_D52 ", %52, %53, %54, %55"
#define LLMCORE_O56 LLMCORE_O52, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define LLMCORE_D60 LLMCORE_D56 ", %56, %57, %58, %59"
#define LLMCORE_O60 LLMCORE_O56, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define LLMCORE_D64 LLMCORE_D60 ", %60, %61, %62, %63"
#define LLMCORE_O64 LLMCORE_O60, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define LLMCORE_D68 LLMCORE_D64 ", %64, %65, %66, %67"
#define LLMCORE_O68 LLMCORE_O64, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define LLMCORE_D72 LLMCORE_D68 ", %68, %69, %70, %71"
#define LLMCORE_O72 LLMCORE_O68, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define LLMCORE_D76 LLMCORE_D72 ", %72, %73, %74, %75"
#define LLMCORE_O76 LLMCORE_O72, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define LLMCORE_D80 LLMCORE_D76 ", %76, %77, %78, %79"
#define LLMCORE_O80 LLMCORE_O76, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define LLMCORE_D84 LLMCORE_D80 ", %80, %81, %82, %83"
#define LLMCORE_O84 LLMCORE_O80, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define LLMCORE_D88 LLMCORE_D84 ", %84, %85, %86, %87"
#define LLMCORE_O88 LLMCORE_O84, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define LLMCORE_D92 LLMCORE_D88 ", %88, %89, %90, %91"
#define LLMCORE_O92 LLMCORE_O88, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define LLMCORE_D96 LLMCORE_D92 ", %92, %93, %94, %95"
#define LLMCORE_O96 LLMCORE_O92, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define LLMCORE_D100 LLMCORE_D96 ", %96, %97, %98, %99"
#define LLMCORE_O100 LLMCORE_O96, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define LLMCORE_D104 LLMCORE_D100 ", %100, %101, %102, %103"
#define LLMCORE_O104 LLMCORE_O100, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define LLMCORE_D108 LLMCORE_D104 ", %104, %105, %106, %107"
#define LLMCORE_O108 LLMCORE_O104, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define LLMCORE_D112 LLMCORE_D108 ", %108, %109, %110, %111"
#define LLMCORE_O112 LLMCORE_O108, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define LLMCORE_D116 LLMCORE_D112 ", %112, %113, %114, %115"
#define LLMCORE_O116 LLMCORE_O112, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define LLMCORE_D120 LLMCORE_D116 ", %116, %117, %118, %119"
#define LLMCORE_O120 LLMCORE_O116, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define LLMCORE_D124 LLMCORE_D120 ", %120, %121, %122, %123"
#define LLMCORE_O124 LLMCORE_O120, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define LLMCORE_D128 LLMCORE_D124 ", %124, %125, %126, %127"
#define LLMCORE_O128 LLMCORE_O124, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
// N, its accumulators per thread, and the numbers of the operands that follow them.
#define LLMCORE_WGMMA_SIZES(CASE)                     \
    CASE(8, 4, 4, 5, 6, 7, 8, 9, 10)                  \
    CASE(16, 8, 8, 9, 10, 11, 12, 13, 14)             \
    CASE(24, 12, 12, 13, 14, 15, 16, 17, 18)          \
    CASE(32, 16, 16, 17, 18, 19, 20, 21, 22)          \
    CASE(40, 20, 20, 21, 22, 23, 24, 25, 26)          \
    CASE(48, 24, 24, 25, 26, 27, 28, 29, 30)          \
    CASE(56, 28, 28, 29, 30, 31, 32, 33, 34)          \
    CASE(64, 32, 32, 33, 34, 35, 36, 37, 38)          \
    CASE(72, 36, 36, 37, 38, 39, 40, 41, 42)          \
    CASE(80, 40, 40, 41, 42, 43, 44, 45, 46)          \
    CASE(88, 44, 44, 45, 46, 47, 48, 49, 50)          \
    CASE(96, 48, 48, 49, 50, 51, 52, 53, 54)          \
    CASE(104, 52, 52, 53, 54, 55, 56, 57, 58)         \
    CASE(112, 56, 56, 57, 58, 59, 60, 61, 62)         \
    CASE(120, 60, 60, 61, 62, 63, 64, 65, 66)         \
    CASE(128, 64, 64, 65, 66, 67, 68, 69, 70)         \
    CASE(136, 68, 68, 69, 70, 71, 72, 73, 74)         \
    CASE(144, 72, 72, 73, 74, 75, 76, 77, 78)         \
    CASE(152, 76, 76, 77, 78, 79, 80, 81, 82)         \
    CASE(160, 80, 80, 81, 82, 83, 84, 85, 86)         \
    CASE(168, 84, 84, 85, 86, 87, 88, 89, 90)         \
    CASE(176, 88, 88, 89, 90, 91, 92, 93, 94)         \
    CASE(184, 92, 92, 93, 94, 95, 96, 97, 98)         \
    CASE(192, 96, 96, 97, 98, 99, 100, 101, 102)      \
    CASE(200, 100, 100, 101, 102, 103, 104, 105, 106) \
    CASE(208, 104, 104, 105, 106, 107, 108, 109, 110) \
    CASE(216, 108, 108, 109, 110, 111, 112, 113, 114) \
    CASE(224, 112, 112, 113, 114, 115, 116, 117, 118) \
    CASE(232, 116, 116, 117, 118, 119, 120, 121, 122) \
    CASE(240, 120, 120, 121, 122, 123, 124, 125, 126) \
    CASE(248, 124, 124, 125, 126, 127, 128, 129, 130) \
    CASE(256, 128, 128, 129, 130, 131, 132, 133, 134)
#define LLMCORE_WGMMA_SHARED(N, R, p0, p1, p2, p3, p4, p5, p6)                                                  \
    if constexpr (kN == N)                                                                                      \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #p2 ", 0; wgmma.mma_async.sync.aligned.m64n" #N         \
                     "k16.f32.bf16.bf16 {" LLMCORE_D##R "}, %" #p0 ", %" #p1 ", p, 1, 1, %" #p3 ", %" #p4 "; }" \
                     : LLMCORE_O##R                                                                             \
                     : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(kTransposedA)), "n"(int(kTransposedB)));
#define LLMCORE_WGMMA_REGISTERS(N, R, p0, p1, p2, p3, p4, p5, p6)                                            \
    if constexpr (kN == N)                                                                                   \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #p5 ", 0; wgmma.mma_async.sync.aligned.m64n" #N      \
                     "k16.f32.bf16.bf16 {" LLMCORE_D##R "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 \
                                                        ", p, 1, 1, %" #p6 "; }"                             \
                     : LLMCORE_O##R                                                                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)),             \
                       "n"(int(kTransposedB)));
#endif

// Transposed means MN-major: the operand's rows (of M or N), not its k, are contiguous.
template <int kN, bool kTransposedA = false, bool kTransposedB = false>
LLMCORE_DEVICE void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate LLMCORE_AND_WHERE) {
    static_assert(kN >= 8 && kN <= 256 && kN % 8 == 0, "N is a multiple of 8 up to 256");
#if LLMCORE_EMULATE
    emu::wgmma(d, {kN, accumulate, kTransposedA, kTransposedB}, nullptr, a, b, where);
#else
    LLMCORE_WGMMA_SIZES(LLMCORE_WGMMA_SHARED)
#endif
}

// A in registers, always K-major: a[r] are rows 16 (t / 32) + l / 4 + 8 (r % 2), k 2 (l % 4) + 8 (r / 2) and the next,
// so that accumulators packed in pairs are the next product's A.
template <int kN, bool kTransposedB = false>
LLMCORE_DEVICE void wgmma(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate LLMCORE_AND_WHERE) {
    static_assert(kN >= 8 && kN <= 256 && kN % 8 == 0, "N is a multiple of 8 up to 256");
#if LLMCORE_EMULATE
    emu::wgmma(d, {kN, accumulate, false, kTransposedB}, a, 0, b, where);
#else
    LLMCORE_WGMMA_SIZES(LLMCORE_WGMMA_REGISTERS)
#endif
}

}  // namespace llmcore::ptx

#endif
