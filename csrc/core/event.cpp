#include "core/event.h"

#include "core/check.h"
#include "core/cuda_device.h"

namespace llmcore {

Event::Event(Device device) : device_(device) {
    if constexpr (kWithCuda)
        if (device.type == DeviceType::kCuda) event_ = cuda::create_event(device.index);
}

Event::~Event() {
    if constexpr (kWithCuda) cuda::destroy_event(event_);
}

void Event::record() {
    if constexpr (kWithCuda)
        if (event_ != nullptr) cuda::record_event(event_, device_.index);
    time_ = std::chrono::steady_clock::now();
    recorded_ = true;
}

void Event::synchronize() {
    LLMCORE_CHECK(recorded_, "Event: it was not recorded, so it will never happen");
    if constexpr (kWithCuda)
        if (event_ != nullptr) cuda::wait_for_event(event_, device_.index);
}

double Event::seconds_since(const Event& begin) {
    LLMCORE_CHECK(begin.recorded_, "Event: the first moment was not recorded");
    LLMCORE_CHECK(begin.device_ == device_, "Event: moments of ", name_of(begin.device_), " and ", name_of(device_),
                  " cannot be compared");
    synchronize();
    if constexpr (kWithCuda)
        if (event_ != nullptr) return cuda::seconds_between(begin.event_, event_);
    return std::chrono::duration<double>(time_ - begin.time_).count();
}

}  // namespace llmcore
