// The emulated machine as the host sees it: which devices it pretends to have, what is allocated there, and the way of
// work to a stream. Tests set and ask here; llmcore's host code goes through the CUDA names of emu/runtime_api.h.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "emu/runtime_api.h"

namespace llmcore::emu {

// The data sheets' figures of the two GPUs that llmcore is written for.
cudaDeviceProp pretend_h100();
cudaDeviceProp pretend_a100();

// The devices from now on; one H100 if never called. Allocations and streams stay valid. LLMCORE_EMULATED_DEVICES
// (names with commas: "h100,a100"; "none") chooses before the first call.
void set_devices(std::vector<cudaDeviceProp> devices);
const std::vector<cudaDeviceProp>& devices();

// Memory that was allocated and not freed.
struct MemoryAccount {
    size_t bytes = 0, blocks = 0, peak_bytes = 0;
};
MemoryAccount memory_account(int device);
std::string leak_report();  // "" if nothing is allocated; else each block's size, device and number of allocation

// Throws Error("launch") for what the calling thread's device cannot run: too much shared memory, or clusters before
// compute capability 9.0.
void check_launch(size_t shared_bytes, unsigned cluster);

// Does the work now, or records it if the stream captures. Throws what the work throws.
void submit(cudaStream_t stream, std::function<void()> work);

}  // namespace llmcore::emu
