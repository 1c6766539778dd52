// csrc/cuda/matmul_sm90.cu below the launcher that chooses: every design with every order of operands, alone and in
// clusters, and what may follow a product. Few multiprocessors, so that every block computes several tiles.
#include <cstring>
#include <string>

#include "cuda/matmul_variants.cuh"
#include "emu/policy.h"
#include "matmul_case.h"

using namespace llmcore;

namespace {

constexpr int kTransposes = 4;
const Cuda kCuda{nullptr, 90, 2, 227 * 1024};    // two blocks alone, or one cluster
const Cuda kLarger{nullptr, 90, 6, 227 * 1024};  // more blocks than tiles: three and more share one

// Floats that a stream may clear; poisoned, and of exactly this size.
struct Workspace {
    explicit Workspace(size_t size) {
        check_cuda(cudaMalloc(&memory, size * sizeof(float)), "cudaMalloc");
        std::fill_n(static_cast<float*>(memory), size, NAN);
    }
    ~Workspace() { (void)cudaFree(memory); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    void* memory = nullptr;
};

template <class Out>
void run(Case<Out, bf16, bf16>& c, const MatmulChoice& choice, const Cuda& cuda = kCuda) {
    c.reset();
    const Workspace workspace(matmul_sm90_workspace(choice, c.problem, c.extras.dbias));
    EXPECT(matmul_sm90_refusal(c.y.data, c.a.data, c.b.data, c.problem, c.epilogue()) == nullptr);
    Out* y = c.y.data;
    std::unique_ptr<Workspace> cleared;  // what a stream clears has to be the device's
    if (std::is_same_v<Out, float> && !choice.in_order && !c.extras.accumulate) {
        cleared = std::make_unique<Workspace>(c.outputs());
        y = static_cast<Out*>(cleared->memory);
    }
    matmul_sm90(cuda, choice, y, c.a.data, c.b.data, c.problem, c.epilogue(), static_cast<float*>(workspace.memory));
    if (y != c.y.data) std::copy_n(y, c.outputs(), c.y.data);
}

// With the next design where float results do not have this one.
template <class Out>
MatmulDesign offered(MatmulDesign design) {
    const MatmulResult result = std::is_same_v<Out, float> ? MatmulResult::kFloat : MatmulResult::kBf16;
    return design_offers(design, result) ? design : MatmulDesign::kPingPong128x160;
}

template <class Out>
void check_integers(const MatmulChoice& choice, const MatmulProblem& problem, const Extras& extras,
                    const Cuda& cuda = kCuda) {
    Case<Out, bf16, bf16> c(problem, extras);
    c.generate(small_integer);
    run(c, choice, cuda);
    check(c, 0);
}

// One tile and a bit down, `across` and a bit across.
MatmulProblem few_tiles(MatmulDesign design, int64_t K, int transposes, int across = 1) {
    return plain(136, across * block_of(design).N + 40, K, transposes);
}

// ---------------------------------------------------------------------------------------------------------------------
// products

// More steps than stages, the last of everything unfinished, and so many tiles that either consumer comes to a second.
TEST(matmul_sm90_under_every_policy) {
    int turn = 0;
    for (MatmulDesign design : kMatmulDesigns) {
        std::vector<Case<bf16, bf16, bf16>> cases;
        for (int transposes = 0; transposes < kTransposes; ++transposes) {
            cases.emplace_back(few_tiles(design, 328, transposes, 2), Extras{});
            cases.back().generate(small_integer);
        }
        for_policies_of_this_build([&] {
            ++turn;
            Case<bf16, bf16, bf16>& c = cases[size_t(turn % kTransposes)];
            run(c, {design, 1 + turn / kTransposes % 2, 1});
            check(c, 0);
        });
    }
}

TEST(matmul_sm90_designs_take_operands_of_every_order) {
    for (MatmulDesign design : kMatmulDesigns)
        for (int transposes = 0; transposes < kTransposes; ++transposes)
            for (int cluster : {1, 2})
                check_integers<bf16>({design, cluster, 1}, few_tiles(design, 136, transposes), {});
}

TEST(matmul_sm90_odd_shapes_are_exact) {
    const int64_t shapes[][3] = {{1, 8, 8}, {64, 64, 64}, {65, 168, 16}, {129, 264, 72}};
    int turn = 0;
    for (const auto& [M, N, K] : shapes)
        for (MatmulDesign design : kMatmulDesigns) {
            check_integers<bf16>({design, 1 + turn++ % 2, 1}, plain(M, N, K, 2), {});
            check_integers<float>({offered<float>(design), 1 + turn % 2, 1}, plain(M, N - 1, K, 2), {});
        }
}

TEST(matmul_sm90_batches_share_an_operand_or_none) {
    for (int shared = 0; shared < 4; ++shared) {
        MatmulProblem p = batched(3, plain(72, 200, 80, shared), shared & 1, shared & 2);
        check_integers<bf16>({MatmulDesign::kPingPong128x192, 1, 1}, p, {});
        check_integers<bf16>({MatmulDesign::kCooperative128x256, 2, 1}, p, {});
    }
}

// What lies between rows, here NaN, is neither read nor written.
template <class Out>
void check_row_steps(const MatmulChoice& choice, int transposes) {
    MatmulProblem p = batched(2, plain(130, 72, 136, transposes), true, true);
    p.a_row_step = 144;
    p.y_row_step = 80;
    if (p.transpose_b) p.N = 67;  // b's rows are along K then
    Case<Out, bf16, bf16> c(p, {.bias = true});
    c.generate(small_integer);
    const int64_t inside = p.transpose_a ? p.M : p.K;
    for (size_t i = 0; i < c.a.size; ++i)
        if (int64_t(i) % p.a_row_step >= inside) c.a.data[i] = from_float<bf16>(NAN);
    run(c, choice);
    check(c, 0);
}

TEST(matmul_sm90_rows_may_lie_apart) {
    for (MatmulDesign design : kMatmulDesigns)
        for (int transposes = 0; transposes < kTransposes; ++transposes) {
            check_row_steps<bf16>({design, 1 + transposes % 2, 1}, transposes);
            if (transposes & 2) check_row_steps<float>({offered<float>(design), 1, 1}, transposes);
        }
}

// The contract: a row has the same bits alone and in a matrix, whatever the tile.
TEST(matmul_sm90_bits_do_not_depend_on_the_design) {
    Case<float, bf16, bf16> whole(plain(130, 144, 200, 2), {}), row(plain(1, 144, 200, 2), {});
    whole.generate(random_number);
    std::copy_n(whole.b.data, whole.b.size, row.b.data);
    std::copy_n(whole.a.data + 129 * 200, 200, row.a.data);
    run(whole, {});
    const std::vector<float> first(whole.y.data, whole.y.data + whole.y.size);
    for (MatmulDesign design : kMatmulDesigns) {
        if (!design_offers(design, MatmulResult::kFloat)) continue;
        run(whole, {design, 2, 1});
        EXPECT(std::memcmp(first.data(), whole.y.data, first.size() * 4) == 0);
        run(row, {design, 1, 1});
        EXPECT(std::memcmp(&first[129 * 144], row.y.data, 144 * 4) == 0);
    }
}

TEST(matmul_sm90_has_no_bank_conflicts) {
    for (MatmulDesign design : kMatmulDesigns) {
        emu::statistics() = {};
        check_integers<bf16>({design, 1, 1}, few_tiles(design, 64, 2), {.residual = true});
        EXPECT(emu::statistics().matrix_instructions > 0);
        EXPECT(emu::statistics().bank_conflicts == 0);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// what follows a product

const Extras kEpilogues[] = {
    {.bias = true},
    {.residual = true},
    {.accumulate = true},
    {.bias = true, .pre_activation = true, .activation = Activation::kRelu},
    {.bias = true, .pre_activation = true, .residual = true, .activation = Activation::kRelu},
    {.activation = Activation::kRelu, .slope = true},
    {.activation = Activation::kRelu, .slope = true, .dbias = true},
    {.dbias = true},
};

TEST(matmul_sm90_epilogues) {
    for (MatmulDesign design : kMatmulDesigns)
        for (const Extras& extras : kEpilogues) {
            const MatmulResult result = extras.dbias ? MatmulResult::kBf16WithColumnSums : MatmulResult::kBf16;
            if (design_offers(design, result))
                check_integers<bf16>({design, 1 + extras.bias, 1}, few_tiles(design, 72, 2), extras);
            if (!extras.slope && !extras.dbias)
                check_integers<float>({offered<float>(design), 1 + extras.residual, 1}, plain(72, 67, 24, 2), extras);
        }
    check_integers<float>({}, plain(72, 136, 24, 2), {.bias = true, .residual = true, .accumulate = true});
}

TEST(matmul_sm90_epilogues_under_every_policy) {
    int turn = 0;
    for (const Extras& extras : kEpilogues) {
        const int64_t batch = extras.dbias ? 1 : 2;  // gradients of biases have none
        Case<bf16, bf16, bf16> c(batched(batch, plain(72, 296, 16, 2), false, true), extras);
        c.generate(small_integer);
        for_policies_of_this_build([&] {
            ++turn;
            run(c, {turn % 2 ? MatmulDesign::kPingPong64x256 : MatmulDesign::kCooperative128x256, 1 + turn / 2 % 2, 1});
            check(c, 0);
        });
    }
}

TEST(matmul_sm90_activations) {
    for (Activation kind : {Activation::kGeluTanh, Activation::kGelu, Activation::kSilu, Activation::kTanh}) {
        Case<bf16, bf16, bf16> back(plain(72, 40, 16, 0), {.activation = kind, .slope = true, .dbias = true});
        back.generate(random_number);
        run(back, {});
        check(back, 1e-5);
        Case<bf16, bf16, bf16> half(plain(24, 40, 16, 2), {.bias = true, .activation = kind});
        half.generate(random_number);
        run(half, {});
        check(half, 1e-5);
        Case<float, bf16, bf16> whole(plain(24, 40, 16, 2), {.bias = true, .activation = kind});
        whole.generate(random_number);
        run(whole, {});
        check(whole, 1e-5);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// K in parts

TEST(matmul_sm90_adds_the_parts_of_k) {
    for (MatmulDesign design : kMatmulDesigns)
        for (int splits : {2, 5}) {
            check_integers<float>({offered<float>(design), 1, splits}, few_tiles(design, 400, 1),
                                  {.accumulate = splits == 2});
            check_integers<float>({offered<float>(design), 2, splits}, few_tiles(design, 400, 2),
                                  {.accumulate = splits == 5});
        }
}

// 7 steps a tile: streams begin and end within tiles, where several share one and where each has several.
TEST(matmul_sm90_streams_share_the_steps_of_all_tiles) {
    for (MatmulDesign design : kMatmulDesigns)
        for (int cluster : {1, 2})
            for (bool in_order : {true, false}) {
                const MatmulChoice choice{offered<float>(design), cluster, 1, true, in_order};
                const MatmulProblem several = few_tiles(design, 400, cluster),
                                    one = plain(72, 104, 400, 3 * cluster % 4);
                check_integers<float>(choice, several, {.accumulate = cluster == 1}, kCuda);
                check_integers<float>(choice, one, {.accumulate = cluster == 2}, kLarger);
            }
}

// Fewer steps than blocks, one step each, and batches.
TEST(matmul_sm90_streams_of_few_steps) {
    for (bool in_order : {true, false}) {
        const MatmulChoice choice{MatmulDesign::kPingPong64x256, 1, 1, true, in_order};
        check_integers<float>(choice, plain(8, 8, 72, 2), {}, kLarger);
        check_integers<float>(choice, plain(72, 8, 136, 1), {}, kLarger);
        check_integers<float>(choice, batched(3, plain(72, 40, 200, 1), false, false), {.accumulate = true}, kLarger);
    }
}

// Sums of random numbers show the order in which they were added.
TEST(matmul_sm90_parts_of_k_have_the_same_bits_under_every_policy) {
    Case<float, bf16, bf16> c(plain(72, 264, 520, 1), {.accumulate = true});
    c.generate(random_number);
    for (bool streams : {false, true})
        for (MatmulDesign design : {MatmulDesign::kCooperative128x256, MatmulDesign::kPingPong128x160}) {
            std::vector<float> first;
            for_policies_of_this_build([&] {
                run(c, {design, 1, streams ? 1 : 4, streams}, kLarger);
                check(c, 1e-4);
                if (first.empty()) first.assign(c.y.data, c.y.data + c.y.size);
                EXPECT(std::memcmp(first.data(), c.y.data, first.size() * 4) == 0);
            });
        }
}

TEST(matmul_sm90_adds_parts_in_any_order_under_every_policy) {
    int turn = 0;
    for (MatmulDesign design : kMatmulDesigns) {
        Case<float, bf16, bf16> c(few_tiles(design, 328, 1), {.accumulate = true});
        c.generate(small_integer);
        for_policies_of_this_build([&] {
            const bool streams = ++turn % 2;
            run(c, {offered<float>(design), 1 + turn / 2 % 2, streams ? 1 : 3, streams, false});
            check(c, 0);
        });
    }
}

// Rows that TMA cannot describe, and rows apart that are not to be cleared, are added in their order: the bits show it.
TEST(matmul_sm90_adds_in_order_where_tma_cannot) {
    MatmulProblem apart = plain(72, 64, 520, 2);
    apart.y_row_step = 72;
    for (const auto& [problem, offset] :
         {std::pair{plain(72, 66, 520, 2), size_t{0}}, {plain(72, 64, 520, 2), size_t{1}}, {apart, size_t{0}}}) {
        Case<float, bf16, bf16> c(problem, {.accumulate = problem.y_row_step == 0}, offset);
        Case<float, bf16, bf16> aligned(problem, {});  // its operands start on 16 bytes
        c.generate(random_number);
        std::copy_n(c.a.data, c.a.size, aligned.a.data);
        std::copy_n(c.b.data, c.b.size, aligned.b.data);
        const Workspace workspace(1000);
        std::vector<float> first;
        for (bool in_order : {true, false}) {
            c.reset();
            matmul_sm90(kLarger, {MatmulDesign::kPingPong64x256, 1, 5, false, in_order}, c.y.data, aligned.a.data,
                        aligned.b.data, c.problem, {}, static_cast<float*>(workspace.memory));
            check(c, 1e-4);
            if (first.empty()) first.assign(c.y.data, c.y.data + c.y.size);
            EXPECT(std::memcmp(first.data(), c.y.data, first.size() * 4) == 0);
        }
    }
}

TEST(matmul_sm90_refuses_more_steps_than_a_stream_counts) {
    Buffer<bf16> a(64, 0), b(64, 0);
    Buffer<float> y(64, 0);
    std::string sentence;
    try {
        MatmulProblem p = plain(1 << 20, 1 << 20, 1 << 13, 2);
        matmul_sm90<float>(kCuda, {MatmulDesign::kCooperative128x256, 1, 1, true}, y.data, a.data, b.data, p, {},
                           y.data);
    } catch (const std::exception& error) {
        sentence = error.what();
    }
    EXPECT(sentence == "matmul_sm90: 4294967296 steps are too many for streams");
}

// ---------------------------------------------------------------------------------------------------------------------
// which problems, and how

TEST(matmul_sm90_refuses_what_tma_cannot_describe) {
    Buffer<bf16> a(64 * 64, 0), b(64 * 64, 0), y(64 * 64, 0);
    Buffer<float> y_float(64 * 64, 1);
    auto why = [&](const MatmulProblem& p, const bf16* a_data, MatmulEpilogue<bf16> epilogue = {}) {
        const char* reason = matmul_sm90_refusal(y.data, a_data, b.data, p, epilogue);
        return std::string(reason != nullptr ? reason : "");
    };
    const std::string row_of_a = "a row of a does not start on 16 bytes",
                      row_of_b = "a row of b does not start on 16 bytes";
    EXPECT(why(plain(64, 64, 64, 0), a.data) == "");
    EXPECT(why(plain(63, 64, 64, 2), a.data) == "");  // both K-major: M does not matter
    EXPECT(why(plain(64, 64, 0, 2), a.data) == "the first product writes the sums, and there is none");
    EXPECT(why(plain(64, 64, 63, 2), a.data) == row_of_a);
    EXPECT(why(plain(61, 64, 64, 3), a.data) == row_of_a);
    EXPECT(why(plain(64, 64, 61, 3), a.data) == row_of_b);
    EXPECT(why(plain(64, 61, 64, 0), a.data) == row_of_b);
    EXPECT(why(plain(64, 64, 64, 0), a.data + 1) == row_of_a);
    EXPECT(why(plain(64, 61, 64, 2), a.data) == "a row of y does not start on 16 bytes");
    EXPECT(matmul_sm90_refusal(y_float.data, a.data, b.data, plain(64, 61, 64, 2), {}) == nullptr);  // not by TMA
    MatmulProblem p = plain(8, 8, 8, 0);
    p.batch = 2;
    p.a_step = 68;
    EXPECT(why(p, a.data) == row_of_a);
    p = plain(16, 61, 64, 2);
    p.a_row_step = p.y_row_step = 72;
    EXPECT(why(p, a.data) == "");
    p.y_row_step = 66;
    EXPECT(why(p, a.data) == "a row of y does not start on 16 bytes");
    p.a_row_step = 66;
    EXPECT(why(p, a.data) == row_of_a);
    p = plain(64, 64, 64, 0);
    EXPECT(why(p, a.data, {.pre_activation = y.data + 4}) == "a row of pre_activation does not start on 16 bytes");
    EXPECT(why(p, a.data, {.residual = y.data + 4}) == "a row of residual does not start on 16 bytes");
    EXPECT(why(p, a.data, {.slope_at = y.data + 4}) == "a row of slope_at does not start on 16 bytes");
    EXPECT(matmul_sm90_refusal(y_float.data, a.data, b.data, p, {.dbias = y_float.data}) != nullptr);
    p.accumulate = true;
    EXPECT(why(p, a.data, {.residual = y.data}) == "y and residual would have to be read, and there is room for one");
}

// Forward, back to the input, back to the weight: of GPT-2's layers for T tokens.
template <class F>
void for_products(int64_t T, int64_t C, F&& f) {
    for (const auto& [out, in] : {std::pair{3 * C, C}, {C, C}, {4 * C, C}, {C, 4 * C}}) {
        f(plain(T, out, in, 2), false);
        f(plain(T, in, out, 0), false);
        f(plain(out, in, T, 1), true);
    }
}

// GPT-2 124M to 1558M, an eighth in each direction, as chosen for a device of six multiprocessors.
TEST(matmul_sm90_multiplies_the_shapes_of_gpt2) {
    const Cuda device{nullptr, 90, 6, 227 * 1024};
    for (int64_t C : {768, 1024, 1280, 1600}) {
        if (kAsan && C != 1600) continue;
        for_products(144, C / 8, [&](const MatmulProblem& p, bool is_weight) {
            const MatmulChoice choice =
                choose_matmul(device, p, is_weight ? MatmulResult::kFloatInParts : MatmulResult::kBf16);
            if (is_weight)
                check_integers<float>(choice, p, {.accumulate = true});
            else
                check_integers<bf16>(choice, p, {});
        });
    }
}

TEST(matmul_sm90_designs_without_registers_are_refused) {
    Case<float, bf16, bf16> c(plain(8, 8, 8, 2), {});
    c.generate(small_integer);
    std::string reason;
    try {
        run(c, {MatmulDesign::kPingPong128x192, 1, 1});
    } catch (const std::invalid_argument& error) {
        reason = error.what();
    }
    EXPECT(reason == "matmul_sm90: 128x192 has no registers left for float results or column sums");
}

}  // namespace
