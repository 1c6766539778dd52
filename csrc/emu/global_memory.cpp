#include "emu/global_memory.h"

#include <string>

#include "emu/global_race.h"
#include "emu/machine.h"
#include "emu/scheduler.h"

namespace llmcore::emu {
namespace {

constexpr uint64_t kPolicies[] = {0x1000000000000000, 0x12f0000000000000, 0x14f0000000000000};

}  // namespace

void check_vector(const void* address, size_t bytes, Location where) {
    if (reinterpret_cast<uintptr_t>(address) % bytes)
        fail("align", "a vector access of " + std::to_string(bytes) + " bytes is not aligned to them", where);
}

uint64_t cache_policy(int evict) {
    return kPolicies[evict];
}

void check_cache_policy(uint64_t policy, Location where) {
    for (uint64_t known : kPolicies)
        if (policy == known) return;
    fail("cache-policy", "the hint is not a policy of createpolicy", where);
}

uint32_t load_acquire(const uint32_t* address, Location where) {
    check_vector(address, sizeof *address, where);
    spin(address, where);
    acquire_at(address);
    record_pointer(address, sizeof *address, AccessKind::kAtomicRead, where);
    return *address;
}

void store_release(uint32_t* address, uint32_t value, Location where) {
    check_vector(address, sizeof *address, where);
    record_pointer(address, sizeof *address, AccessKind::kAtomicWrite, where);
    release_at(address, true);
    *address = value;
    made_progress();
}

uint32_t add_acquire_release(uint32_t* address, uint32_t value, bool acquire, Location where) {
    check_vector(address, sizeof *address, where);
    if (acquire) acquire_at(address);
    record_pointer(address, sizeof *address, AccessKind::kAtomicWrite, where);
    release_at(address, false);
    made_progress();
    uint32_t old = *address;
    *address = old + value;
    return old;
}

void add_relaxed(float* address, float value, Location where) {
    check_vector(address, sizeof *address, where);
    atomic_access(address, sizeof *address, where);
    *address += value;
}

void atomic_access(const void* address, size_t bytes, Location where) {
    if (!current_thread()) return;
    made_progress();
    record_pointer(address, bytes, AccessKind::kAtomicWrite, where);
    relaxed_at(address);
}

}  // namespace llmcore::emu
