// What this machine is: devices and the CPU's instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>
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

// How LLMCORE_CUDA was resolved when this library was built: "off", "on" or "emulate".
const char* cuda_build();

// The families that have CUDA kernels in this build: "layernorm, matmul"; empty where it is "off".
const char* cuda_families();
[[noreturn]] void refuse_cuda(const char* family, Device device);  // a family that is not among them

// What a CUDA device is, for `llmcore env`, plans and reports. Throws std::invalid_argument for the CPU.
struct DeviceFacts {
    std::string name;
    int major, minor;  // compute capability
    int multiprocessors;
    size_t total_bytes, free_bytes;
};
DeviceFacts device_facts(Device device);

// What the device's kernels add to the offsets of their random numbers, from the work that follows on: see
// core/backend.h. Throws std::invalid_argument for the CPU, where nothing is replayed.
void set_random_shift(uint64_t shift, Device device);

// Waits for all work of the device. Throws what a kernel left behind.
void synchronize(Device device);

// The device whose memory this thread may touch through Tensor::data(): inside an op's dispatch the op's, outside the
// CPU's. check_reachable throws for another, with the reason.
Device running_on();
void check_reachable(Device device);

class RunningOn {
  public:
    explicit RunningOn(Device device);
    ~RunningOn();
    RunningOn(const RunningOn&) = delete;
    RunningOn& operator=(const RunningOn&) = delete;

  private:
    const Device before_;
    const bool inside_before_;
};

}  // namespace llmcore
