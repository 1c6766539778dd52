// Tensor maps: how TMA sees a tensor of up to five dimensions, of which it copies boxes. CUtensorMap is opaque to
// kernels; the emulator keeps its own structure inside, and encoding makes every check that the driver makes.
#pragma once

#include <cstdint>
#include <cstring>

#include "emu/error.h"

struct alignas(64) CUtensorMap {
    uint64_t opaque[16];
};

namespace llmcore::emu {

enum class TensorType { kUint8, kBf16, kFp16, kFloat32 };
enum class Swizzle { kNone, k32, k64, k128 };

// sizes, strides in bytes (strides[0] is the second dimension's) and box innermost first. Throws Error("tensor-map")
// with the rule that is broken.
CUtensorMap encode_tensor_map(TensorType type, int rank, void* base, const uint64_t* sizes, const uint64_t* strides,
                              const uint32_t* box, Swizzle swizzle);

struct TensorMap {
    uint32_t magic;
    uint8_t rank, element_bytes, swizzle_mask;
    TensorType type;
    char* base;
    uint64_t sizes[5], strides[5];
    uint16_t box[5];
};

void check_tensor_map(const CUtensorMap* map, Location where);  // a map of any rank
TensorMap decode_tensor_map(const CUtensorMap* map, int rank, Location where);

// Swizzling XORs the number of a 16-byte chunk with the 128-byte line's: address bits 4 to 6 with bits 7 to 9, as many
// as the mask has.
inline uint32_t swizzle_address(uint32_t address, uint32_t mask) {
    return address ^ (address >> 7 & mask) << 4;
}

// body(shared address, global pointer or null, first valid byte, valid bytes) for each 16-byte chunk of the box at
// `coordinates`; what lies outside the tensor is not valid.
template <class Body>
void for_chunks(const TensorMap& map, const int* coordinates, uint32_t shared, Body body) {
    const uint32_t row_bytes = uint32_t(map.box[0]) * map.element_bytes;
    int64_t rows = 1;
    for (int i = 1; i < map.rank; ++i) rows *= map.box[i];
    for (int64_t row = 0; row < rows; ++row) {
        bool inside = true;
        char* source = map.base;
        int64_t rest = row;
        for (int i = 1; i < map.rank; ++i) {
            int64_t x = coordinates[i] + rest % map.box[i];
            rest /= map.box[i];
            inside &= x >= 0 && uint64_t(x) < map.sizes[i];
            source += x * int64_t(map.strides[i]);
        }
        const int64_t per_chunk = 16 / map.element_bytes;
        for (uint32_t offset = 0; offset < row_bytes; offset += 16) {
            uint32_t address = swizzle_address(shared + uint32_t(row) * row_bytes + offset, map.swizzle_mask);
            int64_t x = coordinates[0] + offset / map.element_bytes;
            int64_t first = x < 0 ? -x : 0, last = int64_t(map.sizes[0]) - x;
            if (last > per_chunk) last = per_chunk;
            if (inside && last > first)
                body(address, source + (x + first) * map.element_bytes, int(first) * map.element_bytes,
                     int(last - first) * map.element_bytes);
            else
                body(address, static_cast<char*>(nullptr), 0, 0);
        }
    }
}

}  // namespace llmcore::emu
