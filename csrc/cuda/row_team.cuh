// A row of a matrix in the registers of a team of warps, in vectors of 16 bytes.
#pragma once

#include "cuda/block.cuh"
#include "cuda/vec.cuh"

namespace llmcore {

// body(0) ... body(kCount - 1), unrolled, so that arrays indexed by it stay in registers.
template <int kCount, class Body>
LLMCORE_DEVICE void for_elements(Body&& body) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) body(i);
}

// What the calling thread holds of its team's row: of every kWarps * 32 vectors one, kVectors in all.
template <class T, int kWarps, int kVectors>
class TeamPart {
  public:
    static constexpr int kThreads = kWarps * 32, kPer = kPerVector<T>;

    // C: elements of a row, a multiple of kPer and at most kThreads * kVectors * kPer.
    LLMCORE_DEVICE explicit TeamPart(int64_t C) : first_(int64_t(threadIdx.x) % kThreads * kPer), C_(C) {}

    LLMCORE_DEVICE int team() const { return int(threadIdx.x) / kThreads; }  // its number in the block
    LLMCORE_DEVICE bool is_first() const { return first_ == 0; }

    // body(v, c) for each vector v of this thread that lies inside the row; c is its first column.
    template <class Body>
    LLMCORE_DEVICE void for_each(Body&& body) const {
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
            const int64_t c = first_ + int64_t(v) * kThreads * kPer;
            if (c < C_) body(v, c);
        }
    }

    LLMCORE_DEVICE void load(ptx::Words (&words)[kVectors], const T* row LLMCORE_AND_WHERE) const {
        for_each(
            [&](int v, int64_t c) { words[v] = ptx::load_words<ptx::Cache::kStreaming>(row + c LLMCORE_PASS_WHERE); });
    }

  private:
    int64_t first_, C_;
};

}  // namespace llmcore
