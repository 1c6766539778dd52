#include "core/graph.h"

#include "core/check.h"
#include "core/cuda_device.h"

namespace llmcore {

Graph::Graph(Device device, const Graph* shares) : device_(device) {
    LLMCORE_CHECK(device.type == DeviceType::kCuda, "CudaGraph: the device must be \"cuda\", got \"", name_of(device),
                  "\"");
    LLMCORE_CHECK(shares == nullptr || shares->device_ == device,
                  "CudaGraph: graphs that share memory must be on one device");
    memory_ = shares != nullptr ? shares->memory_ : make_graph_memory(device);
}

Graph::~Graph() {
    if constexpr (kWithCuda) {
        if (capturing_) abandon_capture();
        cuda::destroy_graph(runnable_);
    }
}

void Graph::begin_capture() {
    LLMCORE_CHECK(!capturing_ && runnable_ == nullptr, "CudaGraph: this graph was captured already; make another");
    if constexpr (kWithCuda) {
        begin_graph_memory(memory_, device_);
        try {
            cuda::begin_capture(device_.index);
        } catch (...) {
            end_graph_memory(device_);
            throw;
        }
        capturing_ = true;
    }
}

void Graph::end_capture() {
    LLMCORE_CHECK(capturing_, "CudaGraph: there is no capture to end");
    if constexpr (kWithCuda) {
        capturing_ = false;
        try {
            runnable_ = cuda::end_capture(device_.index);
        } catch (...) {
            end_graph_memory(device_);
            throw;
        }
        end_graph_memory(device_);
    }
}

void Graph::abandon_capture() {
    if (!capturing_) return;
    if constexpr (kWithCuda) {
        capturing_ = false;
        cuda::abandon_capture(device_.index);
        end_graph_memory(device_);
    }
}

void Graph::replay() {
    if (runnable_ == nullptr)
        throw std::runtime_error("CudaGraph: nothing was captured, so there is nothing to replay");
    if constexpr (kWithCuda) cuda::launch_graph(runnable_, device_.index);
}

}  // namespace llmcore
