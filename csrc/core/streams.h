// Our work on a CUDA device beside that of other libraries, whose streams are named by address; 1 and 2 are CUDA's
// default streams. On the CPU, where work is done when its call returns, nothing has to wait.
#pragma once

#include <cstdint>

#include "core/runtime.h"

namespace llmcore {

uintptr_t stream_address(Device device);                         // of the stream on which all our work runs
void let_stream_wait(uintptr_t stream, Device device);           // until our work so far is done
void wait_for_stream(uintptr_t stream, Device device) noexcept;  // our work that follows waits for its work so far
void finish(Device device) noexcept;  // waits like synchronize(); what a kernel left behind the next call reports

}  // namespace llmcore
