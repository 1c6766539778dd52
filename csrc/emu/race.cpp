#include "emu/race.h"

#include <sstream>
#include <unordered_map>
#include <utility>

#include "emu/machine.h"
#include "emu/policy.h"

namespace llmcore::emu {
namespace {

bool enabled = false;
// Two bytes of global memory -> the cluster that stored them in this launch, and where.
std::unordered_map<uintptr_t, std::pair<unsigned, Location>> global_stores;

bool is_engine(unsigned actor) {
    return actor >= resident().tma_actor;
}

std::string name_of_actor(unsigned actor, const Block& block) {
    const Resident& r = resident();
    if (actor == r.tma_actor) return "a bulk copy issued";
    if (actor > r.tma_actor) return "wgmma of warpgroup " + std::to_string((actor - r.tma_actor - 1) % r.warpgroups);
    return "thread " + std::to_string(actor % block.size);
}

[[noreturn]] void report(const char* now, const char* before, const Access& access, const Block& block,
                         uint32_t address, Location where) {
    std::ostringstream text;
    text << now << " of shared address 0x" << std::hex << address << " is not ordered after the " << before << " by "
         << name_of_actor(access.actor, block) << " at " << place(access.where);
    fail("race", text.str(), where);
}

void check_against_write(const ShadowCell& cell, AccessKind kind, const Actor& actor, const Block& block,
                         uint32_t address, Location where) {
    const Access& write = cell.write;
    // An engine's operations are not ordered among themselves; a thread's are.
    if (write.actor < 0 || (unsigned(write.actor) == actor.number && !is_engine(actor.number))) return;
    if (actor.knows.seen[write.actor] < write.tick)
        report(kind == AccessKind::kWrite ? "write" : "read", "write", write, block, address, where);
    if (actor.async && !write.async && kind == AccessKind::kRead && actor.knows.fenced[write.actor] < write.tick)
        fail("proxy",
             "a read through the async proxy of what " + name_of_actor(write.actor, block) + " stored at " +
                 place(write.where) + " without fence.proxy.async",
             where);
}

void keep_write(ShadowCell& cell, const Access& now, const Actor& actor, const Block& block, uint32_t address) {
    for (const Access& read : cell.reads) {
        bool other = unsigned(read.actor) != actor.number || is_engine(actor.number);
        if (other && actor.knows.seen[read.actor] < read.tick) report("write", "read", read, block, address, now.where);
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
    Access now{int(actor.number), actor.tick, actor.async, where};
    for (uint32_t i = address / 2; i < (address + bytes + 1) / 2; ++i) {
        ShadowCell& cell = block.shadow.at(i);
        check_against_write(cell, kind, actor, block, i * 2, where);
        if (kind == AccessKind::kWrite)
            keep_write(cell, now, actor, block, i * 2);
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
    if (uint32_t address = thread->block->shared.find(pointer))
        record(*thread, address, bytes, kind, where);
    else if (kind == AccessKind::kWrite)
        record_global_store(pointer, bytes, thread->block->cluster->number, where);
}

void record_global_store(const void* pointer, size_t bytes, unsigned cluster, Location where) {
    if (!enabled || policy().all_resident) return;  // resident blocks may order their stores by protocols of their own
    for (size_t i = 0; i < bytes; i += 2) {
        auto [at, fresh] = global_stores.try_emplace((reinterpret_cast<uintptr_t>(pointer) + i) / 2, cluster, where);
        if (!fresh && at->second.first != cluster)
            fail("race", "another block stores to the same global address at " + place(at->second.second), where);
    }
}

void forget_global_stores() {
    global_stores.clear();
}

void release(Thread& thread, Clock& to) {
    if (!enabled) return;
    to.join(thread.clock);
    ++thread.clock.seen[thread.actor];
}

void acquire(Thread& thread, const Clock& from) {
    if (enabled) thread.clock.join(from);
}

void fence_proxy_async() {
    if (enabled) self().clock.fenced = self().clock.seen;
}

}  // namespace llmcore::emu
