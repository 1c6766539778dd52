// What the files of the runtime share: streams, and the capture of a CUDA graph by the calling thread.
#pragma once

#include "cuda/api.h"

namespace llmcore::cuda {

// The device's own stream, or nullptr before open().
cudaStream_t opened_stream(int device);

// While this thread captures, open() hands out another stream in the place of the device's: nothing runs on it, and
// other threads go on using the device. nullptr if this thread captures nothing there.
cudaStream_t recording_stream(int device);

// Throws if this thread is capturing on the device: `what` needs the host and cannot be recorded. The capture is then
// given up, whoever catches the exception.
void refuse_in_capture(int device, const char* what);

}  // namespace llmcore::cuda
