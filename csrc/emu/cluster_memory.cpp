#include "emu/cluster_memory.h"

#include <cstring>
#include <string>

#include "emu/machine.h"

namespace llmcore::emu {
namespace {

char* reach(uint32_t address, size_t bytes, AccessKind kind, Location where) {
    Thread& thread = self();
    if (address % bytes) fail("align", "an access to cluster memory is not aligned to its size", where);
    Block& block = block_of(address, *thread.block);
    check_alive(block, where);
    char* memory = block.shared.at(address, bytes, where);
    record(thread, address, bytes, kind, where);
    return memory;
}

std::string name_of(const Block& block) {
    return "block " + std::to_string(block.rank) + " of the cluster";
}

}  // namespace

void check_alive(Block& block, Location where) {
    Thread* thread = current_thread();
    if (thread && &block == thread->block) return;
    Lifetime& life = block.lifetime;
    if (life.exited == block.size)
        fail("cluster", name_of(block) + " has exited: no barrier of the cluster after the last access", where);
    if (!thread) return;
    bool known = life.started > 0;
    if (race_detection()) {
        known = false;
        for (unsigned i = 0; i < block.size; ++i) known |= thread->clock.seen[block.threads[i].actor] > 0;
        life.guests[thread->actor] = {thread->clock.seen[thread->actor], where};
    }
    if (!known)
        fail("cluster", name_of(block) + " may not have started: no barrier of the cluster before the first access",
             where);
}

void note_exit(Thread& thread) {
    Block& block = *thread.block;
    Lifetime& life = block.lifetime;
    ++life.exited;
    if (!race_detection()) return;
    if (life.exit.seen.empty()) life.exit.start(resident().actors);
    life.exit.join(thread.clock);
    if (life.exited < block.size) return;
    for (const auto& [actor, access] : life.guests)
        if (life.exit.seen[actor] < access.first)
            fail("cluster",
                 name_of(block) + " exits without knowing that " + resident().name_of_actor(actor) +
                     " is done with its shared memory: no barrier of the cluster after the access",
                 access.second);
}

void load_cluster(uint32_t address, void* value, size_t bytes, Location where) {
    std::memcpy(value, reach(address, bytes, AccessKind::kRead, where), bytes);
}

void store_cluster(uint32_t address, const void* value, size_t bytes, Location where) {
    std::memcpy(reach(address, bytes, AccessKind::kWrite, where), value, bytes);
}

}  // namespace llmcore::emu
