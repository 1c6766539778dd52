#include "core/cache_sizes.h"

#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#else
#include <unistd.h>
#endif

namespace llmcore {
namespace {

constexpr int64_t kKiB = 1024;

#if defined(__x86_64__)
// Intel lists its caches in leaf 4, AMD in leaf 0x8000001d, in the same form; on the processors of the other the leaf
// says that there are none. (Intel's Software Developer's Manual, volume 2A, CPUID; AMD's manual, volume 3, E.4.15.)
int64_t size_of_level(unsigned level) {
    for (unsigned leaf : {0x4u, 0x8000001du})
        for (unsigned index = 0; index < 8; ++index) {
            unsigned eax, ebx, ecx, edx;
            if (!__get_cpuid_count(leaf, index, &eax, &ebx, &ecx, &edx)) break;
            constexpr unsigned kNone = 0, kInstructions = 2;
            unsigned type = eax & 31;
            if (type == kNone) break;
            if (type == kInstructions || (eax >> 5 & 7) != level) continue;
            int64_t sharing = (eax >> 14 & 4095) + 1;
            int64_t ways = (ebx >> 22) + 1, partitions = (ebx >> 12 & 1023) + 1, line = (ebx & 4095) + 1;
            return ways * partitions * line * (int64_t{ecx} + 1) / sharing;
        }
    return 0;
}
#elif defined(_SC_LEVEL1_DCACHE_SIZE)
int64_t size_of_level(unsigned level) {
    return sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
}
#else
int64_t size_of_level(unsigned) {
    return 0;
}
#endif

int64_t believable(int64_t size, int64_t least, int64_t most, int64_t otherwise) {
    return size >= least && size <= most ? size : otherwise;
}

}  // namespace

CacheSizes cache_sizes() {
    static const CacheSizes sizes{believable(size_of_level(1), 8 * kKiB, 512 * kKiB, 32 * kKiB),
                                  believable(size_of_level(2), 128 * kKiB, 16384 * kKiB, 512 * kKiB)};
    return sizes;
}

}  // namespace llmcore
