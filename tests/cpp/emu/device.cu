// The kernels of these tests for nvcc: the device half of every wrapper has to compile, too. Nothing here runs.
#include "cuda/arch/barrier.cuh"
#include "cuda/arch/cluster.cuh"
#include "cuda/arch/cp_async.cuh"
#include "cuda/arch/matrix.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/launch.cuh"
#include "gemm_mma_kernel.cuh"
#include "gemm_wgmma_kernel.cuh"
#include "layernorm_kernels.cuh"

namespace llmcore {

template <int kCount, bool kTransposed>
LLMCORE_DEVICE uint32_t matrices(uint32_t shared) {
    uint32_t r[kCount], sum = 0;
    ptx::ldmatrix<kCount, kTransposed>(r, shared);
#if LLMCORE_HAS_SM90A
    ptx::stmatrix<kCount, kTransposed>(shared, r);
#endif
    for (uint32_t value : r) sum += value;
    return sum;
}

// Every wrapper that no kernel of the tests uses.
__global__ void wrappers(float* out, const float* in) {
    uint32_t shared = shared_address(shared_memory<char>());
    ptx::bar_arrive(1, 64);
    ptx::bar_sync(2, 64);
    ptx::cp_async<4>(shared, in, 4);
    ptx::cp_async<8>(shared, in, 8);
    uint32_t a[4] = {};
    a[0] = matrices<1, false>(shared) + matrices<1, true>(shared);
    a[1] = matrices<2, false>(shared) + matrices<2, true>(shared);
    a[2] = matrices<4, false>(shared) + matrices<4, true>(shared);
    float d[4] = {};
    ptx::mma_fp16(d, a, a);
    ptx::mma_tf32(d, a, a);
#if LLMCORE_HAS_SM90A
    ptx::mbarrier_init(shared, 1);
    ptx::fence_mbarrier_init();
    ptx::fence_proxy_async();
    ptx::cluster_sync();
    ptx::mbarrier_arrive(shared);
    ptx::mbarrier_arrive_expect(shared, 64);
    ptx::mbarrier_arrive_at(shared, ptx::cluster_rank() ^ 1);
    ptx::mbarrier_wait(shared, 0);
#endif
    out[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}

// One form to a kernel: two wide ones in flight would not fit the registers.
template <int kN, bool kTransposedA, bool kTransposedB, bool kRegisters>
__global__ void __launch_bounds__(128, 1) product(float* out) {
#if LLMCORE_HAS_SM90A
    const uint64_t a = ptx::operand(shared_address(shared_memory<char>()), 16, 1024, ptx::OperandSwizzle::k64);
    float d[kN / 2];
    const uint32_t registers[4] = {1, 2, 3, 4};
    ptx::wgmma_fence();
    if constexpr (kRegisters)
        ptx::wgmma<kN, kTransposedB>(d, registers, a, false);
    else
        ptx::wgmma<kN, kTransposedA, kTransposedB>(d, a, a, false);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    for (int i = 0; i < kN / 2; ++i) out[threadIdx.x * kN / 2 + i] = d[i];
#endif
}

__global__ void bulk_copies(const __grid_constant__ CUtensorMap map, float* out) {
#if LLMCORE_HAS_SM90A
    const uint32_t shared = shared_address(shared_memory<char>());
    ptx::tma_load(shared, &map, shared, {1});
    ptx::tma_load(shared, &map, shared, {1, 2, 3});
    ptx::tma_load(shared, &map, shared, {1, 2, 3, 4});
    ptx::tma_store(&map, shared, {1});
    ptx::tma_store(&map, shared, {1, 2, 3});
    ptx::tma_store(&map, shared, {1, 2, 3, 4});
    ptx::tma_reduce_add(&map, shared, {1, 2});
    ptx::bulk_load(shared, out, 64, shared);
    ptx::bulk_store(out, shared, 64);
    ptx::bulk_reduce_add(out, shared, 64);
    ptx::bulk_commit();
    ptx::bulk_wait<0>();
#endif
}

void start_all(float* y, const float* x) {
    launch({1, 128}, layernorm_by_warp<4>, y, x, 1, 8);
    launch({1, 128}, layernorm_by_block<4>, y, x, 8);
    launch({2, 128, 64 * 1024, nullptr, 2}, wrappers, y, x);
    launch({1, 128, kGemmMmaShared}, gemm_mma, y, static_cast<const uint16_t*>(nullptr),
           static_cast<const uint16_t*>(nullptr), 64, 64, 64);
    CUtensorMap map{};
    launch({1, 128, 64 * 1024}, product<8, false, false, false>, y);
    launch({1, 128, 64 * 1024}, product<64, true, true, false>, y);
    launch({1, 128, 64 * 1024}, product<192, false, true, true>, y);
    launch({1, 128, 64 * 1024}, product<256, true, false, false>, y);
    launch({1, 128, 64 * 1024}, bulk_copies, map, y);
    launch({1, 384, kGemmWgmmaShared}, gemm_wgmma<false, false, 1, false>, y, map, map, map, 1, 1, 1);
    launch({1, 384, kGemmWgmmaShared}, gemm_wgmma<true, true, 1, true>, y, map, map, map, 1, 1, 1);
    launch({2, 384, kGemmWgmmaShared, nullptr, 2}, gemm_wgmma<false, true, 2, false>, y, map, map, map, 1, 1, 1);
    launch({2, 384, kGemmWgmmaShared, nullptr, 2}, gemm_wgmma<true, true, 2, false>, y, map, map, map, 1, 1, 1);
}

}  // namespace llmcore
