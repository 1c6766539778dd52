#include "emu/tensor_map.h"

#include <string>

namespace llmcore::emu {
namespace {

constexpr uint32_t kMagic = 0x544d4150;

void require(bool condition, const std::string& rule) {
    if (!condition) throw Error("tensor-map", rule);
}

uint8_t bytes_of(TensorType type) {
    return type == TensorType::kUint8 ? 1 : type == TensorType::kFloat32 ? 4 : 2;
}

}  // namespace

CUtensorMap encode_tensor_map(TensorType type, int rank, void* base, const uint64_t* sizes, const uint64_t* strides,
                              const uint32_t* box, Swizzle swizzle) {
    TensorMap map{};
    map.magic = kMagic;
    map.type = type;
    map.element_bytes = bytes_of(type);
    map.base = static_cast<char*>(base);
    require(rank >= 1 && rank <= 5, "the rank is 1 to 5, got " + std::to_string(rank));
    require(reinterpret_cast<uintptr_t>(base) % 16 == 0, "the base address is not a multiple of 16");
    map.rank = static_cast<uint8_t>(rank);
    map.swizzle_mask = swizzle == Swizzle::k128 ? 7 : swizzle == Swizzle::k64 ? 3 : swizzle == Swizzle::k32 ? 1 : 0;
    map.strides[0] = map.element_bytes;
    for (int i = 0; i < rank; ++i) {
        std::string dimension = "dimension " + std::to_string(i) + ": ";
        require(sizes[i] >= 1 && sizes[i] <= uint64_t(1) << 32, dimension + "the size is not 1 to 2^32");
        require(box[i] >= 1 && box[i] <= 256, dimension + "the box is not 1 to 256");
        map.sizes[i] = sizes[i];
        map.box[i] = static_cast<uint16_t>(box[i]);
        if (i == 0) continue;
        require(strides[i - 1] % 16 == 0, dimension + "the stride is not a multiple of 16 bytes");
        require(strides[i - 1] < uint64_t(1) << 40, dimension + "the stride is not below 2^40");
        map.strides[i] = strides[i - 1];
    }
    uint32_t inner = box[0] * map.element_bytes;
    require(inner % 16 == 0, "the box's rows are not a multiple of 16 bytes");
    require(swizzle == Swizzle::kNone || inner <= (map.swizzle_mask + 1u) * 16, "the box's rows exceed the swizzle");
    CUtensorMap result{};
    static_assert(sizeof map <= sizeof result);
    std::memcpy(&result, &map, sizeof map);
    return result;
}

void check_tensor_map(const CUtensorMap* pointer, Location where) {
    if (reinterpret_cast<uintptr_t>(pointer) % 64)
        fail("align", "a tensor map's address is not a multiple of 64", where);
    uint32_t magic;
    std::memcpy(&magic, pointer, sizeof magic);
    if (magic != kMagic) fail("tma", "this is not a tensor map", where);
}

TensorMap decode_tensor_map(const CUtensorMap* pointer, int rank, Location where) {
    check_tensor_map(pointer, where);
    TensorMap map;
    std::memcpy(&map, pointer, sizeof map);
    if (map.rank != rank)
        fail("tma", "the map has rank " + std::to_string(map.rank) + ", the instruction " + std::to_string(rank),
             where);
    return map;
}

}  // namespace llmcore::emu
