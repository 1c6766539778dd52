// llmcore._core.emulator, in builds with LLMCORE_CUDA=EMULATE: what tests set and ask of the emulated GPU.
#include "bindings.h"
#include "core/check.h"
#include "emu/host.h"
#include "emu/policy.h"
#include "emu/race.h"

namespace py = pybind11;
using namespace llmcore;

namespace {

template <class Choice>
Choice choose(const char* what, const std::string& name,
              std::initializer_list<std::pair<const char*, Choice>> choices) {
    std::string known;
    for (auto& [candidate, value] : choices) {
        if (name == candidate) return value;
        known += std::string(known.empty() ? "" : ", ") + candidate;
    }
    throw std::invalid_argument(concat("set_policy: ", what, " must be one of ", known, ", got ", name));
}

emu::Landing landing_of(const char* what, const std::string& name) {
    return choose<emu::Landing>(
        what, name, {{"late", emu::Landing::kLate}, {"early", emu::Landing::kEarly}, {"mixed", emu::Landing::kMixed}});
}

void set_policy(const std::string& order, const std::string& copies, const std::string& math, uint64_t seed) {
    emu::Policy policy;
    policy.order = choose<emu::Order>(
        "order", order,
        {{"forward", emu::Order::kForward}, {"reverse", emu::Order::kReverse}, {"random", emu::Order::kRandom}});
    policy.copies = landing_of("copies", copies);
    policy.math = landing_of("math", math);
    policy.seed = seed;
    emu::policy() = policy;
}

py::dict statistics() {
    const emu::Statistics& s = emu::statistics();
    py::dict result;
    result["switches"] = s.switches;
    result["collectives"] = s.collectives;
    result["barriers"] = s.barriers;
    result["matrix_instructions"] = s.matrix_instructions;
    result["bulk_copies"] = s.bulk_copies;
    result["bank_conflicts"] = s.bank_conflicts;
    return result;
}

}  // namespace

void bind_emulator(py::module_& m) {
    py::module_ emulator = m.def_submodule("emulator", "The emulated GPU; see CONTRIBUTING.md.");
    emulator.def("set_policy", &set_policy, py::arg("order") = "forward", py::arg("copies") = "late",
                 py::arg("math") = "late", py::arg("seed") = 1);
    emulator.def("statistics", &statistics);
    emulator.def("reset_statistics", [] { emu::statistics() = {}; });
    emulator.def("race_detection", &emu::race_detection);
    emulator.def("leak_report", &emu::leak_report);
    emulator.def(
        "inject_error", [](int error, int calls_before) { emu::inject_error(cudaError_t(error), calls_before); },
        py::arg("error"), py::arg("calls_before") = 0);
    emulator.def("stream_waits", [] {
        std::vector<std::pair<uintptr_t, uintptr_t>> waits;
        for (auto [waiting, other] : emu::stream_waits())
            waits.emplace_back(reinterpret_cast<uintptr_t>(waiting), reinterpret_cast<uintptr_t>(other));
        return waits;
    });
}
