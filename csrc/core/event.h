// A moment in a device's work. Two of them tell how long the device took for what lies between: kernels run after their
// call has returned, so the host's clock cannot. On the CPU, where work is done when its call returns, it is the clock.
#pragma once

#include <chrono>

#include "core/runtime.h"

struct CUevent_st;  // a cudaEvent_t points to it

namespace llmcore {

class Event {
  public:
    explicit Event(Device device);
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    void record();       // the moment when all work that was given to the device so far is done
    void synchronize();  // waits for it

    // Seconds from `begin` to this moment; both must be recorded, on one device. Waits for this one.
    double seconds_since(const Event& begin);

  private:
    const Device device_;
    CUevent_st* event_ = nullptr;
    bool recorded_ = false;
    std::chrono::steady_clock::time_point time_;
};

}  // namespace llmcore
