// How csrc/cuda/matmul_sm90.cu is to compute a product: the tile and how its warpgroups share it, the blocks that share
// what they load, and in which parts K is summed. The choice follows from the problem, the device's multiprocessors and
// whether results are to be deterministic, so that bits are the same on GPUs of one model.
#pragma once

#include "core/backend.h"
#include "kernels/matmul.h"

namespace llmcore {

// Cooperative: two warpgroups halve a tile. Ping-pong: each has a tile of its own, and one stores while the other
// multiplies.
enum class MatmulDesign { kCooperative128x256, kPingPong128x192, kPingPong128x160, kPingPong64x256 };
constexpr MatmulDesign kMatmulDesigns[] = {MatmulDesign::kCooperative128x256, MatmulDesign::kPingPong128x192,
                                           MatmulDesign::kPingPong128x160, MatmulDesign::kPingPong64x256};

struct MatmulChoice {
    MatmulDesign design = MatmulDesign::kCooperative128x256;
    int cluster = 1;  // blocks, 1 or 2: tiles below each other, whose columns' operand is loaded once
    int splits = 1;   // equal parts of K
    // Stream-K: clusters share all tiles' steps equally, wherever that cuts K. Then splits is 1.
    bool streams = false;
    // Parts are added in their order, which keeps the bits; otherwise as they come, by TMA.
    bool in_order = true;
    constexpr bool in_parts() const { return splits > 1 || streams; }
};

struct MatmulBlock {
    int M, N;
};
constexpr MatmulBlock block_of(MatmulDesign design) {
    switch (design) {
        case MatmulDesign::kCooperative128x256:
            return {128, 256};
        case MatmulDesign::kPingPong128x192:
            return {128, 192};
        case MatmulDesign::kPingPong128x160:
            return {128, 160};
        case MatmulDesign::kPingPong64x256:
            return {64, 256};
    }
    return {};
}

// Kernels count a stream's steps in 32 bits.
constexpr int64_t kMostStreamedSteps = 1 << 30;

// What sums become. Only float ones that nothing follows but adding may be summed in parts of K.
enum class MatmulResult { kBf16, kBf16WithColumnSums, kFloat, kFloatInParts };

// Beside 192 sums a thread has too few registers for the addresses of float results, or one more sum.
constexpr bool design_offers(MatmulDesign design, MatmulResult result) {
    return result == MatmulResult::kBf16 || design != MatmulDesign::kPingPong128x192;
}

MatmulChoice choose_matmul(const Cuda& cuda, const MatmulProblem& problem, MatmulResult result);

}  // namespace llmcore
