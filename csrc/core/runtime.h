// What this machine is: devices and the CPU's instruction-set level.
#pragma once

#include <string>

#include "core/backend.h"

namespace llmcore {

enum class DeviceType { kCpu, kCuda };

struct Device {
    DeviceType type = DeviceType::kCpu;
    int index = 0;
    bool operator==(const Device&) const = default;
};

// "cpu", "cuda", "cuda:1". Throws std::invalid_argument for anything else, and for "cuda" where there is none, with the
// reason.
Device parse_device(const std::string& name);
std::string name_of(Device device);

// The level that kernels run at: the best of this processor, or LLMCORE_ISA=baseline|avx2|avx512|avx512_bf16|amx if
// that is lower. Read once, at first use; an unknown or unavailable value throws std::invalid_argument.
Isa cpu_isa();
const char* name_of(Isa isa);

// How LLMCORE_CUDA was set when this library was built: "off" until the CUDA backend is built in.
const char* cuda_build();

}  // namespace llmcore
