// The check of ids on the device: one block, so that the smallest wrong element is found without atomics. 65536 ids are
// 256 KiB, a few microseconds for one multiprocessor.
#include <algorithm>
#include <mutex>

#include "core/cuda_device.h"
#include "cuda/index_check.h"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "cuda/warp.cuh"

namespace llmcore {
namespace {

constexpr int kMaxThreads = 1024;

__global__ void __launch_bounds__(kMaxThreads)
    check_indices_kernel(IndexFault* fault, const int32_t* ids, int64_t n, IndexRule rule) {
    LLMCORE_SHARED(int64_t[kMaxThreads / 32], firsts);
    int64_t first = n;
#pragma unroll 8
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        const int32_t id = ids[i];
        const bool wrong = (id < 0 || id >= rule.rows) && id != rule.ignored;
        if (wrong && i < first) first = i;
    }
#pragma unroll
    for (int bits = 16; bits; bits /= 2) {
        const int64_t other = __shfl_xor_sync(kAllLanes, first, bits, 32);
        if (other < first) first = other;
    }
    if (threadIdx.x % 32 == 0) firsts[threadIdx.x / 32] = first;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < int(blockDim.x) / 32; ++warp)
        if (firsts[warp] < first) first = firsts[warp];
    // What an earlier check found stays: it is where things went wrong.
    if (first < n && !fault->found) *fault = {true, rule, first, ids[first]};
}

}  // namespace

namespace cuda {

IndexFault* new_index_fault() {
    void* memory = nullptr;
    LLMCORE_CUDA_CHECK(cudaHostAlloc(&memory, sizeof(IndexFault), cudaHostAllocMapped));
    return new (memory) IndexFault{};
}

void throw_index_fault(IndexFault* record) {
    static auto* lock = new std::mutex;  // two threads may wait for one device
    IndexFault fault;
    {
        std::lock_guard guard(*lock);
        fault = *record;
        record->found = false;
    }
    if (fault.found) throw std::out_of_range(fault.rule.sentence(fault.rule, fault.element, fault.value));
}

void check_indices(const int32_t* ids, int64_t n, const IndexRule& rule, int device) {
    if (n == 0) return;
    const Cuda backend = open(device);
    const int64_t threads = std::min<int64_t>((n + 31) / 32 * 32, kMaxThreads);
    launch({dim3(1), dim3(static_cast<unsigned>(threads)), 0, backend.stream}, check_indices_kernel,
           backend.index_fault, ids, n, rule);
}

}  // namespace cuda
}  // namespace llmcore
