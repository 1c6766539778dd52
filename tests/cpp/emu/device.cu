// The kernels of these tests for nvcc: the device half of every wrapper has to compile, too. Nothing here runs.
#include "cuda/arch/barrier.cuh"
#include "cuda/arch/cluster.cuh"
#include "cuda/arch/collective.cuh"
#include "cuda/arch/cp_async.cuh"
#include "cuda/arch/global.cuh"
#include "cuda/arch/grid.cuh"
#include "cuda/arch/matrix.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/launch.cuh"
#include "cuda/vec.cuh"
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
    ptx::cp_async<16, true>(shared, in, 16);
    ptx::cp_async(shared, in, 16, ptx::cache_policy<ptx::Evict::kFirst>());
    ptx::cp_async_wait_all();
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

template <class T, ptx::Cache kLoad, ptx::Cache kStore>
LLMCORE_DEVICE void copy_vector(T* out, const T* in) {
    float values[kPerVector<T>];
    load_vector<kLoad>(values, in);
    store_vector<kStore>(out, values);
}

__global__ void memory(float* out, const float* in, bf16* out_half, const bf16* in_half, uint32_t* words) {
    using ptx::Cache;
    copy_vector<float, Cache::kNormal, Cache::kNormal>(out, in);
    copy_vector<float, Cache::kStreaming, Cache::kStreaming>(out + 4, in + 4);
    copy_vector<bf16, Cache::kNoAllocate, Cache::kNormal>(out_half, in_half);
    while (ptx::load_acquire(words) != blockIdx.x) {
    }
    ptx::add_relaxed(out + 8, 1.0f);
    ptx::store_release(words, 1);
    ptx::add_release(words, 1);
    words[1] = ptx::add_acquire_release(words, 1);
    words[2] =
        ptx::reduce_lanes<ptx::Reduce::kAdd>(~0u, words[3]) + ptx::reduce_lanes<ptx::Reduce::kMin>(~0u, words[4]);
    words[5] = uint32_t(ptx::reduce_lanes<ptx::Reduce::kMax>(~0u, int(words[6])));
    words[7] = ptx::reduce_lanes<ptx::Reduce::kAnd>(~0u, words[8]) +
               ptx::reduce_lanes<ptx::Reduce::kOr>(~0u, words[9]) +
               ptx::reduce_lanes<ptx::Reduce::kXor>(~0u, words[10]);
#if LLMCORE_HAS_SM90A
    ptx::allow_next_kernel();
    ptx::wait_for_previous_kernel();
    if (ptx::elect_one()) words[11] = 1;
#endif
}

__global__ void cluster_memory(float* out) {
#if LLMCORE_HAS_SM90A
    const uint32_t shared = shared_address(shared_memory<char>());
    const uint32_t other = ptx::map_to_rank(shared, (ptx::cluster_rank() + 1) % ptx::cluster_size());
    ptx::store_cluster(other, 1.0f);
    ptx::store_cluster4(other, ptx::load_cluster4(other + 16));
    ptx::store_async_cluster(other, 2.0f, other + 64);
    ptx::bulk_copy_to_cluster(other, shared, 64, other + 64);
    ptx::cp_async_arrive(shared + 64);
    ptx::mbarrier_expect(shared + 64, 16);
    ptx::mbarrier_invalidate(shared + 64);
    out[0] = ptx::load_cluster(other);
#endif
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
    const ptx::CachePolicy policy = ptx::cache_policy<ptx::Evict::kLast>();
    ptx::prefetch_tensor_map(&map);
    ptx::tma_load(shared, &map, shared, {1, 2}, policy);
    ptx::bulk_load(shared, out, 64, shared, ptx::cache_policy<ptx::Evict::kNormal>());
    ptx::tma_load_multicast(shared, &map, shared, {1, 2, 3}, 3);
    ptx::tma_reduce_add(&map, shared, {1});
    ptx::tma_reduce_add(&map, shared, {1, 2, 3});
    ptx::tma_reduce_add(&map, shared, {1, 2, 3, 4});
    ptx::bulk_commit();
    ptx::bulk_wait_read<0>();
#endif
}

// Every N, with A in shared memory and in registers; the majors are immediates of the same instruction.
template <int... kIndex>
void launch_products(float* y, std::integer_sequence<int, kIndex...>) {
    (launch({1, 128, 64 * 1024}, product<8 * (kIndex + 1), kIndex % 2 == 1, kIndex % 4 >= 2, false>, y), ...);
    (launch({1, 128, 64 * 1024}, product<8 * (kIndex + 1), false, kIndex % 2 == 1, true>, y), ...);
}

void start_all(float* y, const float* x) {
    launch({1, 128}, layernorm_by_warp<4>, y, x, 1, 8);
    launch({1, 128}, layernorm_by_block<4>, y, x, 8);
    launch({2, 128, 64 * 1024, nullptr, 2}, wrappers, y, x);
    launch({1, 128, kGemmMmaShared}, gemm_mma, y, static_cast<const uint16_t*>(nullptr),
           static_cast<const uint16_t*>(nullptr), 64, 64, 64);
    CUtensorMap map{};
    launch_products(y, std::make_integer_sequence<int, 32>{});
    launch({1, 32, 0, nullptr, 1, true, true}, memory, y, x, static_cast<bf16*>(nullptr),
           static_cast<const bf16*>(nullptr), static_cast<uint32_t*>(nullptr));
    launch({2, 32, 1024, nullptr, 2}, cluster_memory, y);
    launch({1, 128, 64 * 1024}, bulk_copies, map, y);
    launch({1, 384, kGemmWgmmaShared}, gemm_wgmma<false, false, 1, false>, y, map, map, map, 1, 1, 1);
    launch({1, 384, kGemmWgmmaShared}, gemm_wgmma<true, true, 1, true>, y, map, map, map, 1, 1, 1);
    launch({2, 384, kGemmWgmmaShared, nullptr, 2}, gemm_wgmma<false, true, 2, false>, y, map, map, map, 1, 1, 1);
    launch({2, 384, kGemmWgmmaShared, nullptr, 2}, gemm_wgmma<true, true, 2, false>, y, map, map, map, 1, 1, 1);
}

}  // namespace llmcore
