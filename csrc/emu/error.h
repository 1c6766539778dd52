// Errors of the emulator: exceptions out of a launch, so that a test can assert on them.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace llmcore::emu {

// A place in a kernel: a source line where a wrapper was called, or the address of an instrumented load or store.
struct Location {
    const char* file = "";
    int line = 0;
    uintptr_t pc = 0;
    // As a defaulted argument it is evaluated where the wrapper is called, so locations cost a kernel's author nothing.
    static constexpr Location here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line, 0};
    }
};

// "file.cuh:12". For an instrumented access this asks addr2line, so only reports call it.
std::string place(Location where);

class Error : public std::runtime_error {
  public:
    Error(const std::string& kind_, const std::string& message)
        : std::runtime_error(kind_ + ": " + message), kind(kind_) {}
    const std::string kind;  // "deadlock", "race", "proxy", "shared-bounds", ...
};

// Throws an Error that ends with the place and, inside a kernel, the block and thread.
[[noreturn]] void fail(const char* kind, const std::string& message, Location where);

}  // namespace llmcore::emu
