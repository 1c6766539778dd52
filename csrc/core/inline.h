// Small functions that several instruction-set levels compile must never become a shared symbol: the linker would keep
// one copy, perhaps the AVX-512 one, for all levels. Forced inlining leaves no symbol behind.
#pragma once

#define LLMCORE_INLINE inline __attribute__((always_inline))
