// cp.async: copies of 4, 8 or 16 bytes from global to shared memory that land any time up to the wait for their group.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "emu/error.h"

namespace llmcore::emu {

struct CpAsync {
    uint32_t destination;
    int bytes, group;
    unsigned char data[16];
    Location where;
};

struct CpAsyncState {  // of a thread
    std::vector<CpAsync> pending;
    std::vector<std::shared_ptr<std::vector<CpAsync>>> promised;  // for which an mbarrier waits
    int group = 0;
};

// The bytes beyond source_bytes are zero. The source is read at once, so that AddressSanitizer points to the issuing
// line.
void cp_async(uint32_t destination, const void* source, int bytes, int source_bytes, Location where);
void cp_async_commit();
void cp_async_wait(int groups_left);
void cp_async_wait_all();
// An arrival on an mbarrier when all copies so far have landed.
void cp_async_arrive(uint32_t barrier, Location where);

}  // namespace llmcore::emu
