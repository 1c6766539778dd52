#include "emu/race.h"

#include <sstream>

#include "emu/cuda_language.h"
#include "emu/global_race.h"
#include "emu/machine.h"

namespace llmcore::emu {
namespace {

bool enabled = false;

// threadIdx and its like are variables only here.
bool is_a_register(const void* pointer) {
    return pointer == &threadIdx.x || pointer == &threadIdx.y || pointer == &threadIdx.z || pointer == &blockIdx.x ||
           pointer == &blockIdx.y || pointer == &blockIdx.z || pointer == &blockDim.x || pointer == &blockDim.y ||
           pointer == &blockDim.z || pointer == &gridDim.x || pointer == &gridDim.y || pointer == &gridDim.z;
}

[[noreturn]] void report(const char* now, const char* before, const Access& access, uint32_t address, Location where) {
    std::ostringstream text;
    text << now << " of shared address 0x" << std::hex << address << " is not ordered after the " << before << " by "
         << resident().name_of_actor(unsigned(access.actor)) << " at " << place(access.where);
    fail("race", text.str(), where);
}

bool writes(AccessKind kind) {
    return kind == AccessKind::kWrite || kind == AccessKind::kAtomicWrite;
}

bool is_atomic(AccessKind kind) {
    return kind == AccessKind::kAtomicRead || kind == AccessKind::kAtomicWrite;
}

void check_against_write(const ShadowCell& cell, AccessKind kind, const Actor& actor, uint32_t address,
                         Location where) {
    const Access& write = cell.write;
    // An engine's operations are not ordered among themselves; a thread's are.
    if (write.actor < 0 || (unsigned(write.actor) == actor.number && !resident().is_engine(actor.number))) return;
    if (write.atomic && is_atomic(kind)) return;
    if (actor.knows.seen[write.actor] < write.tick)
        report(writes(kind) ? "write" : "read", "write", write, address, where);
    if (actor.async && !write.async && kind == AccessKind::kRead && actor.knows.fenced[write.actor] < write.tick)
        fail("proxy",
             "a read through the async proxy of what " + resident().name_of_actor(unsigned(write.actor)) +
                 " stored at " + place(write.where) + " without fence.proxy.async",
             where);
}

void keep_write(ShadowCell& cell, const Access& now, const Actor& actor, uint32_t address) {
    for (const Access& read : cell.reads) {
        bool other = unsigned(read.actor) != actor.number || resident().is_engine(actor.number);
        if (read.atomic && now.atomic) continue;
        if (other && actor.knows.seen[read.actor] < read.tick) report("write", "read", read, address, now.where);
    }
    cell.reads.clear();
    cell.write = now;
}

void keep_read(ShadowCell& cell, const Access& now, const Actor& actor) {
    for (Access& read : cell.reads)
        if (read.actor == now.actor) {
            read = now;
            return;
        }
    // Reads that happened before this one are implied by it.
    if (cell.reads.size() >= 8)
        std::erase_if(cell.reads, [&](const Access& r) { return actor.knows.seen[r.actor] >= r.tick; });
    cell.reads.push_back(now);
}

}  // namespace

bool race_detection() {
    return enabled;
}

void enable_race_detection() {
    enabled = true;
}

void record(Block& block, uint32_t address, size_t bytes, AccessKind kind, const Actor& actor, Location where) {
    if (!enabled) return;
    address &= kOffsetMask;
    if (block.shadow.size() < (block.shared.end() + 1) / 2) block.shadow.resize((block.shared.end() + 1) / 2);
    Access now{int(actor.number), actor.tick, actor.async, is_atomic(kind), where};
    for (uint32_t i = address / 2; i < (address + bytes + 1) / 2; ++i) {
        ShadowCell& cell = block.shadow.at(i);
        check_against_write(cell, kind, actor, i * 2, where);
        if (writes(kind))
            keep_write(cell, now, actor, i * 2);
        else
            keep_read(cell, now, actor);
    }
}

void record(Thread& thread, uint32_t address, size_t bytes, AccessKind kind, Location where) {
    if (!enabled) return;
    Actor actor{thread.actor, thread.clock.seen[thread.actor], thread.clock, false};
    record(block_of(address, *thread.block), address, bytes, kind, actor, where);
}

void record_pointer(const void* pointer, size_t bytes, AccessKind kind, Location where) {
    Thread* thread = current_thread();
    if (!enabled || !thread || is_on_a_fiber_stack(pointer)) return;
    if (is_a_register(pointer)) return;
    if (uint32_t address = thread->block->shared.find(pointer)) {
        note_access(*thread, address, bytes, where);
        return record(*thread, address, bytes, kind, where);
    }
    record_global(pointer, bytes, kind, {thread->actor, thread->clock.seen[thread->actor], thread->clock, false},
                  where);
}

std::string Resident::name_of_actor(unsigned actor) const {
    if (actor == tma_actor || actor == global_writer) return "a bulk copy issued";
    if (actor > global_writer) return "wgmma of warpgroup " + std::to_string((actor - global_writer - 1) % warpgroups);
    return "thread " + std::to_string(threads[actor].number) +
           (clusters.size() > 1 || clusters[0]->blocks.size() > 1
                ? " of block " + std::to_string(threads[actor].block->index.x)
                : "");
}

void release(Thread& thread, Clock& to) {
    if (!enabled) return;
    to.join(thread.clock);
    ++thread.clock.seen[thread.actor];
}

void acquire(Thread& thread, const Clock& from) {
    if (enabled) thread.clock.join(from);
}

}  // namespace llmcore::emu
