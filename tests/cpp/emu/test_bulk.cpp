// TMA against its definition: element (i0, i1, ...) of a box at coordinates c is element c + i of the tensor or zero,
// stored row by row with 16-byte chunks swizzled (PTX ISA 5.5, "Tensors"; the figures of the swizzle modes).
#include <cstring>
#include <memory>

#include "bf16.h"
#include "check.h"
#include "cuda/arch/cluster.cuh"
#include "cuda/arch/global.cuh"
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

// Every rank and every type that can be added to.
template <class T, int kRank>
void reduce_kernel(const CUtensorMap* map, const Box* box, const T* values) {
    T* shared = shared_memory<T>();
    for (uint32_t i = threadIdx.x; i < box->elements(); i += 32) shared[i] = values[i];
    ptx::fence_proxy_async();
    __syncwarp();
    if (threadIdx.x != 0) return;
    int at[kRank];
    for (int i = 0; i < kRank; ++i) at[i] = box->at[i];
    ptx::prefetch_tensor_map(map);
    ptx::tma_reduce_add(map, shared_address(shared), at);
    ptx::bulk_commit();
    ptx::bulk_wait<0>();
}

template <class T, int kRank>
void check_reduce(emu::TensorType type, const Box& box) {
    int64_t n = 1;
    for (int i = 0; i < kRank; ++i) n *= int64_t(box.sizes[i]);
    auto value_of = [&](T element) {
        if (type == emu::TensorType::kBf16) return float(bf16_value(uint16_t(element)));
        if (type == emu::TensorType::kFp16) {
            _Float16 half;
            memcpy(&half, &element, 2);
            return float(half);
        }
        return float(element);
    };
    auto element_of = [&](float value) {
        if (type == emu::TensorType::kBf16) return T(bf16_bits(value));
        T element{};
        _Float16 half = static_cast<_Float16>(value);
        if (type == emu::TensorType::kFp16) return memcpy(&element, &half, 2), element;
        return T(value);
    };
    for_every_policy([&] {
        std::unique_ptr<T[]> tensor(new T[size_t(n)]), values(new T[box.elements()]);
        std::unique_ptr<float[]> expected(new float[size_t(n)]);
        for (int64_t i = 0; i < n; ++i) tensor[size_t(i)] = element_of(expected[size_t(i)] = float(i % 50));
        for (uint32_t i = 0; i < box.elements(); ++i) values[i] = element_of(float(i % 9) - 4);
        CUtensorMap map = map_of(box, tensor.get(), type);
        launch({3, 32, 4096}, reduce_kernel<T, kRank>, &map, &box, values.get());  // three blocks add
        for_elements(box, [&](uint32_t index, int64_t element) {
            if (element >= 0) expected[size_t(element)] += 3 * (float(index % 9) - 4);
        });
        for (int64_t i = 0; i < n; ++i) EXPECT(value_of(tensor[size_t(i)]) == expected[size_t(i)]);
    });
}

TEST(tma_adds_in_every_rank_and_type) {
    using emu::Swizzle, emu::TensorType;
    check_reduce<float, 1>(TensorType::kFloat32, {1, {40}, {16}, {28}, Swizzle::kNone});
    check_reduce<uint16_t, 2>(TensorType::kFp16, {2, {40, 6}, {16, 4}, {-8, 4}, Swizzle::kNone});
    check_reduce<uint16_t, 3>(TensorType::kBf16, {3, {16, 3, 4}, {8, 2, 2}, {4, 2, -1}, Swizzle::kNone});
    check_reduce<float, 4>(TensorType::kFloat32, {4, {8, 3, 2, 3}, {4, 2, 2, 2}, {4, -1, 1, 2}, Swizzle::kNone});
}

// wait_group.read: the source may be written again. Only wait_group says that the writes are there (PTX ISA
// 9.7.9.27.2.2).
enum class Told { kAfterWait, kAfterWaitRead };

void hand_on_kernel(float* result, float* data, uint32_t* flag, Told told) {
    float* shared = shared_memory<float>();
    if (blockIdx.x == 0) {
        for (int i = 0; i < 4; ++i) shared[i] = float(i + 1);
        ptx::fence_proxy_async();
        ptx::bulk_store(data, shared_address(shared), 16);
        ptx::bulk_commit();
        ptx::bulk_wait_read<0>();
        for (int i = 0; i < 4; ++i) shared[i] = -1;  // does not change what is stored
        if (told == Told::kAfterWait) ptx::bulk_wait<0>();
        ptx::store_release(flag, 1);
    } else {
        while (ptx::load_acquire(flag) == 0) {
        }
        for (int i = 0; i < 4; ++i) result[i] = data[i];
    }
}

TEST(waiting_for_the_reads_of_a_store_is_not_waiting_for_its_writes) {
    int stale = 0, races = 0;
    for_every_policy([&] {
        alignas(16) float data[4] = {}, result[4];
        uint32_t flag = 0;
        const Launch shape{.grid = 2, .block = 1, .shared_bytes = 16, .all_resident = true};
        launch(shape, hand_on_kernel, result, data, &flag, Told::kAfterWait);
        for (int i = 0; i < 4; ++i) EXPECT(result[i] == float(i + 1));
        flag = 0;
        for (float& value : data) value = 0;
        Outcome outcome = outcome_of([&] { launch(shape, hand_on_kernel, result, data, &flag, Told::kAfterWaitRead); });
        races += outcome.kind == "race" && outcome.text.find("of a global address is not ordered") != std::string::npos;
        if (outcome.kind.empty()) {
            stale += result[0] == 0;
            EXPECT(data[0] == 1 && data[3] == 4);  // written when the kernel ended at the latest
        }
    });
    EXPECT(emu::race_detection() ? races == 15 : stale >= 5);
}

void multicast_kernel(uint16_t* result, const CUtensorMap* map, uint16_t ranks, int skipped) {
    LLMCORE_SHARED(uint64_t, word);
    const uint32_t barrier = shared_address(&word), rank = ptx::cluster_rank();
    uint16_t* shared = shared_memory<uint16_t>();
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(barrier, 1);
        ptx::fence_mbarrier_init();
        if (ranks >> rank & 1) ptx::mbarrier_arrive_expect(barrier, 128);
    }
    ptx::cluster_sync();
    if (threadIdx.x == 0 && int(rank) == skipped)
        ptx::tma_load_multicast(shared_address(shared), map, barrier, {3, 1, 2}, ranks);
    if (ranks >> rank & 1) {
        ptx::mbarrier_wait(barrier, 0);
        for (uint32_t i = threadIdx.x; i < 64; i += 32) result[rank * 64 + i] = shared[i];
    }
    ptx::cluster_sync();
}

TEST(a_multicast_reaches_the_blocks_of_its_mask) {
    Box box{3, {16, 4, 4}, {8, 4, 2}, {3, 1, 2}, emu::Swizzle::kNone};
    std::unique_ptr<uint16_t[]> tensor(new uint16_t[256]);
    for (int i = 0; i < 256; ++i) tensor[size_t(i)] = uint16_t(i + 1);
    CUtensorMap map = map_of(box, tensor.get());
    for_every_policy([&] {
        uint16_t result[4 * 64] = {};
        launch({4, 32, 1024, nullptr, 4}, multicast_kernel, result, &map, uint16_t(0b1101), 2);
        for (int rank = 0; rank < 4; ++rank)
            for_elements(box, [&](uint32_t index, int64_t element) {
                uint16_t expected = rank == 1 || element < 0 ? 0 : uint16_t(element + 1);
                EXPECT(result[uint32_t(rank) * 64 + index] == expected);
            });
        static uint16_t unused[4 * 64];
        expect_error("cluster", "blocks that the cluster does not have, or none",
                     [&] { launch({4, 32, 1024, nullptr, 4}, multicast_kernel, unused, &map, uint16_t(0b10101), 2); });
    });
}

void unfenced_kernel(const float* source) {
    LLMCORE_SHARED(uint64_t, word);
    const uint32_t barrier = shared_address(&word);
    ptx::mbarrier_init(barrier, 1);
    ptx::mbarrier_arrive_expect(barrier, 16);
    ptx::bulk_load(shared_address(shared_memory<float>()), source, 16, barrier);
    ptx::mbarrier_wait(barrier, 0);
}

TEST(a_bulk_copy_needs_a_fenced_barrier) {
    alignas(16) static const float source[4] = {};
    expect_error("mbarrier", "used by a bulk copy without fence.mbarrier_init",
                 [] { launch({1, 1, 16}, unfenced_kernel, source); });
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
