// The sizes of the caches of this processor, for kernels that cut their work by them.
#pragma once

#include <cstdint>

namespace llmcore {

// Bytes of data that one core keeps in its first-level and in its second-level cache (its share where cores have one in
// common). Read once, at first use; what the processor does not say, or says beyond belief, is 32 KiB and 512 KiB.
struct CacheSizes {
    int64_t first, second;
};
CacheSizes cache_sizes();

}  // namespace llmcore
