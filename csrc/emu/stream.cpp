// Streams, events and graphs. Work is done when it is submitted, so a stream is always idle and an event has always
// happened; a capturing stream writes the work down instead.
#include <chrono>
#include <memory>

#include "emu/error.h"
#include "emu/host.h"
#include "emu/host_state.h"

using Work = std::vector<std::function<void()>>;
using Clock = std::chrono::steady_clock;

struct CUgraph_st {
    Work work;
};

struct CUgraphExec_st {
    Work work;
};

struct CUstream_st {
    std::unique_ptr<CUgraph_st> captured;  // null: it does not capture
    bool broken = false;                   // the capture met something that cannot be recorded
    bool strict = false;                   // not captured in the relaxed mode
};

struct CUevent_st {
    bool recorded = false;
    cudaStream_t stream = nullptr;
    Clock::time_point time;
};

namespace llmcore::emu {
namespace {

std::vector<std::pair<cudaStream_t, cudaStream_t>> waits;

// In which mode the calling thread captures. As in CUDA, only a relaxed capture lets its thread allocate meanwhile.
thread_local int captures_strictly = 0;

}  // namespace

std::vector<std::pair<cudaStream_t, cudaStream_t>> stream_waits() {
    std::lock_guard lock(machine_lock());
    return waits;
}

bool may_allocate() {
    return captures_strictly == 0;
}

void submit(cudaStream_t stream, std::function<void()> work) {
    std::lock_guard lock(machine_lock());
    if (stream != nullptr && stream->captured != nullptr)
        stream->captured->work.push_back(std::move(work));
    else
        work();
}

}  // namespace llmcore::emu

using namespace llmcore::emu;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    if (cudaError_t error = injected_error()) return error;
    *stream = new CUstream_st;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

// Waiting for work that was only written down can never end: CUDA refuses it and gives the capture up.
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (cudaError_t error = injected_error()) return error;
    std::lock_guard lock(machine_lock());
    if (stream == nullptr || stream->captured == nullptr) return cudaSuccess;
    stream->broken = true;
    return report(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (cudaError_t error = injected_error()) return error;
    std::lock_guard lock(machine_lock());
    if (event == nullptr) return report(cudaErrorInvalidResourceHandle);
    waits.emplace_back(stream, event->stream);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    if (cudaError_t error = injected_error()) return error;
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (cudaError_t error = injected_error()) return error;
    event->recorded = true;
    event->stream = stream;
    event->time = Clock::now();
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t) {
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
    if (cudaError_t error = injected_error()) return error;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    if (!begin->recorded || !end->recorded) return report(cudaErrorInvalidResourceHandle);
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    if (cudaError_t error = injected_error()) return error;
    std::lock_guard lock(machine_lock());
    if (stream == nullptr) return report(cudaErrorStreamCaptureUnsupported);  // the default stream is never captured
    if (stream->captured != nullptr) return report(cudaErrorIllegalState);
    stream->captured = std::make_unique<CUgraph_st>();
    stream->broken = false;
    stream->strict = mode != cudaStreamCaptureModeRelaxed;
    captures_strictly += stream->strict;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    std::lock_guard lock(machine_lock());
    bool active = stream != nullptr && stream->captured != nullptr;
    *status = active ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    std::lock_guard lock(machine_lock());
    *graph = nullptr;
    if (stream == nullptr || stream->captured == nullptr) return report(cudaErrorIllegalState);
    std::unique_ptr<CUgraph_st> captured = std::move(stream->captured);
    captures_strictly -= stream->strict;
    if (stream->broken) return report(cudaErrorStreamCaptureInvalidated);
    if (cudaError_t error = injected_error()) return error;
    *graph = captured.release();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* runnable, cudaGraph_t graph, unsigned long long) {
    if (cudaError_t error = injected_error()) return error;
    *runnable = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t runnable) {
    delete runnable;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t runnable, cudaStream_t stream) {
    if (cudaError_t error = injected_error()) return error;
    for (const std::function<void()>& work : runnable->work) submit(stream, work);
    return cudaSuccess;
}
