// The Python module llmcore._core: runtime, Tensor and one line per op.
#include "bindings.h"
#include "core/allocator.h"
#include "core/cache_sizes.h"
#include "core/check.h"
#include "core/determinism.h"
#include "core/runtime.h"
#include "core/thread_pool.h"

namespace py = pybind11;
using namespace llmcore;

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    py::register_exception_translator([](std::exception_ptr error) {
        try {
            if (error) std::rethrow_exception(error);
        } catch (const OutOfMemory& e) {
            py::set_error(py::module_::import("llmcore.errors").attr("OutOfMemoryError"), e.what());
        }
    });
    m.def("cpu_isa", [] { return name_of(cpu_isa()); });
    m.def("cache_sizes", [] { return py::make_tuple(cache_sizes().first, cache_sizes().second); });
    m.def("cuda_build", &cuda_build);
    m.def("cuda_families", [] {  // the families whose ops run on CUDA
        std::vector<std::string> families;
        std::string rest = cuda_families();
        while (!rest.empty()) {
            families.push_back(rest.substr(0, rest.find(", ")));
            rest.erase(0, families.back().size() + 2);
        }
        return families;
    });
    m.def(
        "synchronize", [](const std::string& device) { synchronize(parse_device(device)); }, py::arg("device"),
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "set_random_shift",
        [](uint64_t shift, const std::string& device) { set_random_shift(shift, parse_device(device)); },
        py::arg("shift"), py::arg("device"), py::call_guard<py::gil_scoped_release>());
    m.def("check_device", [](const std::string& device) { return name_of(parse_device(device)); });
    m.def(
        "device_facts",
        [](const std::string& name) {
            const DeviceFacts facts = device_facts(parse_device(name));
            py::dict result;
            result["name"] = facts.name;
            result["compute_capability"] = concat(facts.major, ".", facts.minor);
            result["multiprocessors"] = facts.multiprocessors;
            result["total_bytes"] = facts.total_bytes;
            result["free_bytes"] = facts.free_bytes;
            return result;
        },
        py::arg("device"));
    m.def("set_num_threads", &set_num_threads);
    m.def("num_threads", &num_threads);
    m.def("use_deterministic_algorithms", &use_deterministic_algorithms, py::arg("mode"),
          R"(Whether results must have the same bits in every run, as they have by default (mode=True).

With False, gradients of weights that CUDA sums in parts, on compute capability 9.0, are added as the parts come: the last
bits change from run to run, and nobody waits for a turn. It holds for what is called, and for CUDA graphs that are
captured, from then on, in all threads. Nothing changes on the CPU and for the other CUDA kernels: they are deterministic
either way.

Args:
    mode: True for the same bits in every run, False where speed counts more.
)");
    m.def("are_deterministic_algorithms_enabled", &are_deterministic_algorithms_enabled,
          "What `use_deterministic_algorithms` was last told; True unless it was called.");
    m.def(
        "memory_stats",
        [](const std::string& device) {
            MemoryStats stats = memory_stats(parse_device(device));
            py::dict result;
            result["allocated"] = stats.allocated;
            result["reserved"] = stats.reserved;
            result["peak_allocated"] = stats.peak_allocated;
            result["limit"] = stats.limit;
            result["allocations"] = stats.allocations;
            result["graphs"] = stats.graphs;
            result["by_label"] = stats.by_label;
            return result;
        },
        py::arg("device") = "cpu");
    m.def(
        "reset_peak_memory", [](const std::string& device) { reset_peak_memory(parse_device(device)); },
        py::arg("device") = "cpu");
    m.def(
        "empty_cache", [](const std::string& device) { empty_cache(parse_device(device)); }, py::arg("device") = "cpu");
    m.def(
        "set_memory_limit",
        [](size_t bytes, const std::string& device) { set_memory_limit(bytes, parse_device(device)); },
        py::arg("bytes"), py::arg("device") = "cpu");
    bind_tensor(m);
    bind_ops(m);
    bind_graph(m);
#if LLMCORE_EMULATE
    bind_emulator(m);
#endif
}
