// Shared by the files of the host runtime: one lock, the error that cudaGetLastError gives, the calling thread's
// device.
#pragma once

#include <mutex>

#include "emu/runtime_api.h"

namespace llmcore::emu {

// Held while work is done: the emulated machine is one, whatever the number of threads that launch.
std::recursive_mutex& machine_lock();

cudaError_t report(cudaError_t error);  // remembers it for cudaGetLastError, and returns it
int device_of_thread();
bool may_allocate();  // false while the calling thread captures a stream, unless in the relaxed mode

}  // namespace llmcore::emu
