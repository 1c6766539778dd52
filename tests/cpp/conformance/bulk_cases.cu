// TMA and plain bulk copies: every rank, every swizzle, boxes that hang over the tensor's edges.
#include "case.h"
#include "cuda/arch/cluster.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/shared.cuh"

namespace conformance {
namespace {

using namespace llmcore;

struct Place {
    int at[4];
};

#if LLMCORE_HAS_SM90A
LLMCORE_DEVICE void copy_out(unsigned char* out, const unsigned char* shared, int bytes) {
    for (int i = int(threadIdx.x); i < bytes; i += 32) out[i] = shared[i];
}
#endif

// Loads the box twice, with and without a hint.
template <int kRank>
__global__ void load(unsigned char* out, const __grid_constant__ CUtensorMap map, Place place, int bytes) {
#if LLMCORE_HAS_SM90A
    LLMCORE_SHARED(uint64_t, word);
    unsigned char* shared = shared_memory<unsigned char>();
    const uint32_t barrier = shared_address(&word), to = shared_address(shared);
    int c[kRank];
    for (int i = 0; i < kRank; ++i) c[i] = place.at[i];
    if (threadIdx.x == 0) {
        ptx::prefetch_tensor_map(&map);
        ptx::mbarrier_init(barrier, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect(barrier, uint32_t(2 * bytes));
        ptx::tma_load(to, &map, barrier, c);
        ptx::tma_load(to + 4096, &map, barrier, c, ptx::cache_policy<ptx::Evict::kLast>());
    }
    __syncwarp();
    ptx::mbarrier_wait(barrier, 0);
    copy_out(out, shared, bytes);
    copy_out(out + bytes, shared + 4096, bytes);
#endif
}

template <int kRank, bool kAdd>
__global__ void store(const unsigned char* in, const __grid_constant__ CUtensorMap map, Place place, int bytes) {
#if LLMCORE_HAS_SM90A
    unsigned char* shared = shared_memory<unsigned char>();
    int c[kRank];
    for (int i = 0; i < kRank; ++i) c[i] = place.at[i];
    for (int i = int(threadIdx.x); i < bytes; i += 32) shared[i] = in[i];
    ptx::fence_proxy_async();
    __syncwarp();
    if (threadIdx.x != 0) return;
    if constexpr (kAdd)
        ptx::tma_reduce_add(&map, shared_address(shared), c);
    else
        ptx::tma_store(&map, shared_address(shared), c);
    ptx::bulk_commit();
    ptx::bulk_wait_read<0>();
    ptx::bulk_wait<0>();
#endif
}

template <int kRank>
__global__ void multicast(unsigned char* out, const __grid_constant__ CUtensorMap map, Place place, int bytes) {
#if LLMCORE_HAS_SM90A
    LLMCORE_SHARED(uint64_t, word);
    unsigned char* shared = shared_memory<unsigned char>();
    const uint32_t barrier = shared_address(&word), rank = ptx::cluster_rank();
    int c[kRank];
    for (int i = 0; i < kRank; ++i) c[i] = place.at[i];
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(barrier, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect(barrier, uint32_t(bytes));
    }
    ptx::cluster_sync();
    if (rank == 1 && threadIdx.x == 0) ptx::tma_load_multicast(shared_address(shared), &map, barrier, c, 3);
    ptx::mbarrier_wait(barrier, 0);
    copy_out(out + rank * uint32_t(bytes), shared, bytes);
    ptx::cluster_sync();
#endif
}

__global__ void plain(unsigned char* out, const unsigned char* in) {
#if LLMCORE_HAS_SM90A
    LLMCORE_SHARED(uint64_t, word);
    unsigned char* shared = shared_memory<unsigned char>();
    const uint32_t barrier = shared_address(&word), to = shared_address(shared);
    float* sums = reinterpret_cast<float*>(out + 512);
    ptx::mbarrier_init(barrier, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect(barrier, 512);
    ptx::bulk_load(to, in, 256, barrier);
    ptx::bulk_load(to + 256, in + 256, 256, barrier, ptx::cache_policy<ptx::Evict::kNormal>());
    ptx::mbarrier_wait(barrier, 0);
    ptx::bulk_store(out, to, 512);
    ptx::bulk_reduce_add(sums, to, 256);
    ptx::bulk_reduce_add(sums, to + 256, 256);
    ptx::bulk_commit();
    ptx::bulk_wait<0>();
#endif
}

__global__ void zero(float* floats) {
    floats[threadIdx.x] = 0;
}

// The tensors: sizes and boxes whose rows are multiples of 16 bytes for elements of 2 bytes and of 4.
constexpr uint64_t kSizes[4] = {72, 10, 4, 3};
constexpr uint32_t kBoxes[4] = {16, 4, 2, 2};

template <int kRank>
CUtensorMap map_of(const void* base, CUtensorMapDataType type, int element_bytes, CUtensorMapSwizzle swizzle,
                   uint32_t inner = 16) {
    std::vector<uint64_t> sizes(kSizes, kSizes + kRank);
    std::vector<uint32_t> box(kBoxes, kBoxes + kRank);
    box[0] = inner;
    return encode(type, element_bytes, base, sizes, box, swizzle);
}

template <int kRank>
constexpr int elements_of_tensor() {
    int n = 1;
    for (int i = 0; i < kRank; ++i) n *= int(kSizes[i]);
    return n;
}

template <int kRank>
constexpr int elements_of_box(int inner = 16) {
    int n = inner;
    for (int i = 1; i < kRank; ++i) n *= int(kBoxes[i]);
    return n;
}

// Over an edge in each dimension: the first one's end, the second one's start, ...
constexpr Place kPlace{{64, -1, 3, -1}};

template <int kRank, CUtensorMapSwizzle kSwizzle, int kInner>
void start_load(unsigned char* out, const unsigned char* in) {
    launch({1, 32, 8192}, load<kRank>, out, map_of<kRank>(in, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, kSwizzle, kInner),
           kPlace, elements_of_box<kRank>(kInner) * 2);
}

template <int kRank, CUtensorMapSwizzle kSwizzle, int kInner>
void add_load(const std::string& name) {
    all_cases().push_back({name, 90, 0, size_t(elements_of_tensor<kRank>()) * 2,
                           size_t(elements_of_box<kRank>(kInner)) * 4, nullptr, start_load<kRank, kSwizzle, kInner>});
}

// Input: the box. Output: the tensor, of which only the box is not 0xff; for additions zeros are stored there first.
template <int kRank>
void start_store(unsigned char* out, const unsigned char* in) {
    launch({1, 32, 4096}, store<kRank, false>, in,
           map_of<kRank>(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, CU_TENSOR_MAP_SWIZZLE_32B), kPlace,
           elements_of_box<kRank>() * 2);
}

template <int kRank, CUtensorMapDataType kType, int kBytes>
void start_add(unsigned char* out, const unsigned char* in) {
    LLMCORE_CUDA_CHECK(cudaMemsetAsync(out, 0, size_t(elements_of_tensor<kRank>()) * kBytes, nullptr));
    CUtensorMap map = map_of<kRank>(out, kType, kBytes, CU_TENSOR_MAP_SWIZZLE_NONE);
    for (int i = 0; i < 2; ++i)  // the second time onto numbers
        launch({1, 32, 4096}, store<kRank, true>, in, map, kPlace, elements_of_box<kRank>() * kBytes);
}

void fill_floats(Random& random, Bytes& input) {
    for (size_t i = 0; i < input.size(); i += 4) {
        float value = random.number();
        memcpy(&input[i], &value, 4);
    }
}

void fill_bf16(Random& random, Bytes& input) {  // eight bits of mantissa, so that twice a number is exact
    for (size_t i = 0; i < input.size(); i += 2) {
        float value = random.number();
        uint32_t bits;
        memcpy(&bits, &value, 4);
        bits >>= 16;
        memcpy(&input[i], &bits, 2);
    }
}

void fill_fp16(Random& random, Bytes& input) {
    for (size_t i = 0; i < input.size(); i += 2) {
        uint32_t bits = 0x3800 + random.bits() % 0x800;  // 0.5 to 2
        memcpy(&input[i], &bits, 2);
    }
}

template <int kRank>
void add_stores(const std::string& rank) {
    std::vector<Case>& cases = all_cases();
    const size_t tensor = size_t(elements_of_tensor<kRank>()), box = size_t(elements_of_box<kRank>());
    cases.push_back({"tma store, " + rank, 90, 0, box * 2, tensor * 2, nullptr, start_store<kRank>});
    cases.push_back({"tma reduce-add float, " + rank, 90, 0, box * 4, tensor * 4, fill_floats,
                     start_add<kRank, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4>});
    cases.push_back({"tma reduce-add bf16, " + rank, 90, 0, box * 2, tensor * 2, fill_bf16,
                     start_add<kRank, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2>});
    cases.push_back({"tma reduce-add fp16, " + rank, 90, 0, box * 2, tensor * 2, fill_fp16,
                     start_add<kRank, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2>});
    cases.push_back({"tma multicast, " + rank, 90, 0, tensor * 2, box * 4, nullptr,
                     [](unsigned char* out, const unsigned char* in) {
                         launch({2, 32, 4096, nullptr, 2}, multicast<kRank>, out,
                                map_of<kRank>(in, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, CU_TENSOR_MAP_SWIZZLE_NONE),
                                kPlace, elements_of_box<kRank>() * 2);
                     }});
}

void start_plain(unsigned char* out, const unsigned char* in) {
    launch({1, 64}, zero, reinterpret_cast<float*>(out + 512));
    launch({1, 1, 512}, plain, out, in);
}

}  // namespace

void add_bulk_cases() {
    add_load<1, CU_TENSOR_MAP_SWIZZLE_NONE, 16>("tma load, 1-D");
    add_load<2, CU_TENSOR_MAP_SWIZZLE_32B, 16>("tma load, 2-D, 32-byte swizzle");
    add_load<2, CU_TENSOR_MAP_SWIZZLE_64B, 32>("tma load, 2-D, 64-byte swizzle");
    add_load<3, CU_TENSOR_MAP_SWIZZLE_128B, 64>("tma load, 3-D, 128-byte swizzle");
    add_load<4, CU_TENSOR_MAP_SWIZZLE_NONE, 16>("tma load, 4-D");
    add_load<4, CU_TENSOR_MAP_SWIZZLE_128B, 64>("tma load, 4-D, 128-byte swizzle");
    add_stores<1>("1-D");
    add_stores<2>("2-D");
    add_stores<3>("3-D");
    add_stores<4>("4-D");
    all_cases().push_back({"bulk copies", 90, 0, 512, 768, fill_floats, start_plain});
}

}  // namespace conformance
