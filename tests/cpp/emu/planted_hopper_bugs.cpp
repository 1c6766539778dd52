// Bugs planted in the mechanisms of sm_90 (hopper_kernels.cuh), each with what every build must see of it.
#include <memory>

#include "bf16.h"
#include "check.h"
#include "cuda/launch.cuh"
#include "hopper_kernels.cuh"

using namespace llmcore;

namespace {

// What 15 policies say of a bug: how often the result is wrong, how often an error of this kind with this text ends the
// launch, and how often any other error does.
struct Verdict {
    int wrong = 0, named = 0, other = 0;
    std::string unexpected;
};

Verdict judge(int bug, const std::string& kind, const std::string& part, double (*error_of_run)()) {
    Planted planted(bug);
    Verdict verdict;
    for_every_policy([&] {
        double error = 0;
        Outcome outcome = outcome_of([&] { error = error_of_run(); });
        if (outcome.kind.empty())
            verdict.wrong += !(error < 1e-3);
        else if (outcome.kind == kind && outcome.text.find(part) != std::string::npos)
            ++verdict.named;
        else
            ++verdict.other, verdict.unexpected = outcome.text;
    });
    return verdict;
}

void require(bool condition, const Verdict& v) {
    if (condition) return;
    throw std::runtime_error("wrong " + std::to_string(v.wrong) + ", named " + std::to_string(v.named) + ", other " +
                             std::to_string(v.other) + " " + v.unexpected);
}

// Every build refuses it by name, under every policy.
void refused(int bug, const std::string& kind, const std::string& part, double (*error_of_run)()) {
    Verdict v = judge(bug, kind, part, error_of_run);
    require(v.named == 15, v);
}

// The race build names it under every policy; the others see nothing, or a wrong result in at least `wrong` policies.
void race_only(int bug, const std::string& kind, const std::string& part, int wrong, double (*error_of_run)()) {
    Verdict v = judge(bug, kind, part, error_of_run);
    require(emu::race_detection() ? v.named == 15 : v.wrong >= wrong && v.named + v.other == 0, v);
}

// The result is wrong under every policy, in every build.
void always_wrong(int bug, double (*error_of_run)()) {
    Verdict v = judge(bug, "", "", error_of_run);
    require(v.wrong == 15, v);
}

double worst(const float* result, const double* expected, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; ++i) {
        double error = std::fabs(double(result[i]) - expected[i]);
        if (!(error <= most)) most = error;  // a NaN sticks
    }
    return most;
}

// ---------------------------------------------------------------------------------------------------------------------

double turns() {
    constexpr int kBlocks = 5;
    float total[64], parts[kBlocks * 64];
    double expected[64];
    uint32_t turn = 0;
    for (float& value : parts) value = random_number();
    for (int i = 0; i < 64; ++i) {
        total[i] = float(expected[i] = 1);
        for (int block = 0; block < kBlocks; ++block) expected[i] = (expected[i] + parts[block * 64 + i]) * 0.5;
    }
    launch({.grid = kBlocks, .block = 64, .all_resident = true}, sum_in_turns, total, parts, &turn);
    return worst(total, expected, 64);
}

double gathered() {
    float x[8 * 32], sums[2];
    double expected[2] = {};
    for (int i = 0; i < 8 * 32; ++i) expected[i / 128] += x[i] = random_number();
    launch({8, 32, 0, nullptr, 4}, gather_sums_kernel, sums, x);
    return worst(sums, expected, 2);
}

CUtensorMap row_of_floats(float* base, uint64_t size, uint32_t box) {
    return emu::encode_tensor_map(emu::TensorType::kFloat32, 1, base, &size, nullptr, &box, emu::Swizzle::kNone);
}

double gradients() {
    alignas(16) float gradient[32];
    float values[3 * 32], result[32];
    double expected[32];
    uint32_t done = 0;
    for (int i = 0; i < 32; ++i) gradient[i] = float(expected[i] = i);
    for (int i = 0; i < 96; ++i) expected[i % 32] += values[i] = random_number();
    launch({.grid = 4, .block = 32, .shared_bytes = 128, .all_resident = true}, gradient_kernel, result,
           row_of_floats(gradient, 32, 32), gradient, values, &done);
    return worst(result, expected, 32);
}

double transposed() {
    alignas(16) uint16_t in[256], out[256];
    for (int i = 0; i < 256; ++i) in[i] = uint16_t(i * 7 + 1);
    launch({1, 32, 1024}, transpose_kernel, out, in);
    int wrong = 0;
    for (int i = 0; i < 256; ++i) wrong += out[i] != in[i % 16 * 16 + i / 16];
    return wrong;
}

CUtensorMap matrix(uint16_t* base, uint64_t inner, uint64_t outer, uint32_t box_inner, uint32_t box_outer,
                   emu::Swizzle swizzle) {
    uint64_t sizes[] = {inner, outer}, strides[] = {inner * 2};
    uint32_t box[] = {box_inner, box_outer};
    return emu::encode_tensor_map(emu::TensorType::kBf16, 2, base, sizes, strides, box, swizzle);
}

template <int kN, Layout kLayout>
double product() {
    std::unique_ptr<uint16_t[]> a(new uint16_t[64 * 64]), b(new uint16_t[64 * kN]), stored(new uint16_t[64 * kN]);
    std::unique_ptr<float[]> c(new float[64 * kN]);
    std::unique_ptr<double[]> expected(new double[64 * kN]);
    for (size_t i = 0; i < 64 * 64; ++i) a[i] = bf16_bits(random_number());
    for (size_t i = 0; i < 64 * kN; ++i) b[i] = bf16_bits(random_number());  // (N, K)
    for (size_t m = 0; m < 64; ++m)
        for (size_t n = 0; n < kN; ++n) {
            expected[m * kN + n] = 0;
            for (size_t k = 0; k < 64; ++k)
                expected[m * kN + n] += bf16_value(a[m * 64 + k]) * bf16_value(b[n * 64 + k]);
        }
    for (size_t i = 0; i < 64 * kN; ++i) stored[i] = kLayout == Layout::kMnMajor ? b[i % kN * 64 + i / kN] : b[i];
    CUtensorMap map_b = kLayout == Layout::kKMajor    ? matrix(stored.get(), 64, kN, 64, kN, emu::Swizzle::k128)
                        : kLayout == Layout::kMnMajor ? matrix(stored.get(), kN, 64, 64, 64, emu::Swizzle::k128)
                                                      : matrix(stored.get(), 64, kN, 8, kN, emu::Swizzle::kNone);
    launch({1, 128, 8192 + kN * 128}, wide_product_kernel<kN, kLayout>, c.get(),
           matrix(a.get(), 64, 64, 64, 64, emu::Swizzle::k128), map_b);
    return worst(c.get(), expected.get(), 64 * kN);
}

double shared_by_all() {
    alignas(16) float x[64];
    float out[128];
    double expected[128];
    for (int i = 0; i < 64; ++i) expected[i] = expected[64 + i] = x[i] = random_number();
    launch({2, 32, 256, nullptr, 2}, share_kernel, out, row_of_floats(x, 64, 32));
    return worst(out, expected, 128);
}

double doubled_twice() {
    alignas(16) float x[128];
    double expected[128];
    for (int i = 0; i < 128; ++i) expected[i] = 4 * double(x[i] = random_number());
    launch({1, 32}, double_kernel, x);
    launch({.grid = 1, .block = 32, .overlaps_previous = true}, double_kernel, x);
    return worst(x, expected, 128);
}

double maxima() {
    int values[32], largest[32], expected[2] = {-100, -100}, wrong = 0;
    for (int i = 0; i < 32; ++i) {
        values[i] = -1 - i * 13 % 32;
        expected[i / 16] = std::max(expected[i / 16], values[i]);
    }
    launch({1, 32}, half_maxima_kernel, largest, values);
    for (int i = 0; i < 32; ++i) wrong += largest[i] != expected[i / 16];
    return wrong;
}

TEST(hopper_kernels_are_right_without_bugs) {
    for_every_policy([] {
        for (double (*run)() : {turns, gathered, gradients, transposed, shared_by_all, doubled_twice, maxima})
            EXPECT(run() < 1e-3);
        EXPECT((product<64, Layout::kKMajor>() < 1e-3) && (product<256, Layout::kKMajor>() < 1e-3));
        EXPECT((product<256, Layout::kMnMajor>() < 1e-3) && (product<64, Layout::kNoSwizzle>() < 1e-3));
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// turnstile

TEST(bug_24_turn_passed_on_before_the_block_is_done) {
    race_only(24, "race", "of a global address is not ordered after the", 0, turns);
}

TEST(bug_25_turn_not_waited_for) {
    race_only(25, "race", "of a global address is not ordered after the", 5, turns);
}

TEST(bug_26_turn_never_passed_on) {
    refused(26, "deadlock", "nothing can change the word at 0x", turns);
}

// ---------------------------------------------------------------------------------------------------------------------
// distributed shared memory

TEST(bug_27_block_leaves_while_others_read_its_memory) {
    Verdict v = judge(27, "cluster", "no barrier of the cluster after the", gathered);
    require(emu::race_detection() ? v.named == 15 : v.named >= 5, v);  // otherwise where it is gone in time
}

TEST(bug_28_wrong_rank) {
    always_wrong(28, gathered);
}

TEST(bug_29_no_cluster_barrier_before_reading) {
    Verdict v = judge(29, "cluster", "may not have started", gathered);
    require(emu::race_detection() ? v.named == 15 : v.named + v.wrong >= 5, v);
}

// ---------------------------------------------------------------------------------------------------------------------
// TMA reductions

TEST(bug_30_store_instead_of_reduce_add) {
    Verdict v = judge(30, "race", "of a global address is not ordered after the", gradients);
    require(emu::race_detection() ? v.named == 15 : v.wrong == 15, v);
}

TEST(bug_31_no_proxy_fence_before_a_reduction) {
    race_only(31, "proxy", "without fence.proxy.async", 0, gradients);
}

TEST(bug_32_lane_0_waits_for_what_the_elected_lane_issued) {
    Verdict v = judge(32, "tma", "exits before its bulk store has read shared memory", gradients);
    require(v.named >= 5, v);  // where lane 0 is not the elected one
}

TEST(bug_33_reads_of_a_reduction_waited_for_instead_of_writes) {
    Verdict v = judge(33, "race", "of a global address is not ordered after the", gradients);
    require(emu::race_detection() ? v.named == 15 : v.wrong >= 5, v);
}

// ---------------------------------------------------------------------------------------------------------------------
// stmatrix, wgmma

TEST(bug_34_stmatrix_without_trans) {
    always_wrong(34, transposed);
}

TEST(bug_35_stmatrix_rows_in_the_wrong_order) {
    always_wrong(35, transposed);
}

TEST(bug_36_no_fence_after_mbarrier_init) {
    refused(36, "mbarrier", "used by a bulk copy without fence.mbarrier_init", product<64, Layout::kKMajor>);
}

TEST(bug_37_leading_offset_of_half_a_box_at_n_256) {
    always_wrong(37, product<256, Layout::kMnMajor>);
}

TEST(bug_38_offsets_exchanged_without_a_swizzle) {
    Verdict v = judge(38, "shared-bounds", "is outside every allocation", product<64, Layout::kNoSwizzle>);
    require(v.wrong + v.named == 15, v);
}

TEST(bug_39_second_step_of_n_64_does_not_accumulate) {
    always_wrong(39, product<64, Layout::kKMajor>);
}

TEST(bug_40_wgmma_n_256_not_waited_for) {
    refused(40, "wgmma", "the thread exits with a wgmma in flight", product<256, Layout::kKMajor>);
}

// ---------------------------------------------------------------------------------------------------------------------
// multicast, overlapping kernels, lanes

TEST(bug_41_multicast_mask_names_only_the_own_block) {
    refused(41, "deadlock", " wants parity 0; phase 0 pending 0/1 bytes 128}", shared_by_all);
}

TEST(bug_42_only_the_own_part_of_a_multicast_is_expected) {
    Verdict v = judge(42, "race", "of shared address 0x", shared_by_all);
    require(emu::race_detection() ? v.named + v.other == 15 : v.wrong + v.other >= 3, v);
}

TEST(bug_43_previous_kernel_not_waited_for) {
    race_only(43, "race", "by an earlier kernel (griddepcontrol.wait is missing) at global.cuh:", 0, doubled_twice);
}

TEST(bug_44_one_thread_waits_for_the_previous_kernel_and_tells_nobody) {
    race_only(44, "race", "by an earlier kernel (griddepcontrol.wait is missing) at global.cuh:", 0, doubled_twice);
}

TEST(bug_45_read_only_load_of_what_the_kernel_writes) {
    race_only(45, "race", "through the read-only path of what this kernel stored at global.cuh:", 0, doubled_twice);
}

TEST(bug_46_redux_mask_with_lanes_that_never_come) {
    Verdict v = judge(46, "deadlock", "redux at hopper_kernels.cuh:", maxima);
    require(v.named == 15, v);
}

TEST(bug_47_redux_mask_without_the_own_lane) {
    refused(47, "warp", "redux: the lane is not in its own mask", maxima);
}

}  // namespace
