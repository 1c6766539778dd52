// What a kernel's source is compiled for: a GPU by nvcc, or the emulator by g++ (LLMCORE_EMULATE). Every wrapper in
// this folder is one function with two halves, inline PTX and a call into the emulator, and nothing else in the project
// contains an instruction.
#pragma once

#include <cstdint>

#if LLMCORE_EMULATE
#include "emu/cuda_language.h"
#include "emu/shared_memory.h"
#define LLMCORE_DEVICE inline
// The calling line, as a last argument that only the emulator sees.
#define LLMCORE_WHERE LLMCORE_HERE
#define LLMCORE_AND_WHERE , LLMCORE_HERE
#define LLMCORE_PASS_WHERE , where
#else
#include <cuda_runtime.h>
#define LLMCORE_DEVICE __device__ __forceinline__
#define LLMCORE_WHERE
#define LLMCORE_AND_WHERE
#define LLMCORE_PASS_WHERE
#endif

// True where code for compute capability 9.0a may stand: on that target, in host passes, and in the emulator.
#if LLMCORE_EMULATE || !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LLMCORE_HAS_SM90A 1
#else
#define LLMCORE_HAS_SM90A 0
#endif

namespace llmcore::ptx {

// The same number, though the compiler cannot know it. Inside a loop, what follows from it by a few operations is then
// computed each time and not kept in registers from before the loop.
LLMCORE_DEVICE uint32_t unhoisted(uint32_t x) {
#if !LLMCORE_EMULATE
    asm volatile("" : "+r"(x));
#endif
    return x;
}

}  // namespace llmcore::ptx
