// Bugs that were planted to see who catches them. A bug stands here with what must be seen of it, build by build; some
// are invisible to a comparison of results, and those are why the race build exists.
#include <memory>

#include "bf16.h"
#include "check.h"
#include "cuda/launch.cuh"
#include "gemm_mma_kernel.cuh"
#include "gemm_wgmma_kernel.cuh"
#include "layernorm_kernels.cuh"

using namespace llmcore;

// What the sanitizer build has to add are the bugs that only it sees, and the right kernels: the others would cost it
// minutes and show nothing new.
#define BUG_TEST(name)                                                                         \
    static void name();                                                                        \
    static const bool register_##name = kAsan || (all_tests().push_back({#name, name}), true); \
    static void name()

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// layer normalisation

// The largest error against double arithmetic; every tensor is an allocation of its exact size.
double layernorm_error(int rows, int columns, bool by_block) {
    size_t n = size_t(rows) * size_t(columns);
    std::unique_ptr<float[]> x(new float[n]), y(new float[n]);
    for (size_t i = 0; i < n; ++i) x[i] = random_number(), y[i] = NAN;
    if (by_block)
        launch({unsigned(planted_bug == 23 ? 2 * rows : rows), 128}, layernorm_by_block<4>, y.get(), x.get(), columns);
    else
        launch({unsigned(rows + 3) / 4, 128}, layernorm_by_warp<4>, y.get(), x.get(), rows, columns);
    double worst = 0;
    for (int r = 0; r < rows; ++r) {
        const float* x_n = x.get() + size_t(r) * columns;
        double sum = 0, squares = 0;
        for (int i = 0; i < columns; ++i) sum += x_n[i];
        for (int i = 0; i < columns; ++i) squares += (x_n[i] - sum / columns) * (x_n[i] - sum / columns);
        for (int i = 0; i < columns; ++i) {
            double expected = (x_n[i] - sum / columns) / std::sqrt(squares / columns + 1e-5);
            double error = std::fabs(expected - y[size_t(r) * columns + i]);
            if (!(error <= worst)) worst = error;  // a NaN sticks
        }
    }
    return worst;
}

TEST(layernorm_is_right_without_bugs) {
    for_every_policy([] {
        EXPECT(layernorm_error(7, 768, false) < 1e-4);
        EXPECT(layernorm_error(5, 333, false) < 1e-4);
        EXPECT(layernorm_error(3, 333, true) < 1e-4);
    });
}

BUG_TEST(bug_17_missing_barrier_in_a_block_reduction) {
    Planted bug(17);
    for_every_policy([] {
        double error = 0;
        Outcome outcome = outcome_of([&] { error = layernorm_error(3, 333, true); });
        if (emu::race_detection()) {
            EXPECT(outcome.kind == "race");
            EXPECT(outcome.text.find("of shared address 0x") != std::string::npos);
            EXPECT(outcome.text.find("at layernorm_kernels.cuh:") != std::string::npos);  // both lines
            EXPECT(outcome.text.find("[layernorm_kernels.cuh:") != std::string::npos);
        } else {
            EXPECT(!(error < 1e-4));  // the poison of fresh shared memory comes through
        }
    });
}

BUG_TEST(bug_23_two_blocks_write_the_same_right_values) {
    Planted bug(23);
    for_every_policy([] {
        double error = 1;
        Outcome outcome = outcome_of([&] { error = layernorm_error(3, 333, true); });
        if (!emu::race_detection()) {
            EXPECT(error < 1e-4);
            return;
        }
        EXPECT(outcome.kind == "race");
        EXPECT(outcome.text.find("not ordered after the write by another block at layernorm_kernels.cuh:") !=
               std::string::npos);
    });
}

DYING_TEST(bug_6_missing_row_guard) {
    Planted bug(6);
    layernorm_error(5, 333, false);
}

DYING_TEST(bug_18_store_past_a_shared_array) {
    Planted bug(18);
    layernorm_error(3, 333, true);
}

DYING_TEST(bug_19_misaligned_vector_load) {
    Planted bug(19);
    layernorm_error(5, 333, false);
}

// ---------------------------------------------------------------------------------------------------------------------
// matrix product with cp.async, ldmatrix, mma.sync

struct Problem {
    int M, N, K;
    std::unique_ptr<uint16_t[]> a, b;
    std::unique_ptr<float[]> c;

    Problem(int M_, int N_, int K_) : M(M_), N(N_), K(K_) {
        size_t m = size_t(M), n = size_t(N), k = size_t(K);
        a.reset(new uint16_t[m * k]);
        b.reset(new uint16_t[n * k]);
        c.reset(new float[m * n]);
        for (size_t i = 0; i < m * k; ++i) a[i] = bf16_bits(random_number());
        for (size_t i = 0; i < n * k; ++i) b[i] = bf16_bits(random_number());
        for (size_t i = 0; i < m * n; ++i) c[i] = NAN;
    }

    double error() const {
        double worst = 0;
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < N; ++n) {
                double sum = 0;
                for (int k = 0; k < K; ++k) sum += bf16_value(a[size_t(m) * K + k]) * bf16_value(b[size_t(n) * K + k]);
                double difference = std::fabs(sum - c[size_t(m) * N + n]);
                if (!(difference <= worst)) worst = difference;
            }
        return worst;
    }
};

double gemm_mma_error(int M, int N, int K) {
    Problem p(M, N, K);
    launch({dim3(unsigned(N + 63) / 64, unsigned(M + 63) / 64), 128, kGemmMmaShared}, gemm_mma, p.c.get(), p.a.get(),
           p.b.get(), M, N, K);
    return p.error();
}

TEST(gemm_mma_is_right_without_bugs_and_without_bank_conflicts) {
    emu::statistics() = {};
    for_every_policy([] {
        EXPECT(gemm_mma_error(70, 51, 328) < 1e-3);
        EXPECT(gemm_mma_error(1, 3, 8) < 1e-3);
    });
    EXPECT(emu::statistics().bank_conflicts == 0);
}

// How many of the 15 policies notice the bug, and as what.
struct Seen {
    int wrong = 0, races = 0, errors = 0;  // errors: races, deadlocks, misuse
    std::vector<std::string> texts;        // of the errors

    bool everywhere() const { return wrong + errors == 15; }

    // Every error names a line of this file.
    bool reported(const std::string& part) const {
        for (const std::string& text : texts)
            if (text.find(part) == std::string::npos) return false;
        return true;
    }
};

Seen look_for(int bug, const std::function<double()>& error_of_run) {
    Planted planted(bug);
    Seen seen;
    for_every_policy([&] {
        double error = 0;
        Outcome outcome = outcome_of([&] { error = error_of_run(); });
        seen.races += outcome.kind == "race";
        seen.errors += !outcome.kind.empty();
        if (!outcome.kind.empty()) seen.texts.push_back(outcome.text);
        seen.wrong += outcome.kind.empty() && !(error < 1e-3);
    });
    return seen;
}

double deep() {
    return gemm_mma_error(70, 51, 328);
}

BUG_TEST(bug_1_missing_barrier_in_the_k_loop) {
    Seen seen = look_for(1, deep);
    // Without the race detector it takes a lucky order.
    EXPECT(emu::race_detection() ? seen.races == 15 : seen.wrong >= 1);
    EXPECT(seen.reported(" of shared address 0x") && seen.reported("at gemm_mma_kernel.cuh:"));
    EXPECT(seen.reported("[gemm_mma_kernel.cuh:"));
}

BUG_TEST(bug_2_wrong_swizzle) {
    emu::statistics() = {};
    Seen seen = look_for(2, deep);
    EXPECT(seen.wrong == 15 && emu::statistics().bank_conflicts > 0);
}

BUG_TEST(bug_7_cp_async_wait_one_group_short) {
    Seen seen = look_for(7, deep);
    EXPECT(seen.wrong + seen.races >= 9);  // not where copies land early
    EXPECT(seen.reported("gemm_mma_kernel.cuh:"));
}

BUG_TEST(bug_21_refill_before_the_barrier) {
    Seen seen = look_for(21, deep);
    EXPECT(emu::race_detection() ? seen.races == 15 : seen.races == 0);
    EXPECT(seen.reported(" of shared address 0x"));
    EXPECT(seen.reported("gemm_mma_kernel.cuh:"));
}

BUG_TEST(bug_22_tiles_overlap_with_the_right_values) {
    Seen seen = look_for(22, [] { return gemm_mma_error(100, 51, 72); });
    EXPECT(emu::race_detection() ? seen.races == 15 : seen.races + seen.wrong == 0);
    EXPECT(seen.reported("write of a global address is not ordered after the write by another block at gemm_mma_"));
}

DYING_TEST(bug_5_cp_async_reads_outside_its_tensor) {
    Planted bug(5);
    deep();
}

// ---------------------------------------------------------------------------------------------------------------------
// matrix product with TMA, mbarrier, wgmma

CUtensorMap map_of(const void* base, int inner, int outer, uint32_t box_inner, uint32_t box_outer,
                   emu::Swizzle swizzle = emu::Swizzle::k128) {
    uint64_t sizes[] = {uint64_t(inner), uint64_t(outer)}, strides[] = {uint64_t(inner) * 2};
    uint32_t box[] = {box_inner, box_outer};
    return emu::encode_tensor_map(emu::TensorType::kBf16, 2, const_cast<void*>(base), sizes, strides, box, swizzle);
}

template <bool kMnMajor, bool kStore, int kCluster, bool kARegisters = false>
double gemm_wgmma_error(int M, int N, int K) {
    Problem p(M, N, K);
    std::unique_ptr<uint16_t[]> transposed(new uint16_t[size_t(N) * K]), stored(new uint16_t[size_t(M) * N]);
    for (int n = 0; n < N; ++n)
        for (int k = 0; k < K; ++k) transposed[size_t(k) * N + n] = p.b[size_t(n) * K + k];
    std::fill_n(stored.get(), size_t(M) * N, 0x7fff);
    emu::Swizzle swizzle_a = planted_bug == 15   ? emu::Swizzle::k64
                             : planted_bug == 16 ? emu::Swizzle::kNone
                                                 : emu::Swizzle::k128;
    CUtensorMap a = map_of(p.a.get(), K, M, 64, 128, swizzle_a);
    CUtensorMap b = kMnMajor ? map_of(transposed.get(), N, K, 64, 64) : map_of(p.b.get(), K, N, 64, 128 / kCluster);
    CUtensorMap c = kStore ? map_of(stored.get(), N, M, 64, 64) : a;
    unsigned rows = unsigned(M + 127) / 128;
    launch({dim3((rows + kCluster - 1) / kCluster * kCluster, unsigned(N + 127) / 128), 384, kGemmWgmmaShared, nullptr,
            kCluster},
           gemm_wgmma<kMnMajor, kStore, kCluster, kARegisters>, p.c.get(), a, b, c, M, N, K);
    if (kStore)
        for (size_t i = 0; i < size_t(M) * N; ++i) p.c[i] = static_cast<float>(bf16_value(stored[i]));
    // What is stored as bf16 is compared relative to the largest sums, about 12 here.
    return kStore ? p.error() / 100 : p.error();
}

TEST(gemm_wgmma_is_right_without_bugs_and_without_bank_conflicts) {
    emu::statistics() = {};
    for_every_policy([] {
        EXPECT((gemm_wgmma_error<false, false, 1>(131, 77, 392) < 1e-3));
        EXPECT((gemm_wgmma_error<true, true, 1>(70, 136, 72) < 1e-3));
        EXPECT((gemm_wgmma_error<true, false, 1, true>(70, 136, 392) < 1e-3));
        EXPECT((gemm_wgmma_error<false, true, 2>(260, 136, 328) < 1e-3));
        EXPECT((gemm_wgmma_error<true, true, 2>(257, 136, 72) < 1e-3));
    });
    EXPECT(emu::statistics().bank_conflicts == 0);
}

double streamed() {
    return gemm_wgmma_error<false, false, 1>(70, 40, 392);
}

double stored() {
    return gemm_wgmma_error<false, true, 1>(70, 136, 72);
}

double through_registers() {
    return gemm_wgmma_error<true, false, 1, true>(70, 136, 392);
}

// The kind of error under every policy, or the policies with another.
void expect_everywhere(int bug, const std::string& kind, const std::string& part, double (*error_of_run)()) {
    Planted planted(bug);
    for_every_policy([&] { expect_error(kind, part, [&] { error_of_run(); }); });
}

BUG_TEST(bug_3_consumer_waits_for_the_wrong_parity) {
    Seen seen = look_for(3, streamed);
    EXPECT(seen.everywhere() && seen.reported("gemm_wgmma_kernel.cuh:"));
}

BUG_TEST(bug_4_wrong_step_of_k_in_a_descriptor) {
    EXPECT(look_for(4, streamed).wrong == 15);
}

BUG_TEST(bug_8_producer_waits_for_the_wrong_parity) {
    expect_everywhere(8, "deadlock", " wants parity 0; phase 0 pending 2/2 bytes 0}", streamed);
}

BUG_TEST(bug_9_fewer_bytes_expected_than_come) {
    Seen seen = look_for(9, streamed);
    EXPECT(seen.wrong + seen.errors >= (emu::race_detection() ? 12 : 5));
    EXPECT(seen.reported("gemm_wgmma_kernel.cuh:"));
}

BUG_TEST(bug_10_stage_released_before_it_was_read) {
    Seen seen = look_for(10, [] { return gemm_wgmma_error<false, false, 1>(70, 40, 712); });
    // A thread that lost two phases waits for ever: that is seen without the race detector, too.
    EXPECT(emu::race_detection() ? seen.everywhere() && seen.races >= 10 : seen.wrong + seen.errors >= 3);
    EXPECT(seen.reported("gemm_wgmma_kernel.cuh:"));
}

BUG_TEST(bug_11_no_proxy_fence_before_a_tma_store) {
    if (emu::race_detection())
        expect_everywhere(11, "proxy", "without fence.proxy.async", stored);
    else
        EXPECT(look_for(11, stored).wrong == 0);
}

BUG_TEST(bug_12_no_barrier_before_a_tma_store) {
    Seen seen = look_for(12, stored);
    EXPECT(emu::race_detection() ? seen.races >= 5 : seen.wrong >= 1);
    EXPECT(seen.reported(" of shared address 0x") && seen.reported("gemm_wgmma_kernel.cuh:"));
}

BUG_TEST(bug_13_exit_before_a_tma_store_has_read) {
    expect_everywhere(13, "tma", "exits before its bulk store has read shared memory", stored);
}

BUG_TEST(bug_14_no_wgmma_fence) {
    expect_everywhere(14, "wgmma", "no wgmma.fence before the first wgmma", streamed);
}

BUG_TEST(bug_15_box_wider_than_its_swizzle) {
    expect_everywhere(15, "tensor-map", "the box's rows exceed the swizzle", streamed);
}

BUG_TEST(bug_16_tensor_map_without_the_swizzle) {
    EXPECT(look_for(16, streamed).wrong == 15);
}

BUG_TEST(bug_20_one_arrival_for_four_warps) {
    Seen seen = look_for(20, through_registers);
    EXPECT(emu::race_detection() ? seen.races >= 1 : seen.races + seen.wrong == 0);
    EXPECT(seen.reported("write of shared address 0x") && seen.reported("gemm_wgmma_kernel.cuh:"));
}

}  // namespace
