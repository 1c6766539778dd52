// Vector clocks: what an actor (a thread, the TMA engine, a warpgroup's tensor core) knows to have happened.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace llmcore::emu {

struct Clock {
    std::vector<uint32_t> seen;    // per actor: the last of its ticks that happened before
    std::vector<uint32_t> fenced;  // the same, of ordinary writes that a proxy fence made visible to the async proxy

    void start(size_t actors) {
        seen.assign(actors, 0);
        fenced.assign(actors, 0);
    }

    void join(const Clock& other) {
        for (size_t i = 0; i < other.seen.size(); ++i) {
            seen[i] = std::max(seen[i], other.seen[i]);
            fenced[i] = std::max(fenced[i], other.fenced[i]);
        }
    }
};

}  // namespace llmcore::emu
