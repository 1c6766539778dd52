// _core.CudaGraph: capture and replay of a device's work; _core.Event: how long a device takes.
#include "core/graph.h"

#include <memory>
#include <optional>

#include "bindings.h"
#include "core/event.h"

namespace py = pybind11;
using namespace llmcore;

namespace {

// `with graph.capture():` ends the capture at the end of the block, and forgets it if the block raises.
struct Capture {
    std::shared_ptr<Graph> graph;

    void begin() { graph->begin_capture(); }
    void end(const py::object& error, const py::args&) {
        if (error.is_none())
            graph->end_capture();
        else
            graph->abandon_capture();
    }
};

}  // namespace

void bind_graph(py::module_& m) {
    py::class_<Capture>(m, "CudaGraphCapture", "The context that CudaGraph.capture() returns.")
        .def("__enter__", &Capture::begin)
        .def("__exit__", &Capture::end);
    py::class_<Graph, std::shared_ptr<Graph>>(m, "CudaGraph",
                                              R"(Work of a CUDA device, recorded once and replayed by one call.

    graph = _core.CudaGraph("cuda")
    with graph.capture():
        loss = step(batch)      # recorded, not done: what is allocated here holds nothing yet
    batch.copy_(next_batch)     # static inputs: the graph reads this very tensor
    graph.replay()              # does the step; returns at once, like a kernel launch
    loss.item()

Run the step once before, outside: whatever is made at first use (gradients, optimizer state) then exists, and outlives
the graph. A replay reads and writes the addresses that were in use during the capture. Tensors allocated or freed inside
the `with` block keep theirs until the graph is destroyed; tensors from before, which the work uses, are the caller's to
keep alive. Only the calling thread's work on this device is recorded. Random numbers whose offset is a plain argument
are the same in every replay.

What needs the host cannot be recorded: copies from and to the CPU (`numpy()`, `item()`, `copy_` from a CPU tensor),
copies between devices, `synchronize`, events, another graph's replay. Each raises RuntimeError with that sentence; the
capture is then given up, also if the block catches it. Nothing else is harmed: the device works on, and the graph's
memory is given back with it.

Args:
    device: "cuda" or "cuda:<index>".
    shares: a graph of the same device whose memory this one may use again, where replays of both follow each other and
        neither needs what the other left there, apart from tensors that are alive.

Raises:
    ValueError: the device is not a CUDA device, or a capture is under way there or in this thread.
    RuntimeError: the capture was given up, the driver refused it, or there is nothing to replay.)")
        .def(py::init([](const std::string& device, const std::shared_ptr<Graph>& shares) {
                 return std::make_shared<Graph>(parse_device(device), shares.get());
             }),
             py::arg("device") = "cuda", py::arg("shares") = py::none())
        .def(
            "capture", [](const std::shared_ptr<Graph>& graph) { return Capture{graph}; },
            "The context in which this thread's work on the device is recorded.")
        .def("replay", &Graph::replay, py::call_guard<py::gil_scoped_release>(),
             "Does the recorded work again, in the order of the device's other work.")
        .def_property_readonly("device", [](const Graph& graph) { return name_of(graph.device()); });

    auto release = py::call_guard<py::gil_scoped_release>();
    py::class_<Event>(m, "Event", R"(A moment in a device's work, to time what lies between two of them.

    begin, end = _core.Event("cuda"), _core.Event("cuda")
    begin.record()
    y = _core.matmul(a, b)
    end.record()
    end.seconds_since(begin)    # waits for `end`; the device's own time, without Python's

On the CPU, where work is done when its call returns, it is the clock.

Raises:
    ValueError: an event was not recorded, or they belong to two devices.)")
        .def(py::init([](const std::string& device) { return std::make_unique<Event>(parse_device(device)); }),
             py::arg("device"))
        .def("record", &Event::record, "After all work that was given to the device so far.")
        .def("synchronize", &Event::synchronize, release, "Waits until that work is done.")
        .def("seconds_since", &Event::seconds_since, py::arg("begin"), release);
}
