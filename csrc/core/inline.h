// Small functions that several instruction-set levels compile must never become a shared symbol: the linker would keep
// one copy, perhaps the AVX-512 one, for all levels. Forced inlining leaves no symbol behind. Under nvcc the same
// functions serve kernels, too, so that Philox and bf16 are one source for both backends.
#pragma once

#if defined(__CUDACC__)
#define LLMCORE_INLINE __host__ __device__ __forceinline__
#else
#define LLMCORE_INLINE inline __attribute__((always_inline))
#endif
