// The CUDA runtime's API for host code: the toolkit's, or the emulator's, which has the same names. And what becomes of
// its errors.
#pragma once

#if LLMCORE_EMULATE
#include "emu/runtime_api.h"
#else
#include <cuda_runtime.h>
#endif

#include <string>

#include "core/check.h"

namespace llmcore {

// Whether CUDA gives this error for every later call, because the device's state in this process is lost.
inline bool is_sticky(cudaError_t error) {
    switch (error) {
        case cudaErrorECCUncorrectable:
        case cudaErrorIllegalAddress:
        case cudaErrorLaunchTimeout:
        case cudaErrorAssert:
        case cudaErrorHardwareStackError:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorInvalidPc:
        case cudaErrorLaunchFailure:
            return true;
        default:
            return false;
    }
}

// "cudaMalloc(...) on cuda:0: cudaErrorInvalidValue, invalid argument"
inline std::string sentence_of(cudaError_t error, const std::string& what) {
    int device = 0;
    const std::string where = cudaGetDevice(&device) == cudaSuccess ? concat(" on cuda:", device) : "";
    std::string text = concat(what, where, ": ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
    if (is_sticky(error))
        text +=
            ". A kernel that was started before left this error (kernels run after their call has returned; with "
            "CUDA_LAUNCH_BLOCKING=1 the op that raises is the one at fault). The device does not recover from it in "
            "this process: what is there is lost, and every further call will fail; start the process again";
    return text;
}

// Throws DeviceError with the name of what failed, and leaves no error behind for the next call to find.
inline void check_cuda(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError();
    throw DeviceError(sentence_of(error, what));
}

}  // namespace llmcore

#define LLMCORE_CUDA_CHECK(call) ::llmcore::check_cuda(call, #call)
