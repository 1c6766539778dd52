#include "cuda/tensor_map.h"

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

}  // namespace

CUtensorMap bf16_tensor_map(const bf16* data, const int64_t (&sizes)[3], const int64_t (&steps)[2],
                            const uint32_t (&box)[3]) {
    static const Encode encode = find_encode();
    cuuint64_t dimensions[3], strides[2];
    for (int i = 0; i < 3; ++i) dimensions[i] = static_cast<cuuint64_t>(sizes[i]);
    for (int i = 0; i < 2; ++i) strides[i] = static_cast<cuuint64_t>(steps[i]) * sizeof(bf16);
    const cuuint32_t every_element[3] = {1, 1, 1};
    CUtensorMap map;
    const CUresult result =
        encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<bf16*>(data), dimensions, strides, box,
               every_element, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        throw std::runtime_error(concat("cuTensorMapEncodeTiled: CUresult ", static_cast<int>(result), " for (",
                                        sizes[2], ", ", sizes[1], ", ", sizes[0], ") bfloat16"));
    return map;
}

}  // namespace llmcore
