// Events, and other libraries' streams beside ours.
#include "core/cuda_device.h"
#include "cuda/api.h"
#include "cuda/runtime.h"

namespace llmcore::cuda {
namespace {

cudaStream_t stream_at(uintptr_t address) {
    return reinterpret_cast<cudaStream_t>(address);
}

// `later` does not go on before what is now on `earlier` has run. The event may be destroyed at once: CUDA keeps what
// it needs.
cudaError_t order(cudaStream_t earlier, cudaStream_t later) {
    cudaEvent_t event = nullptr;
    cudaError_t status = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (status != cudaSuccess) return status;
    status = cudaEventRecord(event, earlier);
    if (status == cudaSuccess) status = cudaStreamWaitEvent(later, event, 0);
    (void)cudaEventDestroy(event);
    return status;
}

}  // namespace

CUevent_st* create_event(int device) {
    open(device);
    cudaEvent_t event = nullptr;
    LLMCORE_CUDA_CHECK(cudaEventCreateWithFlags(&event, 0));
    return event;
}

void destroy_event(CUevent_st* event) {
    if (event != nullptr) (void)cudaEventDestroy(event);
}

void record_event(CUevent_st* event, int device) {
    refuse_in_capture(device, "an event");
    LLMCORE_CUDA_CHECK(cudaEventRecord(event, open(device).stream));
}

void wait_for_event(CUevent_st* event, int device) {
    refuse_in_capture(device, "waiting for an event");
    LLMCORE_CUDA_CHECK(cudaEventSynchronize(event));
}

double seconds_between(CUevent_st* begin, CUevent_st* end) {
    float milliseconds = 0;
    LLMCORE_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    return milliseconds / 1e3;
}

uintptr_t stream_address(int device) {
    return reinterpret_cast<uintptr_t>(open(device).stream);
}

void let_stream_wait(uintptr_t stream, int device) {
    refuse_in_capture(device, "handing a tensor to another library");
    LLMCORE_CUDA_CHECK(order(open(device).stream, stream_at(stream)));
}

// Called by destructors, so it reports nothing: what fails here, the next call that can throw will meet.
void wait_for_stream(uintptr_t stream, int device) {
    if (cudaStream_t ours = opened_stream(device)) (void)order(stream_at(stream), ours);
}

void finish(int device) {
    if (cudaStream_t ours = opened_stream(device)) (void)cudaStreamSynchronize(ours);
}

}  // namespace llmcore::cuda
