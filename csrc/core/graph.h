// A recorded piece of a device's work, which is then done again by one call (a CUDA graph): a training step is some
// hundred kernels, and starting each from Python takes as long as the small ones run.
//
//   Graph graph(device);
//   graph.begin_capture();  // this thread's work for the device is written down from here on, and not done
//   ...
//   graph.end_capture();
//   graph.replay();         // does the work, as often as it is called
//
// Replays read and write the very addresses that the work named while it was recorded. The graph's own memory holds
// what was allocated meanwhile and what was freed (core/allocator.h), until the graph is destroyed; what existed
// before, such as weights and the inputs that a caller fills before each replay, the caller keeps alive. Other threads
// may go on using the device; their work is not recorded.
//
// What needs the host, and so cannot be recorded, is refused with a sentence before anything happens: copies from and
// to the CPU, copies between devices, synchronize(), events. The capture is then given up: end_capture() throws, with
// that sentence. A device captures one graph at a time, a thread, too.
#pragma once

#include <memory>

#include "core/allocator.h"
#include "core/runtime.h"

struct CUgraphExec_st;  // a cudaGraphExec_t points to it

namespace llmcore {

class Graph {
  public:
    // With `shares`, both use one pool: for graphs whose replays follow each other, so that none needs what another
    // left in memory of its own, apart from tensors that are alive.
    explicit Graph(Device device, const Graph* shares = nullptr);
    ~Graph();
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void begin_capture();
    void end_capture();      // throws std::runtime_error if the capture was given up
    void abandon_capture();  // forgets what was recorded
    void replay();           // returns at once, like every kernel launch; std::runtime_error if nothing was captured

    Device device() const { return device_; }

  private:
    const Device device_;
    std::shared_ptr<GraphMemory> memory_;
    CUgraphExec_st* runnable_ = nullptr;
    bool capturing_ = false;
};

}  // namespace llmcore
