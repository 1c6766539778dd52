// The backend tag that this compilation of a CPU source stands for. CMake compiles every source of csrc/cpu once per
// instruction-set level and sets LLMCORE_CPU_ISA. Whatever is not a template over the backend must have internal
// linkage (an anonymous namespace) or be LLMCORE_INLINE: see core/inline.h.
#pragma once

#include "core/backend.h"

namespace llmcore {
using Cpu = CpuBackend<Isa::LLMCORE_CPU_ISA>;
}
