#include "cuda/matmul_choice.h"

#include <algorithm>
#include <cstdint>

namespace llmcore {
namespace {

// One H100's multiprocessor per cycle: products of bf16, and bytes from the second-level cache when all of them ask.
constexpr double kProducts = 2048, kCacheBytes = 46;
// Cycles per element of a tile that storing it takes, and adding to what other parts of K have left.
constexpr double kStore = 1.0 / 27, kAdd = 2.0 / 27;
constexpr int64_t kStepsPerSplit = 16;  // fewer would not pay for the way through memory

int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Cycles until the last multiprocessor is done.
double cycles_of(const Cuda& cuda, const MatmulProblem& p, const MatmulChoice& choice) {
    const MatmulBlock block = block_of(choice.design);
    const int64_t steps = divide_up(divide_up(p.K, 64), choice.splits);
    const int64_t units =
        p.batch * divide_up(divide_up(p.M, block.M), choice.cluster) * divide_up(p.N, block.N) * choice.splits;
    const int64_t rounds = divide_up(units, std::max(cuda.multiprocessors / choice.cluster, 1));
    const double elements = double(block.M) * block.N, bytes = 128.0 * (block.M + double(block.N) / choice.cluster);
    const double product = double(steps) * std::max(elements * 64 / kProducts, bytes / kCacheBytes);
    const double store = elements * (choice.splits > 1 ? kAdd : kStore);
    if (choice.design == MatmulDesign::kCooperative128x256) return double(rounds) * (product + store);
    return double(rounds) * std::max(product, store) + store;  // all but the last store behind the next product
}

}  // namespace

MatmulChoice choose_matmul(const Cuda& cuda, const MatmulProblem& p, MatmulResult result) {
    MatmulChoice best;
    double least = cycles_of(cuda, p, best);
    const int64_t most_splits =
        result == MatmulResult::kFloatInParts ? std::clamp<int64_t>(p.K / 64 / kStepsPerSplit, 1, 32) : 1;
    for (MatmulDesign design : kMatmulDesigns) {
        if (!design_offers(design, result)) continue;
        for (int cluster : {1, 2})
            for (int splits = 1; splits <= most_splits; ++splits) {
                const MatmulChoice choice{design, cluster, splits};
                const double cycles = cycles_of(cuda, p, choice);
                if (cycles < least) least = cycles, best = choice;
            }
    }
    return best;
}

}  // namespace llmcore
