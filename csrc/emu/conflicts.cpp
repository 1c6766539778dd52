#include "emu/conflicts.h"

#include <algorithm>
#include <map>
#include <set>

#include "emu/machine.h"
#include "emu/policy.h"

namespace llmcore::emu {
namespace {

std::map<uintptr_t, std::pair<Location, uint64_t>> lines;

uint64_t mix(uint64_t a, uint64_t b) {
    return (a ^ b * 0x9e3779b97f4a7c15ull) * 0xff51afd7ed558ccdull;
}

// Wavefronts beyond those that the lanes' bytes need: in each group of lanes, the most words that one bank has to give.
unsigned conflicts_of(const WarpAccesses::Request& request) {
    const unsigned lanes_at_once = request.bytes >= 16 ? 8 : request.bytes >= 8 ? 16 : 32;
    unsigned conflicts = 0;
    for (unsigned first = 0; first < 32; first += lanes_at_once) {
        std::set<uint32_t> words[32];
        for (unsigned lane = first; lane < first + lanes_at_once; ++lane)
            if (request.lanes >> lane & 1)
                for (uint32_t word = request.address[lane] / 4; word <= (request.address[lane] + request.bytes - 1) / 4;
                     ++word)
                    words[word % 32].insert(word);
        size_t most = 1;
        for (const auto& bank : words) most = std::max(most, bank.size());
        conflicts += unsigned(most - 1);
    }
    return conflicts;
}

void count(const WarpAccesses::Request& request) {
    unsigned conflicts = conflicts_of(request);
    if (!conflicts) return;
    statistics().shared_bank_conflicts += conflicts;
    auto& line = lines[request.where.pc];
    line.first = request.where;
    line.second += conflicts;
}

}  // namespace

void note_access(Thread& thread, uint32_t address, size_t bytes, Location where) {
    if (!policy().count_bank_conflicts) return;
    if (statistics().shared_bank_conflicts == 0) lines.clear();
    WarpAccesses& accesses = thread.block->accesses;
    uint32_t time = accesses.times[mix(where.pc, thread.number)]++;
    uint64_t key = mix(mix(where.pc, thread.warp()), time);
    WarpAccesses::Request& request = accesses.incomplete[key];
    request.bytes = static_cast<uint32_t>(bytes);
    request.where = where;
    request.address[thread.lane()] = address;
    request.lanes |= 1u << thread.lane();
    if (request.lanes != ~0u) return;
    count(request);
    accesses.incomplete.erase(key);
}

void count_conflicts(Block& block) {
    for (const auto& [key, request] : block.accesses.incomplete) count(request);
    block.accesses.incomplete.clear();
}

std::vector<LineConflicts> conflicts_by_line() {
    std::map<std::string, uint64_t> sums;
    for (const auto& [pc, line] : lines) sums[place(line.first)] += line.second;
    std::vector<LineConflicts> result;
    for (const auto& [line, conflicts] : sums) result.push_back({line, conflicts});
    std::sort(result.begin(), result.end(), [](auto& a, auto& b) { return a.conflicts > b.conflicts; });
    return result;
}

}  // namespace llmcore::emu
