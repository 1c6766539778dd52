// Bugs that were planted to see who catches them. A bug stands here with what must be seen of it, build by build; some
// are invisible to a comparison of results, and those are why the race build exists.
#include <memory>

#include "check.h"
#include "cuda/launch.cuh"
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

}  // namespace
