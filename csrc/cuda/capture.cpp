// Graphs: what core/graph.h asks of core/cuda_device.h.
#include <string>
#include <utility>

#include "core/check.h"
#include "core/cuda_device.h"
#include "cuda/runtime.h"

namespace llmcore::cuda {
namespace {

struct Capture {
    cudaStream_t stream = nullptr;
    int device = 0;
    std::string given_up;  // why, if it was
};

thread_local Capture* capture_of_thread = nullptr;

// Ends the thread's capture and gives what was recorded, which is null where that fails.
cudaGraph_t end_recording(cudaError_t& status) {
    cudaGraph_t graph = nullptr;
    status = cudaStreamEndCapture(capture_of_thread->stream, &graph);
    (void)cudaStreamDestroy(capture_of_thread->stream);
    delete capture_of_thread;
    capture_of_thread = nullptr;
    return graph;
}

}  // namespace

cudaStream_t recording_stream(int device) {
    return capture_of_thread != nullptr && capture_of_thread->device == device ? capture_of_thread->stream : nullptr;
}

void refuse_in_capture(int device, const char* what) {
    if (recording_stream(device) == nullptr) return;
    std::string sentence = concat(what,
                                  " cannot be captured into a CUDA graph: it needs the host, and what was captured "
                                  "runs only when the graph is replayed; do it before or after the capture");
    if (capture_of_thread->given_up.empty()) capture_of_thread->given_up = sentence;
    throw std::runtime_error(sentence);
}

// Relaxed: what the recorded work may not do is refused above, and the allocator has to call cudaMalloc meanwhile.
void begin_capture(int device) {
    LLMCORE_CHECK(capture_of_thread == nullptr, "this thread is capturing a CUDA graph already");
    open(device);
    Capture capture{nullptr, device, ""};
    LLMCORE_CUDA_CHECK(cudaStreamCreateWithFlags(&capture.stream, cudaStreamNonBlocking));
    const cudaError_t status = cudaStreamBeginCapture(capture.stream, cudaStreamCaptureModeRelaxed);
    if (status != cudaSuccess) {
        (void)cudaStreamDestroy(capture.stream);
        check_cuda(status, "cudaStreamBeginCapture");
    }
    capture_of_thread = new Capture(std::move(capture));
}

CUgraphExec_st* end_capture(int device) {
    LLMCORE_CHECK(recording_stream(device) != nullptr, "this thread is not capturing a CUDA graph on cuda:", device);
    const std::string given_up = capture_of_thread->given_up;
    cudaError_t status = cudaSuccess;
    cudaGraph_t graph = end_recording(status);
    cudaGraphExec_t runnable = nullptr;
    const bool recorded = status == cudaSuccess;
    if (recorded && given_up.empty()) status = cudaGraphInstantiate(&runnable, graph, 0);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    if (!given_up.empty()) {
        (void)cudaGetLastError();
        throw std::runtime_error("the capture of a CUDA graph was given up: " + given_up);
    }
    check_cuda(status, recorded ? "cudaGraphInstantiate" : "cudaStreamEndCapture");
    return runnable;
}

void abandon_capture(int device) {
    if (recording_stream(device) == nullptr) return;
    cudaError_t status = cudaSuccess;
    if (cudaGraph_t graph = end_recording(status)) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
}

void launch_graph(CUgraphExec_st* runnable, int device) {
    refuse_in_capture(device, "the replay of another graph");
    LLMCORE_CUDA_CHECK(cudaGraphLaunch(runnable, open(device).stream));
}

void destroy_graph(CUgraphExec_st* runnable) {
    if (runnable != nullptr) (void)cudaGraphExecDestroy(runnable);
}

}  // namespace llmcore::cuda
