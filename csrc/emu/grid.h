// griddepcontrol: a kernel that may start before the one ahead of it in the stream has ended.
#pragma once

namespace llmcore::emu {

// The running thread learns of everything that earlier kernels did. Until then the race detector reports what it reads
// of their stores and what it overwrites of their reads.
void wait_for_previous_kernel();

}  // namespace llmcore::emu
