// Writes the word behind Cuda::random_shift.
#pragma once

#include <cstdint>

#include "core/backend.h"

namespace llmcore {

// By a kernel, whose argument the value is: a copy would read host memory at a later time, or make the host wait.
void write_random_shift(const Cuda& backend, uint64_t* word, uint64_t shift);

}  // namespace llmcore
