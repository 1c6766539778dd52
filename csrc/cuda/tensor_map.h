// Tensor maps, by which TMA knows a tensor in global memory. Encoded on the host, passed to kernels by value.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#if LLMCORE_EMULATE
#include "emu/tensor_map.h"
#else
#include <cuda.h>
#endif

namespace llmcore {

// bf16 of sizes[0] (contiguous) x sizes[1] x sizes[2]; steps[i] elements from one index of dimension i + 1 to the next.
// A load or store takes box[0] x box[1] x box[2] in swizzled lines of 128 bytes, or of 64 where box[0] is 32: box[0] is
// 32 or 64. data and steps are multiples of 16 bytes. Throws std::runtime_error if the driver refuses.
CUtensorMap bf16_tensor_map(const bf16* data, const int64_t (&sizes)[3], const int64_t (&steps)[2],
                            const uint32_t (&box)[3]);

// The same of floats: box[0] is 32 or 16.
CUtensorMap float_tensor_map(const float* data, const int64_t (&sizes)[3], const int64_t (&steps)[2],
                             const uint32_t (&box)[3]);

// How many maps were made so far: what has been asked for before comes from a cache of fixed size, which threads share.
uint64_t encoded_tensor_maps();

}  // namespace llmcore
