// Backend tags. A launcher is a template over its backend; each backend instantiates it in its own folder, so a missing
// kernel is a link error. The CPU sources are compiled once per instruction-set level, each level being its own tag:
// their code therefore never shares a symbol. The levels above AVX-512 only multiply bf16 matrices differently, so only
// matmul.cpp and attention_bf16.cpp are compiled for them; core/dispatch.h runs all else at AVX-512.
#pragma once

#include <cstdint>

struct CUstream_st;  // a cudaStream_t points to it

namespace llmcore {

struct IndexFault;

enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmx };

template <Isa isa>
struct CpuBackend {};

// One device and the stream on which its work is ordered. A launcher chooses its variant and its grid by these numbers
// and by the problem, by nothing else.
struct Cuda {
    CUstream_st* stream;
    int arch;                   // compute capability as one number: 80, 86, 90; less if LLMCORE_ARCH says so
    int multiprocessors;        // for grids that fill the device once
    int shared_bytes;           // the most dynamic shared memory that one block may have
    bool matmul_sm90 = false;   // LLMCORE_MATMUL=sm90: bf16 products by csrc/cuda/matmul_sm90.cu
    bool deterministic = true;  // the same bits from run to run: core/determinism.h
    // In device memory; every kernel that draws from Philox adds it to its offset. 0, except while a captured graph is
    // replayed: its arguments are those of the step that was captured, and this leads from there to the present one.
    const uint64_t* random_shift = nullptr;
    IndexFault* index_fault = nullptr;  // what core/index_check.h found on this device
};

}  // namespace llmcore

// Instantiates a launcher template without spelling its parameters again: LLMCORE_INSTANTIATE(layernorm_forward, Cpu,
// float)
#define LLMCORE_INSTANTIATE(launcher, ...) template decltype(launcher<__VA_ARGS__>) launcher<__VA_ARGS__>;
