#include "cuda/matmul_choice.h"

#include <algorithm>
#include <cstdint>

namespace llmcore {
namespace {

// One H100's multiprocessor per cycle: products of bf16; bytes from the second-level cache, and from memory, when all
// of them ask (3.0 TB/s at 1.755 GHz).
constexpr double kProducts = 2048, kCacheBytes = 46, kMemoryBytes = 13;
// What of 50 MB of cache a product's operands may take so that none of them comes from memory twice.
constexpr double kCacheSize = 40e6;
// Cycles per element of a tile that storing it takes, or having TMA add it, and adding to what other parts of K left.
constexpr double kStore = 1.0 / 27, kAdd = 2.0 / 27;
constexpr int64_t kStepsPerSplit = 16;  // fewer would not pay for the way through memory
constexpr double kWorthCutting = 0.97;  // of the cycles without parts: the model knows no better than that

int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Cycles until the last multiprocessor is done.
class CostModel {
  public:
    CostModel(const Cuda& cuda, const MatmulProblem& p, const MatmulChoice& choice)
        : choice_(choice),
          block_(block_of(choice.design)),
          clusters_(std::max(cuda.multiprocessors / choice.cluster, 1)),
          tiles_(p.batch * divide_up(divide_up(p.M, block_.M), choice.cluster) * divide_up(p.N, block_.N)),
          steps_(divide_up(p.K, 64)),
          operand_bytes_(2.0 * double(p.batch) * double(p.K) * double(p.M + p.N)) {}

    double cycles() const { return choice_.streams ? of_streams() : of_units(); }
    int64_t all_steps() const { return tiles_ * steps_; }

  private:
    double elements() const { return double(block_.M) * block_.N; }
    double bytes_of_step() const { return 128.0 * (block_.M + double(block_.N) / choice_.cluster); }
    double cycles_of_step() const { return std::max(elements() * 64 / kProducts, bytes_of_step() / kCacheBytes); }
    double cycles_to_store() const { return elements() * (choice_.in_parts() && choice_.in_order ? kAdd : kStore); }

    // Pieces one after another on a multiprocessor, of which the largest tile's `together` end at the same time: in
    // order they still add one by one.
    double total(double product, double pieces, double together) const {
        const double store = cycles_to_store(), wait = choice_.in_order ? (together - 1) * store : 0;
        if (choice_.design == MatmulDesign::kCooperative128x256) return product + pieces * store + wait;
        return std::max(product, pieces * store) + store + wait;  // all but the last store behind the next product
    }

    double of_units() const {
        const double rounds = double(divide_up(tiles_ * choice_.splits, clusters_));
        const double product = double(divide_up(steps_, choice_.splits)) * cycles_of_step();
        const double together = std::clamp(double(clusters_) / double(tiles_), 1.0, double(choice_.splits));
        return total(rounds * product, rounds, together);
    }

    // Units walk along K together, and what one loads others find in the cache. Streams stand at different steps of
    // different tiles: what the cache cannot hold as a whole comes from memory for each of them.
    double of_streams() const {
        const int64_t share = divide_up(all_steps(), clusters_);
        const double pieces = double((share - 1) / steps_ + 2), together = double(steps_ / share + 1);
        double step = cycles_of_step();
        if (operand_bytes_ > kCacheSize) step = std::max(step, bytes_of_step() / kMemoryBytes);
        return total(double(share) * step, pieces, together);
    }

    MatmulChoice choice_;
    MatmulBlock block_;
    int64_t clusters_, tiles_, steps_;
    double operand_bytes_;
};

}  // namespace

MatmulChoice choose_matmul(const Cuda& cuda, const MatmulProblem& p, MatmulResult result) {
    MatmulChoice best;
    double least = CostModel(cuda, p, best).cycles();
    auto consider = [&](const MatmulChoice& choice) {
        const CostModel cost(cuda, p, choice);
        if (choice.streams && (cost.all_steps() == 0 || cost.all_steps() > kMostStreamedSteps)) return;
        const double cycles = cost.cycles() / (choice.in_parts() ? kWorthCutting : 1);
        if (cycles < least) least = cycles, best = choice;
    };
    const bool in_parts = result == MatmulResult::kFloatInParts;
    const int64_t most_splits = in_parts ? std::clamp<int64_t>(p.K / 64 / kStepsPerSplit, 1, 32) : 1;
    for (MatmulDesign design : kMatmulDesigns) {
        if (!design_offers(design, result)) continue;
        for (int cluster : {1, 2}) {
            for (int splits = 1; splits <= most_splits; ++splits)
                consider({design, cluster, splits, false, cuda.deterministic});
            if (in_parts) consider({design, cluster, 1, true, cuda.deterministic});
        }
    }
    return best;
}

}  // namespace llmcore
