// Rows of layer and root-mean-square normalisation on a device of one multiprocessor: each block takes several rows one
// after another, so that what its warps share for one row must not be overwritten by the next.
#include <vector>

#include "check.h"
#include "cuda/row_norm.cuh"

using namespace llmcore;

namespace {

constexpr int64_t kRows = 37;  // more than twice what the forward pass has blocks for, and not a multiple of it

std::vector<float> random_floats(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = random_number();
    return values;
}

bool close(double actual, double expected) {
    return std::abs(actual - expected) <= 2e-5 * (1 + std::abs(expected));
}

template <bool kCentred>
void check_rows(int64_t C) {
    const Cuda cuda{.stream = nullptr, .arch = 90, .multiprocessors = 1, .shared_bytes = 200 << 10};
    const std::vector<float> x = random_floats(kRows * C), dy = random_floats(kRows * C), weight = random_floats(C);
    std::vector<float> y(x.size()), dx(x.size()), mean(kRows), rstd(kRows), dweight(size_t(C), 1.0f);
    launch_norm_forward<kCentred>(cuda, NormForward<float>{y.data(), nullptr, mean.data(), rstd.data(), x.data(),
                                                           nullptr, weight.data(), nullptr, kRows, C, 1e-5f});
    std::vector<float> workspace(norm_backward_workspace<kCentred>(cuda, kRows, C));
    launch_norm_backward<kCentred>(cuda,
                                   NormBackward<float>{dx.data(), workspace.data(), dy.data(), nullptr, x.data(),
                                                       weight.data(), mean.data(), rstd.data(), kRows, C},
                                   dweight.data(), nullptr);

    std::vector<double> expected_dweight(size_t(C), 1.0);
    for (int64_t n = 0; n < kRows; ++n) {
        const float *row = x.data() + n * C, *dy_row = dy.data() + n * C;
        double centre = 0, squares = 0, g_mean = 0, gn_mean = 0;
        for (int64_t c = 0; kCentred && c < C; ++c) centre += row[c] / double(C);
        for (int64_t c = 0; c < C; ++c) squares += (row[c] - centre) * (row[c] - centre);
        const double scale = 1 / std::sqrt(squares / double(C) + 1e-5);
        for (int64_t c = 0; c < C; ++c) {
            const double normalised = (row[c] - centre) * scale, g = double(dy_row[c]) * weight[size_t(c)];
            EXPECT(close(y[size_t(n * C + c)], normalised * weight[size_t(c)]));
            g_mean += kCentred ? g / double(C) : 0;
            gn_mean += g * normalised / double(C);
            expected_dweight[size_t(c)] += dy_row[c] * normalised;
        }
        for (int64_t c = 0; c < C; ++c) {
            const double normalised = (row[c] - centre) * scale, g = double(dy_row[c]) * weight[size_t(c)];
            EXPECT(close(dx[size_t(n * C + c)], scale * (g - g_mean - normalised * gn_mean)));
        }
    }
    for (int64_t c = 0; c < C; ++c) EXPECT(close(dweight[size_t(c)], expected_dweight[size_t(c)]));
}

// A warp, four warps and eight warps to a row; element by element.
TEST(row_norm_of_many_rows_to_a_block) {
    for (emu::Order order : {emu::Order::kForward, emu::Order::kReverse, emu::Order::kRandom}) {
        emu::policy().order = order;
        for (int64_t C : {128, 516, 1028, 131}) {
            check_rows<true>(C);
            check_rows<false>(C);
        }
    }
}

}  // namespace
