// How full-size products are computed: of training steps of GPT-2 and Llama on one H100. benchmarks/ladder/choices.md
// is the table; LLMCORE_WRITE=1 kernel_tests_plain matmul_choices_are_those_of_the_table writes it.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "core/check.h"
#include "cuda/matmul_variants.cuh"
#include "matmul_case.h"

using namespace llmcore;

namespace {

const Cuda kH100{nullptr, 90, 132, 227 * 1024};

struct Layer {
    const char* name;
    int64_t out, in;
};

struct Model {
    const char* name;
    std::vector<Layer> layers;
};

Model gpt2(const char* name, int64_t C) {
    return {name, {{"qkv", 3 * C, C}, {"attention output", C, C}, {"up", 4 * C, C}, {"down", C, 4 * C}}};
}

// Grouped queries: keys and values have fewer heads.
Model llama(const char* name, int64_t C, int64_t kv, int64_t hidden) {
    return {name, {{"q, attention output", C, C}, {"k, v", kv, C}, {"gate, up", hidden, C}, {"down", C, hidden}}};
}

const Model kModels[] = {gpt2("GPT-2 124M", 768),
                         gpt2("GPT-2 355M", 1024),
                         gpt2("GPT-2 774M", 1280),
                         gpt2("GPT-2 1558M", 1600),
                         llama("Llama 3.2 1B", 2048, 512, 8192),
                         llama("Llama 3 8B", 4096, 1024, 14336)};
constexpr int64_t kTokens[] = {65536, 8192, 2048};

struct Product {
    MatmulProblem problem;
    MatmulResult result;
};

// Forward, back to the input, back to the weight.
std::vector<Product> products_of(const Layer& layer, int64_t tokens) {
    return {{plain(tokens, layer.out, layer.in, 2), MatmulResult::kBf16},
            {plain(tokens, layer.in, layer.out, 0), MatmulResult::kBf16},
            {plain(layer.out, layer.in, tokens, 1), MatmulResult::kFloatInParts}};
}

template <class F>
void for_all_products(F&& f) {
    for (const Model& model : kModels)
        for (int64_t tokens : kTokens)
            for (const Layer& layer : model.layers)
                for (const Product& product : products_of(layer, tokens))
                    f(product, choose_matmul(kH100, product.problem, product.result));
}

// Of what the device's tensor cores could multiply until the last of them is done, the part that is asked for.
double efficiency(const MatmulProblem& p, const MatmulChoice& choice) {
    const MatmulBlock block = block_of(choice.design);
    const int64_t clusters = kH100.multiprocessors / choice.cluster, steps = tiles_of(p.K, 64);
    const int64_t tiles = int64_t(tiles_of(p.M, block.M * choice.cluster)) * tiles_of(p.N, block.N);
    const int64_t longest = choice.streams ? tiles_of(tiles * steps, clusters)
                                           : tiles_of(tiles * choice.splits, clusters) * tiles_of(steps, choice.splits);
    return double(p.M) * double(p.N) * double(steps) / (132.0 * block.M * block.N * double(longest));
}

std::string described(const Product& product) {
    const MatmulChoice choice = choose_matmul(kH100, product.problem, product.result);
    const MatmulBlock block = block_of(choice.design);
    const std::string parts = choice.streams ? ", streams" : concat(", ", choice.splits, " parts");
    return concat(block.M, "x", block.N, choice.cluster == 2 ? " pairs" : "", choice.in_parts() ? parts : "", ", ",
                  std::lround(100 * efficiency(product.problem, choice)), " %");
}

std::string table() {
    std::ostringstream text;
    text << "# What is computed how\n\n"
            "Each product of a training step as `csrc/cuda/matmul_choice.cpp` has `matmul_sm90.cu` compute it on an "
            "H100 "
            "(132\nmultiprocessors), by its cost model; none of it has run on hardware. 128x256 is cooperative, the "
            "other "
            "tiles are ping-pong.\nPairs: clusters of two. Parts, streams: K is cut, equally for each tile or equally "
            "for "
            "all multiprocessors. Per cent: of what the\ntensor cores could multiply until the last one is done, the "
            "part "
            "that is asked for; the rest are edges of tiles and the last\nwave.\n\n"
            "`tests/cpp/cuda/test_matmul_choice.cpp` compares this table with the choices, and writes it.\n\n"
            "| model | tokens | layer | forward | back to the input | back to the weight |\n"
            "| --- | --- | --- | --- | --- | --- |\n";
    for (const Model& model : kModels)
        for (int64_t tokens : kTokens)
            for (const Layer& layer : model.layers) {
                text << "| " << model.name << " | " << tokens << " | " << layer.name << " " << layer.out << " x "
                     << layer.in << " |";
                for (const Product& product : products_of(layer, tokens)) text << " " << described(product) << " |";
                text << "\n";
            }
    return text.str();
}

TEST(matmul_choices_are_those_of_the_table) {
    const std::string path = LLMCORE_CHECKOUT "/benchmarks/ladder/choices.md";
    if (std::getenv("LLMCORE_WRITE") != nullptr) std::ofstream(path) << table();
    std::ostringstream written;
    written << std::ifstream(path).rdbuf();
    EXPECT(written.str() == table());
}

TEST(matmul_choices_keep_the_device_busy) {
    for_all_products([](const Product& product, const MatmulChoice& choice) {
        if (product.problem.M == 65536 || product.problem.K == 65536)
            EXPECT(efficiency(product.problem, choice) > 0.85);
    });
}

// Parts cost the way through memory: none where whole tiles fill the device's waves, and never between a product and
// what follows it.
TEST(matmul_choices_cut_k_only_where_it_pays) {
    int streamed = 0, split = 0;
    for_all_products([&](const Product& product, const MatmulChoice& choice) {
        streamed += choice.streams, split += choice.splits > 1;
        if (!choice.in_parts()) return;
        EXPECT(product.result == MatmulResult::kFloatInParts);
        EXPECT(choice.in_order);
        for (MatmulDesign design : kMatmulDesigns)
            if (design_offers(design, product.result))
                EXPECT(efficiency(product.problem, {design, choice.cluster}) < 0.97);
        EXPECT(efficiency(product.problem, choice) > efficiency(product.problem, {choice.design, choice.cluster}));
    });
    EXPECT(streamed > 0 && split > 0);
}

// Streams stand at different steps of K, so that operands which the cache cannot hold would be loaded again and again.
TEST(matmul_choices_stream_only_what_the_cache_holds) {
    for_all_products([](const Product& product, const MatmulChoice& choice) {
        const MatmulProblem& p = product.problem;
        if (choice.streams) EXPECT(2 * p.K * (p.M + p.N) <= 40'000'000);
    });
}

// The workspace is asked for before anybody looks whether there is anything to do.
TEST(matmul_choices_of_nothing_are_whole) {
    for (const MatmulProblem& p : {plain(0, 64, 64, 1), plain(64, 0, 64, 1), plain(64, 64, 0, 1)})
        EXPECT(!choose_matmul(kH100, p, MatmulResult::kFloatInParts).in_parts());
}

TEST(matmul_choices_leave_out_designs_without_registers) {
    for (MatmulResult result : {MatmulResult::kFloat, MatmulResult::kFloatInParts, MatmulResult::kBf16WithColumnSums})
        EXPECT(choose_matmul(kH100, plain(65536, 768, 768, 2), result).design != MatmulDesign::kPingPong128x192);
}

TEST(matmul_choices_add_in_any_order_only_if_allowed) {
    Cuda free = kH100;
    free.deterministic = false;
    const MatmulProblem gradient = plain(768, 768, 8192, 1);
    EXPECT(choose_matmul(kH100, gradient, MatmulResult::kFloatInParts).in_order);
    const MatmulChoice choice = choose_matmul(free, gradient, MatmulResult::kFloatInParts);
    EXPECT(choice.in_parts() && !choice.in_order);
    EXPECT(!choose_matmul(free, gradient, MatmulResult::kFloat).in_parts());
}

}  // namespace
