// Pinned memory through which small copies from the CPU go to a device: the copy is in the stream and the caller goes
// on, where a copy from ordinary memory would have to wait until the device has done all that it was given before.
#pragma once

#include <cstddef>

#include "cuda/api.h"

namespace llmcore::cuda {

// Copies `bytes` to the device in the order of its stream; `from` may be changed or freed when this returns. False if
// the copy is too large or there is no pinned memory: nothing has happened then.
bool copy_through_staging(void* to, const void* from, size_t bytes, cudaStream_t stream, int device);

}  // namespace llmcore::cuda
