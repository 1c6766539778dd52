#include "emu/cp_async.h"

#include <cstring>
#include <string>

#include "emu/machine.h"
#include "emu/policy.h"

namespace llmcore::emu {
namespace {

void land(Thread& thread, const CpAsync& copy) {
    std::memcpy(thread.block->shared.at(copy.destination, size_t(copy.bytes), copy.where), copy.data,
                size_t(copy.bytes));
    record(thread, copy.destination, size_t(copy.bytes), AccessKind::kWrite, copy.where);
}

}  // namespace

void cp_async(uint32_t destination, const void* source, int bytes, int source_bytes, Location where) {
    Thread& thread = self();
    if (source_bytes < 0 || source_bytes > bytes)
        fail("cp.async", "cannot read " + std::to_string(source_bytes) + " of " + std::to_string(bytes) + " bytes",
             where);
    if (destination % unsigned(bytes) || (source_bytes && reinterpret_cast<uintptr_t>(source) % unsigned(bytes)))
        fail("align", "a cp.async operand is not aligned to its size", where);
    thread.block->shared.at(destination, size_t(bytes), where);
    CpAsync copy{destination, bytes, thread.cp_async.group, {}, where};
    std::memcpy(copy.data, source, size_t(source_bytes));
    // The write may land any time from now on, so a race at this end counts as well as one where it lands.
    record(thread, destination, size_t(bytes), AccessKind::kWrite, where);
    if (lands_now(policy().copies))
        land(thread, copy);
    else
        thread.cp_async.pending.push_back(copy);
}

void cp_async_commit() {
    ++self().cp_async.group;
}

void cp_async_wait(int groups_left) {
    Thread& thread = self();
    CpAsyncState& state = thread.cp_async;
    std::erase_if(state.pending, [&](const CpAsync& copy) {
        bool due = copy.group < state.group - groups_left;
        if (due) land(thread, copy);
        return due;
    });
}

}  // namespace llmcore::emu
