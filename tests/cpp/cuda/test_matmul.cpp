// The matmul kernels themselves, below the launcher that chooses among them: every variant on every problem that it
// takes, under every policy, in the three builds. Small integers make every sum exact, so that one wrong index shows.
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "cuda/matmul_variants.cuh"

using namespace llmcore;

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// problems

// Exactly `size` elements, `offset` elements behind an address that vectors could use; a read or write past either end
// of the allocation is AddressSanitizer's.
template <class T>
struct Buffer {
    Buffer(size_t size_, size_t offset) : size(size_), memory(new T[size_ + offset]), data(memory.get() + offset) {}
    size_t size;
    std::unique_ptr<T[]> memory;
    T* data;
    void fill(float value) {
        for (size_t i = 0; i < size; ++i) data[i] = from_float<T>(value);
    }
    template <class F>
    void generate(F&& f) {
        for (size_t i = 0; i < size; ++i) data[i] = from_float<T>(f());
    }
};

struct Extras {
    bool bias = false, pre_activation = false, residual = false, accumulate = false;
    Activation activation = Activation::kNone;
};

double activated(Activation kind, double x) {
    switch (kind) {
        case Activation::kNone:
            return x;
        case Activation::kGeluTanh:
            return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::kGelu:
            return 0.5 * x * (1 + std::erf(x / std::sqrt(2)));
        case Activation::kRelu:
            return x > 0 ? x : 0;
        case Activation::kSilu:
            return x / (1 + std::exp(-x));
        case Activation::kTanh:
            return std::tanh(x);
    }
    return NAN;
}

float small_integer() {
    return std::floor(random_number() * 4);  // -4 to 3
}

template <class Out, class A, class B>
struct Case {
    MatmulProblem problem;
    Extras extras;
    Buffer<A> a;
    Buffer<B> b;
    Buffer<Out> bias, residual, before, y, pre;
    std::vector<double> expected, expected_pre;

    Case(const MatmulProblem& p, const Extras& e, size_t offset = 0)
        : problem(p),
          extras(e),
          a(size_t(p.a_step ? p.batch * p.a_step : p.M * p.K), offset),
          b(size_t(p.b_step ? p.batch * p.b_step : p.N * p.K), offset),
          bias(size_t(p.N), offset),
          residual(outputs(), offset),
          before(outputs(), 0),
          y(outputs(), offset),
          pre(outputs(), offset) {
        problem.accumulate = e.accumulate;
    }
    size_t outputs() const { return size_t(problem.batch * problem.M * problem.N); }

    void generate(float (*number)()) {
        a.generate(number), b.generate(number), bias.generate(number), residual.generate(number);
        before.generate(number);
        expected.resize(outputs()), expected_pre.resize(outputs());
        for (size_t i = 0; i < outputs(); ++i) expect(i);
    }
    double product(int64_t matrix, int64_t m, int64_t n) const {
        const MatmulProblem& p = problem;
        const A* a_0 = a.data + matrix * p.a_step + (p.transpose_a ? m : m * p.K);
        const B* b_0 = b.data + matrix * p.b_step + (p.transpose_b ? n * p.K : n);
        double sum = 0;
        for (int64_t k = 0; k < p.K; ++k)
            sum +=
                double(to_float(a_0[p.transpose_a ? k * p.M : k])) * double(to_float(b_0[p.transpose_b ? k : k * p.N]));
        return sum;
    }
    void expect(size_t i) {
        int64_t N = problem.N, M = problem.M, at = int64_t(i), n = at % N;
        double value = product(at / (M * N), at / N % M, n);
        if (extras.bias) value += double(to_float(bias.data[n]));
        expected_pre[i] = value;
        value = activated(extras.activation, value);
        if (extras.residual) value += double(to_float(residual.data[i]));
        if (extras.accumulate) value += double(to_float(before.data[i]));
        expected[i] = value;
    }
    // What was there before: to be added to, or poison.
    void reset() {
        y.fill(NAN), pre.fill(NAN);
        if (extras.accumulate) std::copy_n(before.data, outputs(), y.data);
    }
    MatmulEpilogue<Out> epilogue() const {
        return {extras.bias ? bias.data : nullptr, extras.activation, extras.pre_activation ? pre.data : nullptr,
                extras.residual ? residual.data : nullptr};
    }
};

// `tolerance` 0: every value is the reference, rounded once to Out.
template <class Out>
void expect_close(Out found, double expected, double tolerance) {
    if (tolerance == 0) {
        EXPECT(to_float(found) == to_float(from_float<Out>(float(expected))));
    } else {
        double rounding = std::is_same_v<Out, bf16> ? std::fabs(expected) / 256 : 0;
        EXPECT(std::fabs(to_float(found) - expected) <= tolerance + rounding);
    }
}

template <class Out, class A, class B>
void check(const Case<Out, A, B>& c, double tolerance) {
    for (size_t i = 0; i < c.outputs(); ++i) {
        expect_close(c.y.data[i], c.expected[i], tolerance);
        if (c.extras.pre_activation) expect_close(c.pre.data[i], c.expected_pre[i], tolerance);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// variants

enum class Variant { kSimtSmall, kSimtLarge, kSm80Small, kSm80Large, kSm90 };
const Cuda kCuda{nullptr, 90, 132, 227 * 1024};
constexpr Variant kVariants[] = {Variant::kSimtSmall, Variant::kSimtLarge, Variant::kSm80Small, Variant::kSm80Large,
                                 Variant::kSm90};

// Calls f with every variant that takes the case.
template <class Out, class A, class B, class F>
void for_variants(const Case<Out, A, B>& c, F&& f) {
    for (Variant variant : kVariants) {
        bool simt = variant == Variant::kSimtSmall || variant == Variant::kSimtLarge;
        if (simt == (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>)) continue;
        if constexpr (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>)
            if (variant == Variant::kSm90 && !matmul_sm90_supports(c.a.data, c.b.data, c.problem)) continue;
        f(variant);
    }
}

template <class Out, class A, class B>
void run(Case<Out, A, B>& c, Variant variant) {
    c.reset();
    if constexpr (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>) {
        if (variant == Variant::kSm90) return matmul_sm90(kCuda, c.y.data, c.a.data, c.b.data, c.problem, c.epilogue());
        TileSize size = variant == Variant::kSm80Large ? TileSize::kLarge : TileSize::kSmall;
        matmul_sm80(kCuda, size, c.y.data, c.a.data, c.b.data, c.problem, c.epilogue());
    } else {
        TileSize size = variant == Variant::kSimtLarge ? TileSize::kLarge : TileSize::kSmall;
        matmul_simt(kCuda, size, c.y.data, c.a.data, c.b.data, c.problem, c.epilogue());
    }
}

MatmulProblem plain(int64_t M, int64_t N, int64_t K, int transposes) {
    MatmulProblem p{1, M, N, K};
    p.transpose_a = transposes & 1;
    p.transpose_b = transposes & 2;
    return p;
}

MatmulProblem batched(int64_t batch, MatmulProblem p, bool shared_a, bool shared_b) {
    p.batch = batch;
    if (!shared_a) p.a_step = p.M * p.K;
    if (!shared_b) p.b_step = p.K * p.N;
    return p;
}

template <class Out, class A, class B>
void check_integers(const MatmulProblem& problem, const Extras& extras, size_t offset = 0) {
    Case<Out, A, B> c(problem, extras, offset);
    c.generate(small_integer);
    for_variants(c, [&](Variant variant) {
        run(c, variant);
        check(c, 0);
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// tests

constexpr int kTransposes = 4;

// All in the plain build. The race detector needs no luck, and sanitizers look for the ends of tensors, which no policy
// moves: there the extremes are enough.
void for_policies_of_this_build(const std::function<void()>& body) {
    if (!kAsan && !emu::race_detection()) return for_every_policy(body);
    using emu::Landing, emu::Order;
    const std::pair<Order, Landing> extremes[] = {{Order::kForward, Landing::kLate}, {Order::kRandom, Landing::kEarly}};
    for (auto [order, landing] : extremes) {
        emu::policy() = {};
        emu::policy().order = order;
        emu::policy().copies = emu::policy().math = landing;
        body();
    }
    emu::policy() = {};
}

// More than one tile of every size in each direction, more steps than stages, the last of everything unfinished.
TEST(matmul_bf16_under_every_policy) {
    for (int transposes = 0; transposes < kTransposes; ++transposes) {
        Case<bf16, bf16, bf16> c(plain(72, 136, 328, transposes), {});
        c.generate(small_integer);
        for_policies_of_this_build([&] {
            for_variants(c, [&](Variant variant) {
                run(c, variant);
                check(c, 0);
            });
        });
    }
}

TEST(matmul_simt_under_every_policy) {
    for (int transposes = 0; transposes < kTransposes; ++transposes) {
        Case<float, float, float> c(plain(70, 135, 50, transposes), {});
        c.generate(small_integer);
        for_policies_of_this_build([&] {
            for_variants(c, [&](Variant variant) {
                run(c, variant);
                check(c, 0);
            });
        });
    }
}

// Around the pieces of 8 elements, the tiles of 64 and 128, the steps of 16 and 64.
TEST(matmul_odd_shapes_and_alignments_are_exact) {
    const int64_t shapes[][3] = {{1, 1, 1},    {1, 33, 7},     {3, 1, 31},   {64, 64, 64},
                                 {65, 63, 65}, {129, 130, 17}, {8, 200, 130}};
    for (const auto& [M, N, K] : shapes)
        for (int transposes = 0; transposes < kTransposes; ++transposes)
            for (size_t offset : {0, 1}) {
                check_integers<bf16, bf16, bf16>(plain(M, N, K, transposes), {}, offset);
                check_integers<float, bf16, bf16>(plain(M, N, K, transposes), {}, offset);
                check_integers<float, float, float>(plain(M, N, K, transposes), {}, offset);
                check_integers<float, float, bf16>(plain(M, N, K, transposes), {}, offset);
                check_integers<bf16, float, bf16>(plain(M, N, K, transposes), {}, offset);
            }
}

TEST(matmul_of_no_steps_is_zero) {
    check_integers<bf16, bf16, bf16>(plain(9, 17, 0, 0), {.bias = true});
    check_integers<float, float, float>(plain(9, 17, 0, 0), {.accumulate = true});
}

TEST(matmul_batches_share_an_operand_or_none) {
    for (int transposes = 0; transposes < kTransposes; ++transposes)
        for (int shared = 0; shared < 4; ++shared) {
            MatmulProblem p = batched(3, plain(72, 136, 80, transposes), shared & 1, shared & 2);
            check_integers<bf16, bf16, bf16>(p, {});
            check_integers<float, float, float>(p, {});
            check_integers<bf16, bf16, bf16>(batched(2, plain(9, 17, 21, transposes), shared & 1, shared & 2), {});
        }
}

// Each part of the epilogue alone and all together, with columns in whole fours and not.
template <class Out, class A>
void check_epilogues() {
    for (int64_t N : {136, 67}) {
        const Activation relu = Activation::kRelu;
        MatmulProblem p = plain(70, N, 24, 2);
        check_integers<Out, A, A>(p, {.bias = true});
        check_integers<Out, A, A>(p, {.residual = true});
        check_integers<Out, A, A>(p, {.accumulate = true});
        check_integers<Out, A, A>(p, {.bias = true, .pre_activation = true, .activation = relu});
        check_integers<Out, A, A>(
            batched(2, p, false, true),
            {.bias = true, .pre_activation = true, .residual = true, .accumulate = true, .activation = relu});
        check_integers<Out, A, A>(p, {.bias = true, .residual = true}, 2);
    }
}

TEST(matmul_epilogues) {
    check_epilogues<bf16, bf16>();
    check_epilogues<float, bf16>();
    check_epilogues<float, float>();
}

TEST(matmul_activations) {
    for (Activation kind : {Activation::kGeluTanh, Activation::kGelu, Activation::kSilu, Activation::kTanh}) {
        Case<float, bf16, bf16> c(plain(24, 40, 16, 2), {.bias = true, .activation = kind});
        c.generate(random_number);
        for_variants(c, [&](Variant variant) {
            run(c, variant);
            check(c, 1e-5);
        });
    }
}

template <class Out, class A, class B>
void check_random(const MatmulProblem& problem, double tolerance) {
    Case<Out, A, B> c(problem, {});
    c.generate(random_number);
    for_variants(c, [&](Variant variant) {
        run(c, variant);
        check(c, tolerance);
    });
}

// Sums of 600 products below 1; rounded to tf32, they would be wrong by 4e-3.
TEST(matmul_of_random_numbers) {
    check_random<float, bf16, bf16>(plain(64, 128, 600, 2), 1e-4);
    check_random<bf16, bf16, bf16>(plain(64, 128, 600, 1), 1e-4);
    check_random<float, float, float>(plain(64, 128, 600, 2), 1e-4);
    check_random<float, float, bf16>(plain(64, 128, 600, 0), 1e-4);
}

// The contract: a sum's order depends on K alone. So a row has the same bits alone, in a tile of either size, and in a
// matrix.
TEST(matmul_bits_do_not_depend_on_the_tile_or_the_other_rows) {
    Case<float, bf16, bf16> whole(plain(130, 144, 200, 2), {}), row(plain(1, 144, 200, 2), {});
    whole.generate(random_number);
    std::copy_n(whole.b.data, whole.b.size, row.b.data);
    std::copy_n(whole.a.data + 129 * 200, 200, row.a.data);
    run(whole, Variant::kSm80Large);
    std::vector<float> large(whole.y.data, whole.y.data + whole.y.size);
    run(whole, Variant::kSm80Small);
    EXPECT(std::memcmp(large.data(), whole.y.data, large.size() * 4) == 0);
    run(row, Variant::kSm80Small);
    EXPECT(std::memcmp(&large[129 * 144], row.y.data, 144 * 4) == 0);
    run(whole, Variant::kSm90);
    run(row, Variant::kSm90);
    EXPECT(std::memcmp(whole.y.data + 129 * 144, row.y.data, 144 * 4) == 0);
}

TEST(matmul_has_no_bank_conflicts) {
    for (int transposes = 0; transposes < kTransposes; ++transposes) {
        Case<bf16, bf16, bf16> c(plain(128, 128, 128, transposes), {});
        c.generate(small_integer);
        for_variants(c, [&](Variant variant) {
            emu::statistics() = {};
            run(c, variant);
            EXPECT(emu::statistics().matrix_instructions > 0);
            EXPECT(emu::statistics().bank_conflicts == 0);
        });
    }
}

TEST(matmul_sm90_refuses_what_tma_cannot_describe) {
    Buffer<bf16> a(64 * 64, 0), b(64 * 64, 0);
    auto takes = [&](MatmulProblem p, const bf16* a_data) { return matmul_sm90_supports(a_data, b.data, p); };
    EXPECT(takes(plain(64, 64, 64, 0), a.data));
    EXPECT(takes(plain(63, 61, 64, 2), a.data));   // both K-major: M and N do not matter
    EXPECT(!takes(plain(64, 64, 0, 2), a.data));   // no steps
    EXPECT(!takes(plain(64, 64, 63, 2), a.data));  // rows off 16 bytes: of both,
    EXPECT(!takes(plain(61, 64, 64, 3), a.data));  // of a,
    EXPECT(!takes(plain(64, 61, 64, 0), a.data));  // of b
    EXPECT(!takes(plain(64, 64, 64, 0), a.data + 1));
    MatmulProblem p = plain(8, 8, 8, 0);
    p.batch = 2;
    p.a_step = 68;
    EXPECT(!takes(p, a.data));
}

}  // namespace
