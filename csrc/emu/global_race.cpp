#include "emu/global_race.h"

#include <cstdlib>
#include <memory>
#include <sstream>
#include <unordered_map>

#include "emu/global_memory.h"
#include "emu/machine.h"

namespace llmcore::emu {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// places, by number: an access keeps 4 bytes of it

std::vector<Location> places{{}};

uint32_t number_of(Location where) {
    static std::unordered_map<uintptr_t, uint32_t> numbers;
    static struct {
        uintptr_t key;
        uint32_t number;
    } recent[256];
    uintptr_t key = where.pc ? where.pc : reinterpret_cast<uintptr_t>(where.file) * 8192 + uintptr_t(where.line);
    auto& cached = recent[(key ^ key >> 8) % 256];
    if (cached.key == key && cached.number) return cached.number;
    auto [at, fresh] = numbers.try_emplace(key, static_cast<uint32_t>(places.size()));
    if (fresh) places.push_back(where);
    cached = {key, at->second};
    return at->second;
}

// ---------------------------------------------------------------------------------------------------------------------
// cells

struct GlobalAccess {
    uint32_t residence;  // 0: none
    uint32_t actor : 31, atomic : 1;
    uint32_t tick, where;
};

struct Cell {  // two bytes
    GlobalAccess write;
    GlobalAccess reads[2];  // the last, and the last before it that was not ordered with it
};

constexpr uintptr_t kPageBytes = 4096;
struct Page {
    Cell cells[kPageBytes / 2];
};
struct Free {
    void operator()(Page* page) const { std::free(page); }
};

std::unordered_map<uintptr_t, std::unique_ptr<Page, Free>> pages;
struct {
    uintptr_t number;
    Page* page;
} recent_pages[64];

uint32_t last_residence = 0, oldest_residence = 1;  // what older ones did is known to everybody
uint32_t kernel = 0, known_at_start = 0;
std::vector<uint32_t> kernel_of_residence{0};

Cell& cell_at(uintptr_t address) {
    uintptr_t number = address / kPageBytes;
    auto& recent = recent_pages[number % 64];
    if (recent.number != number || !recent.page) {
        std::unique_ptr<Page, Free>& page = pages[number];
        if (!page) page.reset(static_cast<Page*>(std::calloc(1, sizeof(Page))));  // untouched pages cost nothing
        if (!page) throw std::bad_alloc();
        recent = {number, page.get()};
    }
    return recent.page->cells[address % kPageBytes / 2];
}

bool counts(const GlobalAccess& access) {
    return access.residence >= oldest_residence;
}

bool is_ordered(const GlobalAccess& before, const Actor& now) {
    if (before.residence == resident().residence) {
        if (before.actor == now.number && !resident().is_engine(now.number)) return true;
        return now.knows.seen[before.actor] >= before.tick;
    }
    if (now.knows.kernels >= kernel_of_residence[before.residence]) return true;
    auto found = now.knows.elsewhere.find(before.residence);
    return found != now.knows.elsewhere.end() && before.actor < found->second->size() &&
           (*found->second)[before.actor] >= before.tick;
}

std::string name_of(const GlobalAccess& access) {
    if (kernel_of_residence[access.residence] != kernel) return "an earlier kernel (griddepcontrol.wait is missing)";
    if (access.residence != resident().residence) return "another block";
    return resident().name_of_actor(access.actor);
}

[[noreturn]] void report(bool write_now, const char* before, const GlobalAccess& access, Location where) {
    fail("race",
         std::string(write_now ? "write" : "read") + " of a global address is not ordered after the " + before +
             " by " + name_of(access) + " at " + place(places[access.where]),
         where);
}

void keep_read(Cell& cell, const GlobalAccess& now, const Actor& actor) {
    GlobalAccess& last = cell.reads[0];
    bool same = last.residence == now.residence && last.actor == now.actor;
    if (counts(last) && !same && !is_ordered(last, actor)) cell.reads[1] = last;
    last = now;
}

// ---------------------------------------------------------------------------------------------------------------------
// words through which blocks synchronise

using Released = std::unordered_map<uint32_t, std::shared_ptr<const Ticks>>;  // residence -> its actors' ticks
std::unordered_map<uintptr_t, Released> words;

void add(Released& to, const Clock& clock) {
    auto join = [&](uint32_t residence, const Ticks& ticks) {
        auto both = std::make_shared<Ticks>(ticks);
        std::shared_ptr<const Ticks>& old = to[residence];
        if (old) join_ticks(*both, *old);
        old = both;
    };
    join(resident().residence, clock.seen);
    for (const auto& [residence, ticks] : clock.elsewhere) join(residence, *ticks);
}

void take(Clock& clock, const Released& from) {
    for (const auto& [residence, ticks] : from)
        if (residence == resident().residence)
            join_ticks(clock.seen, *ticks);
        else
            clock.learn(residence, ticks);
}

// What happens before a release and what happens after it are different ticks.
void tick(Thread& thread) {
    ++thread.clock.seen[thread.actor];
}

}  // namespace

void begin_kernel(bool overlaps_previous) {
    if (!race_detection()) return;
    if (!overlaps_previous) {
        oldest_residence = last_residence + 1;
        known_at_start = kernel;
        words.clear();
        if (pages.size() > 4096) {
            pages.clear();
            for (auto& recent : recent_pages) recent = {};
        }
    }
    ++kernel;
}

uint32_t begin_residence() {
    if (!race_detection()) return 0;
    kernel_of_residence.push_back(kernel);
    return ++last_residence;
}

uint32_t kernels_known_at_start() {
    return known_at_start;
}

uint32_t kernels_before() {
    return kernel - 1;
}

void record_global(const void* pointer, size_t bytes, AccessKind kind, const Actor& actor, Location where) {
    if (!race_detection()) return;
    const bool atomic = kind == AccessKind::kAtomicRead || kind == AccessKind::kAtomicWrite;
    const bool writes = kind == AccessKind::kWrite || kind == AccessKind::kAtomicWrite;
    const GlobalAccess now{resident().residence, actor.number, atomic, actor.tick, number_of(where)};
    const uintptr_t first = reinterpret_cast<uintptr_t>(pointer) / 2 * 2, end = first + (bytes + 1) / 2 * 2;
    for (uintptr_t address = first; address < end; address += 2) {
        Cell& cell = cell_at(address);
        auto conflicts = [&](const GlobalAccess& before) {
            return counts(before) && !(before.atomic && atomic) && !is_ordered(before, actor);
        };
        if (conflicts(cell.write)) report(writes, "write", cell.write, where);
        if (!writes) {
            keep_read(cell, now, actor);
            continue;
        }
        for (GlobalAccess& read : cell.reads) {
            if (conflicts(read)) report(true, "read", read, where);
            read.residence = 0;
        }
        cell.write = now;
    }
}

void check_read_only(const void* address, size_t bytes, Location where) {
    if (!race_detection()) return;
    for (size_t i = 0; i < bytes; i += 2) {
        const Cell& cell = cell_at(reinterpret_cast<uintptr_t>(address) + i);
        if (counts(cell.write) && kernel_of_residence[cell.write.residence] == kernel)
            fail("race",
                 "a load through the read-only path of what this kernel stored at " + place(places[cell.write.where]),
                 where);
    }
}

void release_at(const void* address, bool replaces) {
    if (!race_detection()) return;
    Released& word = words[reinterpret_cast<uintptr_t>(address)];
    if (replaces) word.clear();
    add(word, self().clock);
    tick(self());
}

void acquire_at(const void* address) {
    if (!race_detection()) return;
    auto found = words.find(reinterpret_cast<uintptr_t>(address));
    if (found != words.end()) take(self().clock, found->second);
}

void relaxed_at(const void* address) {
    if (!race_detection()) return;
    Thread& thread = self();
    auto found = words.find(reinterpret_cast<uintptr_t>(address));
    if (found != words.end()) {
        if (!thread.unfenced) thread.unfenced = std::make_unique<Clock>();
        thread.unfenced->seen.resize(resident().actors, 0);
        thread.unfenced->fenced.resize(resident().actors, 0);
        take(*thread.unfenced, found->second);
    }
    if (thread.fence) add(words[reinterpret_cast<uintptr_t>(address)], *thread.fence);
}

void thread_fence() {
    if (!race_detection()) return;
    Thread& thread = self();
    if (thread.unfenced) thread.clock.join(*thread.unfenced);
    thread.fence = std::make_unique<Clock>(thread.clock);
    tick(thread);
}

}  // namespace llmcore::emu
