// griddepcontrol (sm_90): a kernel launched with Launch::overlaps_previous starts before the kernel ahead of it in the
// stream has ended. Until wait_for_previous_kernel() it may neither read what that kernel writes nor write what it
// reads. Without that launch attribute both instructions do nothing.
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/grid.h"
#endif

#if LLMCORE_HAS_SM90A

namespace llmcore::ptx {

// The next kernel may start once every block of this one has said so or ended. It makes nothing visible.
LLMCORE_DEVICE void allow_next_kernel() {
#if !LLMCORE_EMULATE
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the kernels ahead have ended and their stores can be seen. Other threads need a barrier after it.
LLMCORE_DEVICE void wait_for_previous_kernel() {
#if LLMCORE_EMULATE
    emu::wait_for_previous_kernel();
#else
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace llmcore::ptx

#endif
