#include "core/runtime.h"

#include <cstdlib>

#include "core/check.h"

namespace llmcore {

Device parse_device(const std::string& name) {
    if (name == "cpu") return {DeviceType::kCpu, 0};
    bool is_cuda = name == "cuda" || (name.rfind("cuda:", 0) == 0 && name.size() > 5 &&
                                      name.find_first_not_of("0123456789", 5) == std::string::npos);
    LLMCORE_CHECK(is_cuda, "device must be \"cpu\", \"cuda\" or \"cuda:<index>\", got \"", name, "\"");
    throw std::invalid_argument(concat("device \"", name,
                                       "\" is not available: this llmcore was built without the CUDA backend; use "
                                       "device=\"cpu\" or device=\"auto\""));
}

std::string name_of(Device device) {
    return device.type == DeviceType::kCpu ? "cpu" : concat("cuda:", device.index);
}

const char* name_of(Isa isa) {
    return isa == Isa::kAvx512 ? "avx512" : isa == Isa::kAvx2 ? "avx2" : "baseline";
}

namespace {

// By feature bits, never by vendor: libraries that ask for the vendor run AMD's AVX-512 at half its speed.
Isa best_isa() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
        return Isa::kAvx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
    return Isa::kBaseline;
}

Isa chosen_isa() {
    Isa best = best_isa();
    const char* wish = std::getenv("LLMCORE_ISA");
    if (wish == nullptr || *wish == '\0') return best;
    for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
        if (std::string(wish) != name_of(isa)) continue;
        LLMCORE_CHECK(isa <= best, "LLMCORE_ISA=", wish, ": this processor reaches only ", name_of(best));
        return isa;
    }
    throw std::invalid_argument(concat("LLMCORE_ISA must be baseline, avx2 or avx512, got ", wish));
}

}  // namespace

Isa cpu_isa() {
    static const Isa isa = chosen_isa();
    return isa;
}

const char* cuda_build() {
    return LLMCORE_CUDA_BUILD;
}

}  // namespace llmcore
