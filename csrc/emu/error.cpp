#include "emu/error.h"

#include <dlfcn.h>
#include <elf.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <sstream>

#include "emu/machine.h"

namespace llmcore::emu {
namespace {

std::string source_line_of(uintptr_t pc) {
    Dl_info module;
    if (dladdr(reinterpret_cast<void*>(pc), &module) == 0) return "?";
    // A fixed executable is asked by absolute address, everything else relative to where it was loaded.
    bool fixed = static_cast<const Elf64_Ehdr*>(module.dli_fbase)->e_type == ET_EXEC;
    uintptr_t offset = fixed ? pc : pc - reinterpret_cast<uintptr_t>(module.dli_fbase);
    char command[4200], line[1024] = "?";
    std::snprintf(command, sizeof command, "addr2line -e '%s' 0x%lx 2>&1", module.dli_fname,
                  static_cast<unsigned long>(offset - 1));  // pc is a return address: one past the access
    if (FILE* pipe = popen(command, "r")) {
        if (!fgets(line, sizeof line, pipe)) line[0] = 0;
        pclose(pipe);
    }
    line[std::strcspn(line, " \n")] = 0;  // " (discriminator 3)"
    return line;
}

}  // namespace

std::string place(Location where) {
    std::ostringstream line;
    line << where.file << ":" << where.line;
    static std::map<uintptr_t, std::string> known;  // asking takes milliseconds
    if (where.pc && !known.count(where.pc)) known[where.pc] = source_line_of(where.pc);
    std::string text = where.pc ? known[where.pc] : line.str();
    return text.substr(text.rfind('/') + 1);
}

void fail(const char* kind, const std::string& message, Location where) {
    std::ostringstream text;
    text << message << " [" << place(where) << "]";
    if (const Thread* thread = current_thread()) {
        const uint3& block = thread->block->index;
        text << " block (" << block.x << ", " << block.y << ", " << block.z << ") thread " << thread->number;
    }
    throw Error(kind, text.str());
}

}  // namespace llmcore::emu
