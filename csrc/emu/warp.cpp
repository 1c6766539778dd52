#include "emu/warp.h"

#include <algorithm>
#include <string>

#include "emu/machine.h"
#include "emu/policy.h"
#include "emu/scheduler.h"

namespace llmcore::emu {
namespace {

Meeting& meeting_of(Warp& warp, uint32_t mask, Location where) {
    for (Meeting& m : warp.meetings)
        if (m.arrived && m.mask == mask) return m;
    for (Meeting& m : warp.meetings)
        if (!m.arrived) return m;
    fail("warp", "more than four disjoint masks are under way in one warp", where);
}

template <class Body>
void for_lanes(uint32_t mask, Body body) {
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) body(lane);
}

}  // namespace

void collective(uint32_t mask, const char* name, void* argument, void (*act)(void**, uint32_t), Location where) {
    Thread& thread = self();
    unsigned lane = thread.lane(), in_block = thread.block->size - thread.warp() * 32;
    if (in_block < 32) mask &= (1u << in_block) - 1;  // lanes that the block does not have count as exited
    if (!(mask >> lane & 1)) fail("warp", std::string(name) + ": the lane is not in its own mask", where);
    Meeting& m = meeting_of(thread.block->warps[thread.warp()], mask, where);
    if (m.arrived && std::strcmp(m.name, name))
        fail("divergence", std::string("lanes of one warp meet in ") + m.name + " and " + name, where);
    m.mask = mask;
    m.name = name;
    m.arguments[lane] = argument;
    m.arrived |= 1u << lane;
    if (m.arrived != mask) {
        return wait(name, where, [&m] {
            std::string lanes;
            for_lanes(m.mask & ~m.arrived, [&](unsigned l) { lanes.append(" ").append(std::to_string(l)); });
            return "without lanes" + lanes;
        });
    }
    ++statistics().collectives;
    m.arrived = 0;
    act(m.arguments, mask);
    Thread* first = thread.block->threads + thread.warp() * 32;
    for_lanes(mask & ~(1u << lane), [&](unsigned other) { wake(first[other]); });
}

unsigned current_lane() {
    return self().lane();
}

uint64_t shuffle_bits(uint32_t mask, uint64_t bits, unsigned source, Location where) {
    struct Argument {
        uint64_t value, result;
        unsigned source;
    } argument{bits, 0, source % 32};
    collective(
        mask, "shfl", &argument,
        [](void** arguments, uint32_t lanes) {
            for_lanes(lanes, [&](unsigned lane) {
                auto& mine = *static_cast<Argument*>(arguments[lane]);
                // What a lane outside the mask gives is undefined on hardware: here it is NaN, and -1 as an integer.
                mine.result =
                    lanes >> mine.source & 1 ? static_cast<Argument*>(arguments[mine.source])->value : ~uint64_t(0);
            });
        },
        where);
    return argument.result;
}

uint32_t ballot(uint32_t mask, bool predicate, Location where) {
    struct Argument {
        bool predicate;
        uint32_t result;
    } argument{predicate, 0};
    collective(
        mask, "vote", &argument,
        [](void** arguments, uint32_t lanes) {
            uint32_t votes = 0;
            for_lanes(lanes,
                      [&](unsigned l) { votes |= uint32_t(static_cast<Argument*>(arguments[l])->predicate) << l; });
            for_lanes(lanes, [&](unsigned l) { static_cast<Argument*>(arguments[l])->result = votes; });
        },
        where);
    return argument.result;
}

void sync_warp(uint32_t mask, Location where) {
    collective(
        mask, "__syncwarp", &self(),
        [](void** arguments, uint32_t lanes) {
            if (!race_detection()) return;
            Clock all;
            all.start(resident().actors);
            for_lanes(lanes, [&](unsigned l) { release(*static_cast<Thread*>(arguments[l]), all); });
            for_lanes(lanes, [&](unsigned l) { acquire(*static_cast<Thread*>(arguments[l]), all); });
        },
        where);
}

uint32_t reduce_bits(uint32_t mask, uint32_t value, char operation, bool is_signed, Location where) {
    struct Argument {
        uint32_t value;
        char operation;
        bool is_signed;
    } argument{value, operation, is_signed};
    collective(
        mask, "redux", &argument,
        [](void** arguments, uint32_t lanes) {
            bool first = true;
            uint32_t result = 0;
            for_lanes(lanes, [&](unsigned l) {
                auto [v, op, as_signed] = *static_cast<Argument*>(arguments[l]);
                bool less = as_signed ? int32_t(v) < int32_t(result) : v < result;
                if (first)
                    result = v;
                else if (op == '+')
                    result += v;
                else if (op == '<' || op == '>')
                    result = less == (op == '<') ? v : result;
                else if (op == '&')
                    result &= v;
                else if (op == '|')
                    result |= v;
                else
                    result ^= v;
                first = false;
            });
            for_lanes(lanes, [&](unsigned l) { static_cast<Argument*>(arguments[l])->value = result; });
        },
        where);
    return argument.value;
}

bool elect_one(uint32_t mask, Location where) {
    uint32_t present = mask;
    collective(
        mask, "elect", &present,
        [](void** arguments, uint32_t lanes) {
            for_lanes(lanes, [&](unsigned l) { *static_cast<uint32_t*>(arguments[l]) = lanes; });
        },
        where);
    unsigned first = unsigned(__builtin_ctz(present)), last = 31 - unsigned(__builtin_clz(present));
    if (policy().order == Order::kForward) return current_lane() == first;
    if (policy().order == Order::kReverse) return current_lane() == last;
    unsigned lane = (present * 0x9e3779b9u >> 16) + unsigned(policy().seed);
    while (!(present >> lane % 32 & 1)) ++lane;
    return current_lane() == lane % 32;
}

}  // namespace llmcore::emu
