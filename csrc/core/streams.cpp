#include "core/streams.h"

#include "core/cuda_device.h"

namespace llmcore {

uintptr_t stream_address(Device device) {
    if constexpr (kWithCuda)
        if (device.type == DeviceType::kCuda) return cuda::stream_address(device.index);
    return 0;
}

void let_stream_wait(uintptr_t stream, Device device) {
    if constexpr (kWithCuda)
        if (device.type == DeviceType::kCuda) cuda::let_stream_wait(stream, device.index);
}

void wait_for_stream(uintptr_t stream, Device device) noexcept {
    if constexpr (kWithCuda)
        if (device.type == DeviceType::kCuda) cuda::wait_for_stream(stream, device.index);
}

void finish(Device device) noexcept {
    if constexpr (kWithCuda)
        if (device.type == DeviceType::kCuda) cuda::finish(device.index);
}

}  // namespace llmcore
