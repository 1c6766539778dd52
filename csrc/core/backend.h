// Backend tags. A launcher is a template over its backend; each backend instantiates it in its own folder, so a missing
// kernel is a link error. The CPU sources are compiled once per instruction-set level, each level being its own tag:
// their code therefore never shares a symbol. The levels above AVX-512 only multiply bf16 matrices differently, so only
// csrc/cpu/matmul.cpp is compiled for them; core/dispatch.h runs all else at AVX-512.
#pragma once

namespace llmcore {

enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmx };

template <Isa isa>
struct CpuBackend {};

}  // namespace llmcore

// Instantiates a launcher template without spelling its parameters again: LLMCORE_INSTANTIATE(layernorm_forward, Cpu,
// float)
#define LLMCORE_INSTANTIATE(launcher, ...) template decltype(launcher<__VA_ARGS__>) launcher<__VA_ARGS__>;
