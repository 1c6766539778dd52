// The capture of a CUDA graph by the calling thread. It has a stream of its own, which open() then hands out in the
// place of the device's: nothing runs on it, and other threads go on using the device.
#pragma once

#include "cuda/api.h"

namespace llmcore::cuda {

// The stream that records what this thread does on the device, or nullptr if it captures nothing there.
cudaStream_t recording_stream(int device);

// Throws if this thread is capturing on the device: `what` needs the host and cannot be recorded. The capture is then
// given up, whoever catches the exception.
void refuse_in_capture(int device, const char* what);

}  // namespace llmcore::cuda
