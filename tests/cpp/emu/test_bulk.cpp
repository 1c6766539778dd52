// TMA against its definition: element (i0, i1, ...) of a box at coordinates c is element c + i of the tensor or zero,
// stored row by row with 16-byte chunks swizzled (PTX ISA 5.5, "Tensors"; the figures of the swizzle modes).
#include <memory>

#include "bf16.h"
#include "check.h"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"

using namespace llmcore;

namespace {

constexpr int kElements = 1024;  // of a box, at most

struct Box {
    int rank;
    uint64_t sizes[4];
    uint32_t box[4];
    int at[4];
    emu::Swizzle swizzle;

    uint32_t elements() const {
        uint32_t n = 1;
        for (int i = 0; i < rank; ++i) n *= box[i];
        return n;
    }
};

// Where the manual's figures put element `index` of the box: in lines of 128 bytes, chunk c of line l is at c ^ (l % 8)
// with 128-byte swizzle; with 64 bytes only the lower two bits of the chunk change, by l / 2 of rows of 64 bytes, which
// is the 128-byte line again; with 32 bytes only the lowest.
uint32_t swizzled_index(uint32_t index, emu::Swizzle swizzle) {
    uint32_t line = index * 2 / 128, chunk = index * 2 % 128 / 16, inside = index % 8;
    if (swizzle == emu::Swizzle::k128) chunk ^= line % 8;
    if (swizzle == emu::Swizzle::k64) chunk = (chunk & 4) | ((chunk & 3) ^ line % 4);
    if (swizzle == emu::Swizzle::k32) chunk = (chunk & 6) | ((chunk & 1) ^ line % 2);
    return line * 64 + chunk * 8 + inside;
}

// Calls body(element of the box, element of the tensor or -1).
template <class Body>
void for_elements(const Box& b, Body body) {
    for (uint32_t index = 0; index < b.elements(); ++index) {
        int64_t element = 0, step = 1;
        uint32_t rest = index;
        bool inside = true;
        for (int i = 0; i < b.rank; ++i) {
            int64_t x = b.at[i] + int64_t(rest % b.box[i]);
            rest /= b.box[i];
            inside &= x >= 0 && x < int64_t(b.sizes[i]);
            element += x * step;
            step *= int64_t(b.sizes[i]);
        }
        body(index, inside ? element : -1);
    }
}

CUtensorMap map_of(const Box& b, void* base, emu::TensorType type = emu::TensorType::kBf16) {
    uint64_t strides[4], step = type == emu::TensorType::kFloat32 ? 4 : 2;
    for (int i = 0; i < b.rank; ++i) strides[i] = step *= b.sizes[i];
    return emu::encode_tensor_map(type, b.rank, base, b.sizes, strides, b.box, b.swizzle);
}

template <int kRank>
void load_kernel(const CUtensorMap* map, uint16_t* result, const Box* box) {
    LLMCORE_SHARED(uint64_t, barrier);
    uint32_t shared = shared_address(shared_memory<char>()), b = shared_address(&barrier);
    if (threadIdx.x == 0) {
        int at[kRank];
        for (int i = 0; i < kRank; ++i) at[i] = box->at[i];
        ptx::mbarrier_init(b, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect(b, box->elements() * 2);
        ptx::tma_load(shared, map, b, at);
    }
    __syncthreads();
    ptx::mbarrier_wait(b, 0);
    for (uint32_t i = threadIdx.x; i < box->elements(); i += 32) result[i] = shared_memory<uint16_t>()[i];
}

template <int kRank>
void check_load(const Box& box) {
    int64_t n = 1;
    for (int i = 0; i < kRank; ++i) n *= int64_t(box.sizes[i]);
    std::unique_ptr<uint16_t[]> tensor(new uint16_t[size_t(n)]);
    for (int64_t i = 0; i < n; ++i) tensor[size_t(i)] = uint16_t(i + 1);
    CUtensorMap map = map_of(box, tensor.get());
    for_every_policy([&] {
        uint16_t result[kElements];
        launch({1, 32, kElements * 2}, load_kernel<kRank>, &map, result, &box);
        for_elements(box, [&](uint32_t index, int64_t element) {
            EXPECT(result[swizzled_index(index, box.swizzle)] == (element < 0 ? 0 : uint16_t(element + 1)));
        });
    });
}

TEST(tma_loads_boxes_of_every_rank_and_swizzle) {
    using emu::Swizzle;
    check_load<1>({1, {100}, {64}, {56}, Swizzle::kNone});
    check_load<2>({2, {40, 9}, {16, 8}, {-8, 4}, Swizzle::k32});
    check_load<2>({2, {40, 9}, {32, 8}, {16, -2}, Swizzle::k64});
    check_load<3>({3, {80, 9, 3}, {64, 4, 2}, {24, 6, -1}, Swizzle::k128});
    check_load<4>({4, {24, 3, 2, 3}, {16, 2, 2, 2}, {8, 2, 1, 1}, Swizzle::kNone});
}

void store_kernel(const CUtensorMap* map, int x, int y, bool add) {
    uint16_t* shared = shared_memory<uint16_t>();
    for (uint32_t i = threadIdx.x; i < 32 * 4; i += 32)
        shared[swizzled_index(i, emu::Swizzle::k64)] = bf16_bits(float(i));
    ptx::fence_proxy_async();
    __syncwarp();
    if (threadIdx.x != 0) return;
    if (add)
        ptx::tma_reduce_add(map, shared_address(shared), {x, y});
    else
        ptx::tma_store(map, shared_address(shared), {x, y});
    ptx::bulk_commit();
    ptx::bulk_wait<0>();
}

TEST(tma_stores_and_adds_what_lies_inside) {
    Box box{2, {40, 6}, {32, 4}, {16, 4}, emu::Swizzle::k64};
    for_every_policy([&] {
        std::unique_ptr<uint16_t[]> tensor(new uint16_t[40 * 6]);
        std::fill_n(tensor.get(), 40 * 6, bf16_bits(1000));
        CUtensorMap map = map_of(box, tensor.get());
        launch({1, 32, 1024}, store_kernel, &map, box.at[0], box.at[1], false);
        launch({2, 32, 1024}, store_kernel, &map, box.at[0], box.at[1], true);  // from two blocks
        std::unique_ptr<float[]> expected(new float[40 * 6]);
        std::fill_n(expected.get(), 40 * 6, 1000.0f);
        for_elements(box, [&](uint32_t index, int64_t element) {
            if (element >= 0) expected[size_t(element)] = float(3 * index);
        });
        for (int i = 0; i < 40 * 6; ++i) EXPECT(bf16_bits(expected[size_t(i)]) == tensor[size_t(i)]);
    });
}

void plain_kernel(float* result, const float* source) {
    LLMCORE_SHARED(uint64_t, barrier);
    uint32_t shared = shared_address(shared_memory<float>()), b = shared_address(&barrier);
    ptx::mbarrier_init(b, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect(b, 32);
    ptx::bulk_load(shared, source, 32, b);
    ptx::mbarrier_wait(b, 0);
    ptx::bulk_store(result, shared, 16);
    ptx::bulk_reduce_add(result + 4, shared, 32);
    ptx::bulk_commit();
    ptx::bulk_wait<0>();
}

TEST(plain_bulk_copies_move_and_add) {
    for_every_policy([] {
        alignas(16) float source[8], result[12];
        for (int i = 0; i < 8; ++i) source[i] = float(i);
        std::fill_n(result, 12, 100.0f);
        launch({1, 1, 64}, plain_kernel, result, source);
        for (int i = 0; i < 12; ++i) EXPECT(result[i] == (i < 4 ? float(i) : 100.0f + float(i - 4)));
    });
}

TEST(impossible_tensor_maps_are_refused) {
    alignas(16) static char tensor[4096];
    auto encode = [](uint64_t inner, uint32_t box, emu::Swizzle swizzle, int offset) {
        Box b{2, {inner, 8}, {box, 4}, {}, swizzle};
        return [b, offset] { map_of(b, tensor + offset); };
    };
    expect_error("tensor-map", "base address is not a multiple of 16", encode(64, 64, emu::Swizzle::k128, 8));
    expect_error("tensor-map", "dimension 1: the stride is not a multiple of 16", encode(60, 32, emu::Swizzle::k64, 0));
    expect_error("tensor-map", "rows exceed the swizzle", encode(64, 64, emu::Swizzle::k64, 0));
    expect_error("tensor-map", "rows are not a multiple of 16", encode(64, 12, emu::Swizzle::kNone, 0));
    expect_error("tensor-map", "dimension 0: the box is not 1 to 256", encode(1024, 512, emu::Swizzle::kNone, 0));
}

}  // namespace
