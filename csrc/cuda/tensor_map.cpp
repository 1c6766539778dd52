#include "cuda/tensor_map.h"

#include <array>
#include <mutex>
#include <string>

#include "cuda/api.h"
#if LLMCORE_EMULATE
#include "emu/driver_api.h"
#else
#include <cudaTypedefs.h>
#endif

namespace llmcore {
namespace {

using Encode = PFN_cuTensorMapEncodeTiled_v12000;

// Asked of the driver at run time, so that the library loads where there is none.
Encode find_encode() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    LLMCORE_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
        throw std::runtime_error("cuTensorMapEncodeTiled: the CUDA driver has no such function; it is older than 12.0");
    return reinterpret_cast<Encode>(function);
}

enum class Element { kBf16, kFloat };

struct MapKey {
    const void* data = nullptr;
    Element element = Element::kBf16;
    std::array<int64_t, 3> sizes{};
    std::array<int64_t, 2> steps{};
    std::array<uint32_t, 3> box{};
    bool operator==(const MapKey&) const = default;
};

// A map says nothing of what lies in memory, so one that was made for an address stays right, whatever the address is
// used for since. A training step asks for the same few hundred maps again and again.
struct MapCache {
    static constexpr size_t kPlaces = 1024;  // a map whose place is taken by another replaces it
    std::mutex lock;
    std::array<MapKey, kPlaces> keys;
    std::array<CUtensorMap, kPlaces> maps;
    uint64_t encoded = 0;

    static size_t place_of(const MapKey& key) {
        uint64_t hash = reinterpret_cast<uintptr_t>(key.data);
        auto mix = [&](uint64_t value) {
            hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
            hash ^= hash >> 32;
        };
        mix(static_cast<uint64_t>(key.element));
        for (int64_t size : key.sizes) mix(static_cast<uint64_t>(size));
        for (int64_t step : key.steps) mix(static_cast<uint64_t>(step));
        for (uint32_t edge : key.box) mix(edge);
        return hash % kPlaces;
    }
};

MapCache& map_cache() {
    static auto* cache = new MapCache;
    return *cache;
}

CUtensorMap encode_map(const MapKey& key) {
    static const Encode encode = find_encode();
    const bool is_float = key.element == Element::kFloat;
    const uint32_t bytes = is_float ? sizeof(float) : sizeof(bf16);
    cuuint64_t dimensions[3], strides[2];
    for (size_t i = 0; i < 3; ++i) dimensions[i] = static_cast<cuuint64_t>(key.sizes[i]);
    for (size_t i = 0; i < 2; ++i) strides[i] = static_cast<cuuint64_t>(key.steps[i]) * bytes;
    const cuuint32_t every_element[3] = {1, 1, 1};
    const CUtensorMapSwizzle swizzle = key.box[0] * bytes > 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
    CUtensorMap map;
    const CUresult result = encode(&map, is_float ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                                   3, const_cast<void*>(key.data), dimensions, strides, key.box.data(), every_element,
                                   CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        throw std::runtime_error(concat("cuTensorMapEncodeTiled: CUresult ", static_cast<int>(result), " for (",
                                        key.sizes[2], ", ", key.sizes[1], ", ", key.sizes[0], ") ",
                                        is_float ? "float32" : "bfloat16"));
    return map;
}

CUtensorMap tensor_map_of(const MapKey& key) {
    MapCache& cache = map_cache();
    const size_t place = MapCache::place_of(key);
    std::lock_guard guard(cache.lock);
    if (!(cache.keys[place] == key)) {
        cache.maps[place] = encode_map(key);  // throws before the key is written
        cache.keys[place] = key;
        ++cache.encoded;
    }
    return cache.maps[place];
}

}  // namespace

CUtensorMap bf16_tensor_map(const bf16* data, const int64_t (&sizes)[3], const int64_t (&steps)[2],
                            const uint32_t (&box)[3]) {
    return tensor_map_of({data, Element::kBf16, std::to_array(sizes), std::to_array(steps), std::to_array(box)});
}

CUtensorMap float_tensor_map(const float* data, const int64_t (&sizes)[3], const int64_t (&steps)[2],
                             const uint32_t (&box)[3]) {
    return tensor_map_of({data, Element::kFloat, std::to_array(sizes), std::to_array(steps), std::to_array(box)});
}

uint64_t encoded_tensor_maps() {
    MapCache& cache = map_cache();
    std::lock_guard guard(cache.lock);
    return cache.encoded;
}

}  // namespace llmcore
