#include "emu/cp_async.h"

#include <cstring>
#include <string>
#include <utility>

#include "emu/machine.h"
#include "emu/policy.h"
#include "emu/scheduler.h"

namespace llmcore::emu {
namespace {

void put(Block& block, const CpAsync& copy) {
    std::memcpy(block.shared.at(copy.destination, size_t(copy.bytes), copy.where), copy.data, size_t(copy.bytes));
}

void land(Thread& thread, const CpAsync& copy) {
    put(*thread.block, copy);
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
    if (source_bytes) record_pointer(source, size_t(source_bytes), AccessKind::kRead, where);
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
    auto due = [&](const CpAsync& copy) { return copy.group < state.group - groups_left; };
    std::erase_if(state.pending, [&](const CpAsync& copy) {
        if (due(copy)) land(thread, copy);
        return due(copy);
    });
    for (const auto& copies : state.promised)
        std::erase_if(*copies, [&](const CpAsync& copy) {
            if (due(copy)) put(*thread.block, copy);
            return due(copy);
        });
}

void cp_async_wait_all() {
    cp_async_commit();
    cp_async_wait(0);
}

void cp_async_arrive(uint32_t barrier, Location where) {
    Thread& thread = self();
    mbarrier_at(*thread.block, barrier, where);
    Clock knows;
    if (race_detection()) {
        knows.start(resident().actors);
        release(thread, knows);  // the copies' writes were recorded when they were issued
    }
    auto copies = std::make_shared<std::vector<CpAsync>>(std::exchange(thread.cp_async.pending, {}));
    thread.cp_async.promised.push_back(copies);
    auto arrive = [&block = *thread.block, copies, knows, barrier, where] {
        for (const CpAsync& copy : *copies) put(block, copy);
        copies->clear();
        mbarrier_complete_arrival(block, barrier, knows, where);
    };
    if (policy().copies == Landing::kEarly) return arrive();
    post_effect(arrive);
}

}  // namespace llmcore::emu
