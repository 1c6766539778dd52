// The portable matmul kernels, below the launcher that chooses among them: every variant on every problem that it
// takes, under every policy, in the three builds.
#include "conflicts.h"
#include "cuda/matmul_variants.cuh"
#include "matmul_case.h"

using namespace llmcore;

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// variants

enum class Variant { kSimtSmall, kSimtLarge, kSm80Small, kSm80Large };
const Cuda kCuda{nullptr, 90, 132, 227 * 1024};
constexpr Variant kVariants[] = {Variant::kSimtSmall, Variant::kSimtLarge, Variant::kSm80Small, Variant::kSm80Large};

// Calls f with every variant that takes the case.
template <class Out, class A, class B, class F>
void for_variants(const Case<Out, A, B>&, F&& f) {
    for (Variant variant : kVariants) {
        bool simt = variant == Variant::kSimtSmall || variant == Variant::kSimtLarge;
        if (simt != (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>)) f(variant);
    }
}

TileSize size_of(Variant variant) {
    return variant == Variant::kSm80Large || variant == Variant::kSimtLarge ? TileSize::kLarge : TileSize::kSmall;
}

template <class Out, class A, class B>
void multiply(const Cut& cut, Out* y, Case<Out, A, B>& c, float* column_sums = nullptr) {
    if constexpr (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>)
        matmul_sm80(kCuda, cut, y, c.a.data, c.b.data, c.problem, c.epilogue(), column_sums);
    else
        matmul_simt(kCuda, cut, y, c.a.data, c.b.data, c.problem, c.epilogue(), column_sums);
}

template <class Out, class A, class B>
void run(Case<Out, A, B>& c, Variant variant) {
    c.reset();
    const Cut cut{size_of(variant)};
    if (!c.extras.dbias) return multiply(cut, c.y.data, c);
    const size_t tiles = tiles_of(c.problem.M, side_of(cut.tile)), N = size_t(c.problem.N);
    Buffer<float> column_sums(tiles * N, 0);
    column_sums.fill(NAN);
    multiply(cut, c.y.data, c, column_sums.data);
    for (size_t i = 0; i < column_sums.size; ++i) c.dbias.data[i % N] += column_sums.data[i];
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

// The gradient on its way back through an activation, with the sums of its columns over each tile's rows.
template <class Out, class A>
void check_backward() {
    const Activation relu = Activation::kRelu;
    for (int64_t N : {136, 67})
        for (int64_t y_row_step : {int64_t{0}, N + 5}) {
            MatmulProblem p = plain(150, N, 24, 0);
            p.y_row_step = y_row_step;
            check_integers<Out, A, A>(p, {.activation = relu, .slope = true});
            check_integers<Out, A, A>(p, {.activation = relu, .slope = true, .dbias = true}, 2);
            check_integers<Out, A, A>(p, {.dbias = true});
        }
}

TEST(matmul_backward) {
    check_backward<bf16, bf16>();
    check_backward<float, float>();
}

TEST(matmul_backward_under_every_policy) {
    Case<bf16, bf16, bf16> c(plain(72, 72, 136, 0), {.activation = Activation::kRelu, .slope = true, .dbias = true});
    c.generate(small_integer);
    for_policies_of_this_build([&] {
        for_variants(c, [&](Variant variant) {
            run(c, variant);
            check(c, 0);
        });
    });
}

TEST(matmul_activations) {
    for (Activation kind : {Activation::kGeluTanh, Activation::kGelu, Activation::kSilu, Activation::kTanh}) {
        Case<float, bf16, bf16> c(plain(24, 40, 16, 2), {.bias = true, .activation = kind});
        c.generate(random_number);
        for_variants(c, [&](Variant variant) {
            run(c, variant);
            check(c, 1e-5);
        });
        Case<bf16, bf16, bf16> back(plain(24, 40, 16, 0), {.activation = kind, .slope = true, .dbias = true});
        back.generate(random_number);
        for_variants(back, [&](Variant variant) {
            run(back, variant);
            check(back, 1e-5);
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
}

// On the way to y and on the way back, with rows that start on 16 bytes and not.
template <class T>
void check_bank_conflicts(int64_t N, const Extras& extras) {
    for (int transposes = 0; transposes < kTransposes; ++transposes) {
        Case<T, T, T> c(plain(128, N, 128, transposes), extras);
        c.generate(small_integer);
        for_variants(c, [&](Variant variant) { expect_no_bank_conflicts([&] { run(c, variant); }); });
    }
}

TEST(matmul_has_no_bank_conflicts) {
    const Extras back = {.activation = Activation::kRelu, .slope = true, .dbias = true};
    for (int64_t N : {128, 67}) {
        check_bank_conflicts<bf16>(N, {.bias = true});
        EXPECT(emu::statistics().matrix_instructions > 0);
        check_bank_conflicts<bf16>(N, back);
        check_bank_conflicts<float>(N, {.bias = true});
        check_bank_conflicts<float>(N, back);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// rows that lie apart, and sums in parts

// What lies between rows, here NaN, is neither read nor written; rows of a may end anywhere.
template <class Out, class A>
void check_row_steps(MatmulProblem p, int64_t a_row_step) {
    p.a_row_step = a_row_step;
    p.y_row_step = 72;
    Case<Out, A, A> c(p, {});
    c.generate(small_integer);
    const int64_t inside = p.transpose_a ? p.M : p.K;
    for (size_t i = 0; i < c.a.size; ++i)
        if (int64_t(i) % p.a_row_step >= inside) c.a.data[i] = from_float<A>(NAN);
    for_variants(c, [&](Variant variant) {
        run(c, variant);
        check(c, 0);
    });
}

TEST(matmul_rows_may_lie_apart) {
    for (int transposes = 0; transposes < kTransposes; ++transposes)
        for (int64_t a_row_step : {136, 131}) {
            check_row_steps<bf16, bf16>(plain(130, 67, 129, transposes), a_row_step);
            check_row_steps<float, float>(plain(130, 67, 129, transposes), a_row_step);
        }
}

// Each part of K is a matrix of its own; together they are the product.
template <class A>
void check_parts(int64_t K, int parts, int part_k) {
    for (int transposes = 0; transposes < kTransposes; ++transposes)
        for (TileSize tile : {TileSize::kSmall, TileSize::kLarge}) {
            Case<float, A, A> c(batched(2, plain(9, 70, K, transposes), false, true), {});
            c.generate(small_integer);
            Buffer<float> sums(c.outputs() * size_t(parts), 0);
            sums.fill(NAN);
            multiply({tile, parts, part_k}, sums.data, c);
            const size_t matrix = c.outputs() / 2;
            for (size_t i = 0; i < c.outputs(); ++i) {
                float sum = 0;
                for (size_t part = 0; part < size_t(parts); ++part)
                    sum += sums.data[(i / matrix * size_t(parts) + part) * matrix + i % matrix];
                c.y.data[i] = sum;
            }
            check(c, 0);
        }
}

TEST(matmul_in_parts) {
    check_parts<bf16>(200, 2, 128);
    check_parts<bf16>(193, 4, 64);
    check_parts<float>(200, 2, 128);
    check_parts<float>(129, 3, 64);
}

}  // namespace
