// Bugs that were planted to see who catches them. A bug stands here with what must be seen of it, build by build; some
// are invisible to a comparison of results, and those are why the race build exists.
#include <memory>

#include "bf16.h"
#include "check.h"
#include "cuda/launch.cuh"
#include "gemm_mma_kernel.cuh"
#include "layernorm_kernels.cuh"

using namespace llmcore;

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

TEST(bug_17_missing_barrier_in_a_block_reduction) {
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

TEST(bug_23_two_blocks_write_the_same_right_values) {
    Planted bug(23);
    for_every_policy([] {
        double error = 1;
        Outcome outcome = outcome_of([&] { error = layernorm_error(3, 333, true); });
        if (!emu::race_detection()) {
            EXPECT(error < 1e-4);
            return;
        }
        EXPECT(outcome.kind == "race");
        EXPECT(outcome.text.find("stores to the same global address at layernorm_kernels.cuh:") != std::string::npos);
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

// How many of the 15 policies notice the bug, as a wrong result or as an error of this kind.
struct Seen {
    int wrong = 0, races = 0;
};

Seen look_for(int bug, const std::function<double()>& error_of_run) {
    Planted planted(bug);
    Seen seen;
    for_every_policy([&] {
        double error = 0;
        Outcome outcome = outcome_of([&] { error = error_of_run(); });
        seen.races += outcome.kind == "race";
        seen.wrong += outcome.kind.empty() && !(error < 1e-3);
    });
    return seen;
}

double deep() {
    return gemm_mma_error(70, 51, 328);
}

TEST(bug_1_missing_barrier_in_the_k_loop) {
    Seen seen = look_for(1, deep);
    // Without the race detector it takes a lucky order.
    EXPECT(emu::race_detection() ? seen.races == 15 : seen.wrong >= 1);
}

TEST(bug_2_wrong_swizzle) {
    emu::statistics() = {};
    Seen seen = look_for(2, deep);
    EXPECT(seen.wrong == 15 && emu::statistics().bank_conflicts > 0);
}

TEST(bug_7_cp_async_wait_one_group_short) {
    Seen seen = look_for(7, deep);
    EXPECT(seen.wrong + seen.races >= 9);  // not where copies land early
}

TEST(bug_21_refill_before_the_barrier) {
    Seen seen = look_for(21, deep);
    EXPECT(emu::race_detection() ? seen.races == 15 : seen.races == 0);
}

TEST(bug_22_tiles_overlap_with_the_right_values) {
    Seen seen = look_for(22, [] { return gemm_mma_error(100, 51, 72); });
    EXPECT(emu::race_detection() ? seen.races == 15 : seen.races + seen.wrong == 0);
}

DYING_TEST(bug_5_cp_async_reads_outside_its_tensor) {
    Planted bug(5);
    deep();
}

}  // namespace
