// The CUDA runtime's API for host code: the toolkit's, or the emulator's, which has the same names.
#pragma once

#if LLMCORE_EMULATE
#include "emu/runtime_api.h"
#else
#include <cuda_runtime.h>
#endif

#include <stdexcept>

#include "core/check.h"

namespace llmcore {

// Throws std::runtime_error with the name of what failed, and leaves no error behind for the next call to find.
inline void check_cuda(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    (void)cudaGetLastError();
    throw std::runtime_error(concat(what, ": ", cudaGetErrorName(status), ", ", cudaGetErrorString(status)));
}

}  // namespace llmcore

#define LLMCORE_CUDA_CHECK(call) ::llmcore::check_cuda(call, #call)
