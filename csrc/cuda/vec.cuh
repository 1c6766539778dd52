// Sixteen bytes at a time between global memory and registers, as floats: what memory-bound kernels are made of.
// Addresses are multiples of 16, which the emulator checks at each access.
//
//   float x[kPerVector<T>];                   8 values of bf16, 4 of float
//   load_vector(x, row + i);                  ...<ptx::Cache::kStreaming>(...) for what is read once
//   store_vector(row + i, x);
#pragma once

#include <cstring>

#include "core/bf16.h"
#include "cuda/arch/global.cuh"

namespace llmcore {

template <class T>
constexpr int kPerVector = 16 / int(sizeof(T));

// The two values of a word of bf16: the lower half is the first in memory.
LLMCORE_DEVICE void unpack(const ptx::Words& words, float (&values)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t low = words.word[i] << 16, high = words.word[i] & 0xffff0000u;
        memcpy(&values[2 * i], &low, 4);
        memcpy(&values[2 * i + 1], &high, 4);
    }
}

LLMCORE_DEVICE void unpack(const ptx::Words& words, float (&values)[4]) {
    memcpy(values, words.word, 16);
}

LLMCORE_DEVICE ptx::Words pack(const float (&values)[8]) {
    ptx::Words words;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        words.word[i] = to_bf16(values[2 * i]).bits | uint32_t(to_bf16(values[2 * i + 1]).bits) << 16;
    return words;
}

LLMCORE_DEVICE ptx::Words pack(const float (&values)[4]) {
    ptx::Words words;
    memcpy(words.word, values, 16);
    return words;
}

template <ptx::Cache kCache = ptx::Cache::kNormal, class T>
LLMCORE_DEVICE void load_vector(float (&values)[kPerVector<T>], const T* source LLMCORE_AND_WHERE) {
    unpack(ptx::load_words<kCache>(source LLMCORE_PASS_WHERE), values);
}

// bf16 to nearest, ties to even.
template <ptx::Cache kCache = ptx::Cache::kNormal, class T>
LLMCORE_DEVICE void store_vector(T* destination, const float (&values)[kPerVector<T>] LLMCORE_AND_WHERE) {
    ptx::store_words<kCache>(destination, pack(values) LLMCORE_PASS_WHERE);
}

}  // namespace llmcore
