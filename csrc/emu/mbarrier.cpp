#include "emu/mbarrier.h"

#include <cstdlib>
#include <cstring>
#include <sstream>

#include "emu/machine.h"
#include "emu/policy.h"
#include "emu/scheduler.h"

namespace llmcore::emu {
namespace {

constexpr uint64_t kCookie = 0x6d62617272696572ull;  // "mbarrier"
constexpr uint32_t kMaxCount = (1u << 20) - 1;       // of arrivals and of bytes

std::string describe(uint32_t address, uint32_t parity, const MBarrier& b) {
    std::ostringstream text;
    text << "mbarrier 0x" << std::hex << address << std::dec << " wants parity " << parity << "; phase " << b.phase
         << " pending " << b.pending << "/" << b.expected << " bytes " << b.bytes;
    return text.str();
}

void add_bytes(MBarrier& b, int64_t bytes, Location where) {
    b.bytes += bytes;
    if (std::abs(b.bytes) > kMaxCount) fail("mbarrier", "more than 2^20 - 1 bytes are under way in one phase", where);
}

void complete_phase_if_due(MBarrier& b) {
    if (b.pending || b.bytes) return;
    b.phase ^= 1;
    b.pending = b.expected;
    if (race_detection()) b.done.join(b.next);
    for (Thread* thread : b.waiting) wake(*thread);
    b.waiting.clear();
}

}  // namespace

MBarrier& mbarrier_at(Block& block, uint32_t address, Location where) {
    address &= kOffsetMask;
    uint64_t word;
    std::memcpy(&word, block.shared.at(address, 8, where), sizeof word);
    auto found = block.mbarriers.find(address);
    if (found == block.mbarriers.end()) fail("mbarrier", "used before mbarrier.init", where);
    if (word != (kCookie ^ address)) fail("mbarrier", "the barrier's word in shared memory was overwritten", where);
    return found->second;
}

void mbarrier_init(uint32_t address, uint32_t count, Location where) {
    Block& block = *self().block;
    if (address % 8) fail("align", "an mbarrier's address is not a multiple of 8", where);
    if (count < 1 || count > kMaxCount) fail("mbarrier", "the count must be 1 to 2^20 - 1", where);
    uint64_t word = kCookie ^ address;
    std::memcpy(block.shared.at(address, 8, where), &word, sizeof word);
    MBarrier& b = block.mbarriers[address] = MBarrier{};
    b.expected = b.pending = count;
    b.initialiser = &self();
    if (!race_detection()) return;
    b.next.start(resident().actors);
    b.done.start(resident().actors);
}

void fence_mbarrier_init() {
    for (auto& [address, b] : self().block->mbarriers)
        if (b.initialiser == &self()) b.known_to_copies = b.known_to_cluster = true;
}

void fence_proxy_async() {
    for (auto& [address, b] : self().block->mbarriers)
        if (b.initialiser == &self()) b.known_to_copies = true;
    if (race_detection()) self().clock.fenced = self().clock.seen;
}

void check_fenced(Block& block, uint32_t address, bool from_another_block, Location where) {
    const MBarrier& b = mbarrier_at(block, address, where);
    if (from_another_block ? !b.known_to_cluster : !b.known_to_copies)
        fail("mbarrier",
             std::string("used by ") + (from_another_block ? "another block" : "a bulk copy") +
                 " without fence.mbarrier_init by the thread that initialised it",
             where);
}

void mbarrier_invalidate(uint32_t address, Location where) {
    mbarrier_at(*self().block, address, where);
    self().block->mbarriers.erase(address);
}

void mbarrier_arrive(uint32_t address, uint32_t count, uint32_t expect_bytes, Location where) {
    Block& block = block_of(address, *self().block);
    check_alive(block, where);
    if (&block != self().block) check_fenced(block, address, true, where);
    MBarrier& b = mbarrier_at(block, address, where);
    if (count > b.pending) fail("mbarrier", "more arrivals than the barrier expects in this phase", where);
    add_bytes(b, expect_bytes, where);
    release(self(), b.next);
    b.pending -= count;
    complete_phase_if_due(b);
}

void mbarrier_expect(uint32_t address, uint32_t bytes, Location where) {
    add_bytes(mbarrier_at(block_of(address, *self().block), address, where), bytes, where);
}

bool mbarrier_try_wait(uint32_t address, uint32_t parity, Location where) {
    Thread& thread = self();
    if (address & kClusterBit) fail("mbarrier", "only the own block's barriers can be waited for", where);
    if (parity > 1) fail("mbarrier", "the parity is not 0 or 1", where);
    if (policy().copies == Landing::kMixed && draw() % 16 == 0) {
        yield();
        return false;
    }
    while (mbarrier_at(*thread.block, address, where).phase == parity) {
        MBarrier& b = mbarrier_at(*thread.block, address, where);
        b.waiting.push_back(&thread);
        wait("mbarrier.try_wait", where, [address, parity, &b] { return describe(address, parity, b); });
    }
    acquire(thread, mbarrier_at(*thread.block, address, where).done);
    return true;
}

void mbarrier_complete_bytes(Block& block, uint32_t address, int64_t bytes, const Clock& knows, Location where) {
    MBarrier& b = mbarrier_at(block, address, where);
    if (race_detection()) b.next.join(knows);
    add_bytes(b, -bytes, where);
    complete_phase_if_due(b);
}

void mbarrier_complete_arrival(Block& block, uint32_t address, const Clock& knows, Location where) {
    MBarrier& b = mbarrier_at(block, address, where);
    if (!b.pending) fail("mbarrier", "more arrivals than the barrier expects in this phase", where);
    if (race_detection()) b.next.join(knows);
    --b.pending;
    complete_phase_if_due(b);
}

}  // namespace llmcore::emu
