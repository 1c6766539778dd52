// Vector clocks: what an actor (a thread, the TMA engine, a warpgroup's tensor core) knows to have happened.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace llmcore::emu {

using Ticks = std::vector<uint32_t>;  // per actor: the last of its ticks that happened before

inline void join_ticks(Ticks& to, const Ticks& from) {
    if (to.size() < from.size()) to.resize(from.size(), 0);
    for (size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
}

struct Clock {
    Ticks seen;
    Ticks fenced;  // the same, of ordinary writes that a proxy fence made visible to the async proxy

    // Clusters run one after another with actors of their own. What was learned of earlier ones through global memory:
    // residence number -> its actors' ticks.
    std::map<uint32_t, std::shared_ptr<const Ticks>> elsewhere;
    uint32_t kernels = 0;  // the last kernel whose end is known

    void start(size_t actors) {
        seen.assign(actors, 0);
        fenced.assign(actors, 0);
        elsewhere.clear();
        kernels = 0;
    }

    void learn(uint32_t residence, const std::shared_ptr<const Ticks>& ticks) {
        std::shared_ptr<const Ticks>& mine = elsewhere[residence];
        if (mine == ticks) return;
        if (!mine) {
            mine = ticks;
            return;
        }
        auto both = std::make_shared<Ticks>(*mine);
        join_ticks(*both, *ticks);
        mine = both;
    }

    void join(const Clock& other) {
        for (size_t i = 0; i < other.seen.size(); ++i) {
            seen[i] = std::max(seen[i], other.seen[i]);
            fenced[i] = std::max(fenced[i], other.fenced[i]);
        }
        for (const auto& [residence, ticks] : other.elsewhere) learn(residence, ticks);
        kernels = std::max(kernels, other.kernels);
    }
};

}  // namespace llmcore::emu
