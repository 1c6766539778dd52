#include "cuda/launch.cuh"
#include "cuda/random_shift.h"

namespace llmcore {
namespace {

__global__ void write_random_shift_kernel(uint64_t* word, uint64_t shift) {
    *word = shift;
}

}  // namespace

void write_random_shift(const Cuda& backend, uint64_t* word, uint64_t shift) {
    launch({dim3(1), dim3(1), 0, backend.stream}, write_random_shift_kernel, word, shift);
}

}  // namespace llmcore
