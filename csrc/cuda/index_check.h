// Where checks of ids leave what they found (core/index_check.h): one record for each device, in memory of the host
// that kernels reach. Reading it costs nothing, and it is written only when something is wrong.
#pragma once

#include "core/index_check.h"

namespace llmcore::cuda {

IndexFault* new_index_fault();

// Throws what the checks of a stream found and forgets it. The caller has waited for the stream.
void throw_index_fault(IndexFault* record);

}  // namespace llmcore::cuda
