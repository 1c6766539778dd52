// What the core asks of the CUDA backend. Implemented by csrc/cuda/runtime.cpp and there only if the backend is built
// in (kWithCuda): callers stand under `if constexpr (kWithCuda)`. No CUDA header is needed to call it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/backend.h"
#include "core/runtime.h"

struct CUevent_st;      // a cudaEvent_t points to it
struct CUgraphExec_st;  // a cudaGraphExec_t

namespace llmcore {

struct IndexRule;

inline constexpr bool kWithCuda = LLMCORE_WITH_CUDA;

namespace cuda {

// Usable devices. 0 where there is no driver or no GPU: why_no_device() then tells the reason, as the end of a
// sentence.
int device_count();
std::string why_no_device();

// The device's stream and numbers, with the device made current for the calling thread. Opens it at first use.
Cuda open(int device);

DeviceFacts describe(int device);

// Memory of the device, aligned to 256 bytes; nullptr if it does not fit.
void* allocate(size_t bytes, int device);
void release(void* memory, int device);

// In the order of the device's stream. `zero` returns at once; the copies return when the host may touch its side,
// which is before a small copy to the device has run.
void zero(void* memory, size_t bytes, int device);
void copy_to_device(void* to, const void* from, size_t bytes, int device);
void copy_to_host(void* to, const void* from, size_t bytes, int device);
void copy_between(void* to, int to_device, const void* from, int from_device, size_t bytes);

// Sets what kernels add to their Philox offsets (Cuda::random_shift), in the order of the device's stream, without
// waiting. 0 at the start.
void set_random_shift(uint64_t shift, int device);

// Returns when all work of the device's stream is done. Throws what a kernel left behind, and like copy_to_host what
// check_indices found.
void synchronize(int device);

// core/index_check.h for ids on the device, in the order of its stream.
void check_indices(const int32_t* ids, int64_t n, const IndexRule& rule, int device);

// Moments in the device's work: see core/event.h.
CUevent_st* create_event(int device);
void destroy_event(CUevent_st* event);
void record_event(CUevent_st* event, int device);
void wait_for_event(CUevent_st* event, int device);
double seconds_between(CUevent_st* begin, CUevent_st* end);

// Other libraries' streams: see core/streams.h.
uintptr_t stream_address(int device);
void let_stream_wait(uintptr_t stream, int device);
void wait_for_stream(uintptr_t stream, int device);
void finish(int device);

// Graphs: see core/graph.h. Between begin_ and end_capture, open() hands the calling thread a stream that records.
void begin_capture(int device);
CUgraphExec_st* end_capture(int device);
void abandon_capture(int device);
void launch_graph(CUgraphExec_st* runnable, int device);
void destroy_graph(CUgraphExec_st* runnable);

}  // namespace cuda
}  // namespace llmcore
