#include <string>

#include "emu/driver_api.h"
#include "emu/host_state.h"

namespace llmcore::emu {
namespace {

thread_local std::string last_tensor_map_error;

CUtensorMap encode(CUtensorMapDataType type, int rank, void* base, const uint64_t* sizes, const uint64_t* strides,
                   const uint32_t* box, const uint32_t* element_strides, CUtensorMapSwizzle swizzle) {
    for (int i = 0; i < rank && i < 5; ++i)
        if (element_strides[i] != 1) throw Error("tensor-map", "element strides other than 1 are not emulated");
    TensorType element = type == CU_TENSOR_MAP_DATA_TYPE_UINT8     ? TensorType::kUint8
                         : type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 ? TensorType::kFp16
                         : type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? TensorType::kFloat32
                                                                   : TensorType::kBf16;
    Swizzle pattern = swizzle == CU_TENSOR_MAP_SWIZZLE_128B  ? Swizzle::k128
                      : swizzle == CU_TENSOR_MAP_SWIZZLE_64B ? Swizzle::k64
                      : swizzle == CU_TENSOR_MAP_SWIZZLE_32B ? Swizzle::k32
                                                             : Swizzle::kNone;
    return encode_tensor_map(element, rank, base, sizes, strides, box, pattern);
}

}  // namespace

const char* tensor_map_error() {
    return last_tensor_map_error.c_str();
}

}  // namespace llmcore::emu

using namespace llmcore::emu;

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* element_strides, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    try {
        if (reinterpret_cast<uintptr_t>(map) % 64 != 0)
            throw Error("tensor-map", "the map's own address is not a multiple of 64");
        *map = encode(type, static_cast<int>(rank), base, sizes, strides, box, element_strides, swizzle);
        return CUDA_SUCCESS;
    } catch (const Error& error) {
        last_tensor_map_error = error.what();
        return CUDA_ERROR_INVALID_VALUE;
    }
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
    *function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    if (std::string(symbol) == "cuTensorMapEncodeTiled") {
        result = version >= 12000 ? cudaDriverEntryPointSuccess : cudaDriverEntryPointVersionNotSufficent;
        if (version >= 12000) *function = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
    }
    if (status != nullptr) *status = result;
    return cudaSuccess;
}
