// A case: one wrapper (or a few that only make sense together) on random data. The kernels are the same source on a GPU
// and in the emulator; outputs are compared bit by bit, or as floats with a tolerance where hardware rounds in an order
// of its own.
#pragma once

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda/api.h"
#include "cuda/launch.cuh"
#include "record_file.h"
#if LLMCORE_EMULATE
#include "emu/driver_api.h"
#else
#include <cudaTypedefs.h>
#endif

namespace conformance {

// Repeatable on every machine.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
    uint32_t bits() {
        state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
        return static_cast<uint32_t>(state_ >> 24);
    }
    float number() { return static_cast<float>(bits() % 4096) / 2048.0f - 1; }  // in [-1, 1), exact in tf32 and fp16

  private:
    uint64_t state_;
};

struct Case {
    std::string name;
    int capability;    // 80 or 90
    double tolerance;  // of floats, relative to the largest; 0: bit by bit
    size_t input_bytes, output_bytes;
    void (*fill)(Random&, Bytes& input);  // after random bits have been drawn for every byte
    void (*start)(unsigned char* output, const unsigned char* input);  // device memory; the output is 0xff before
};

inline std::vector<Case>& all_cases() {
    static std::vector<Case> cases;
    return cases;
}

void add_warp_cases();
void add_memory_cases();
void add_bulk_cases();
void add_wgmma_cases();

// Device memory that is freed again; the emulator gives each its own allocation.
class DeviceBytes {
  public:
    explicit DeviceBytes(size_t bytes) : bytes_(bytes) { LLMCORE_CUDA_CHECK(cudaMalloc(&memory_, bytes)); }
    ~DeviceBytes() { (void)cudaFree(memory_); }
    DeviceBytes(const DeviceBytes&) = delete;
    DeviceBytes& operator=(const DeviceBytes&) = delete;
    void fill(int byte) { LLMCORE_CUDA_CHECK(cudaMemsetAsync(memory_, byte, bytes_, nullptr)); }
    void put(const Bytes& from) {
        LLMCORE_CUDA_CHECK(cudaMemcpyAsync(memory_, from.data(), from.size(), cudaMemcpyHostToDevice, nullptr));
    }
    Bytes get() const {
        Bytes to(bytes_);
        LLMCORE_CUDA_CHECK(cudaMemcpyAsync(to.data(), memory_, bytes_, cudaMemcpyDeviceToHost, nullptr));
        LLMCORE_CUDA_CHECK(cudaStreamSynchronize(nullptr));
        return to;
    }
    unsigned char* at() const { return static_cast<unsigned char*>(memory_); }

  private:
    void* memory_ = nullptr;
    size_t bytes_;
};

// A map over device memory, by the driver's function; strides are those of a dense tensor.
inline CUtensorMap encode(CUtensorMapDataType type, int element_bytes, const void* base,
                          const std::vector<uint64_t>& sizes, const std::vector<uint32_t>& box,
                          CUtensorMapSwizzle swizzle) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult status = cudaDriverEntryPointSuccess;
    LLMCORE_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &status));
    if (status != cudaDriverEntryPointSuccess) throw std::runtime_error("the driver has no cuTensorMapEncodeTiled");
    std::vector<cuuint64_t> sizes_(sizes.begin(), sizes.end()), strides;
    std::vector<cuuint32_t> box_(box.begin(), box.end()), steps(sizes.size(), 1);
    cuuint64_t stride = cuuint64_t(element_bytes);
    for (uint64_t size : sizes) strides.push_back(stride *= size);
    CUtensorMap map;
    CUresult result = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function)(
        &map, type, static_cast<cuuint32_t>(sizes.size()), const_cast<void*>(base), sizes_.data(), strides.data(),
        box_.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) throw std::runtime_error("cuTensorMapEncodeTiled refuses a map");
    return map;
}

}  // namespace conformance
