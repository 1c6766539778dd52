// The deadlock report: which threads wait, on which line, for what; threads that wait alike share a line.
#include <map>
#include <sstream>
#include <utility>

#include "emu/machine.h"
#include "emu/scheduler.h"

namespace llmcore::emu {
namespace {

std::string reason(const Thread& thread) {
    std::ostringstream text;
    if (!thread.waiting) return "ready to run";
    text << thread.wait_name << " at " << place(thread.wait_location);
    if (thread.wait_detail) text << " {" << thread.wait_detail() << "}";
    const uint3& block = thread.block->index;
    text << " block (" << block.x << ", " << block.y << ", " << block.z << ")";
    return text.str();
}

}  // namespace

std::string deadlock_report() {
    std::map<std::string, std::vector<unsigned>> groups;
    size_t exited = 0;
    for (const Thread& thread : resident().threads) {
        if (thread.done)
            ++exited;
        else
            groups[reason(thread)].push_back(thread.number);
    }
    std::ostringstream text;
    text << "all live threads wait (" << exited << " have exited):";
    for (const auto& [key, numbers] : groups)
        text << "\n    " << numbers.size() << " thread(s) [" << numbers.front() << ".." << numbers.back()
             << "]: " << key;
    return text.str();
}

}  // namespace llmcore::emu
