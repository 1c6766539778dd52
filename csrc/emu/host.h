// The emulated machine as the host sees it: which devices it pretends to have, what is allocated there, and the way of
// work to a stream. Tests set and ask here; llmcore's host code goes through the CUDA names of emu/runtime_api.h.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "emu/runtime_api.h"

namespace llmcore::emu {

// The data sheets' figures of the two GPUs that llmcore is written for.
cudaDeviceProp pretend_h100();
cudaDeviceProp pretend_a100();

// The devices from now on; one H100 if never called. Allocations and streams stay valid. LLMCORE_EMULATED_DEVICES
// (names with commas, perhaps with another amount of memory in MiB: "h100,a100:64"; "none")
// chooses before the first call.
void set_devices(std::vector<cudaDeviceProp> devices);
const std::vector<cudaDeviceProp>& devices();

// Memory that was allocated and not freed.
struct MemoryAccount {
    size_t bytes = 0, blocks = 0, peak_bytes = 0;
};
MemoryAccount memory_account(int device);
std::string leak_report();  // "" if nothing is allocated; else each block's size, device and number of allocation

// The call of the runtime that follows `calls_before` others gives this error, without doing anything; if it is one
// that a kernel leaves behind (700 to 719), so do all after it. cudaSuccess ends it. Calls that only ask are not
// counted.
void inject_error(cudaError_t error, int calls_before);
cudaError_t injected_error();  // for the calls: the error that this one has to give, if any

// Which stream was made to wait for which other's event, in the order of the calls.
std::vector<std::pair<cudaStream_t, cudaStream_t>> stream_waits();

// Throws Error("launch") for what the calling thread's device cannot run: too much shared memory, or clusters before
// compute capability 9.0.
void check_launch(size_t shared_bytes, unsigned cluster);

// Does the work now, or records it if the stream captures. Throws what the work throws.
void submit(cudaStream_t stream, std::function<void()> work);

}  // namespace llmcore::emu
