// Errors. The core throws; it never prints, exits or aborts. The bindings turn these into Python exceptions:
// std::invalid_argument -> ValueError, std::out_of_range -> IndexError, OutOfMemory -> llmcore.OutOfMemoryError.
#pragma once

#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace llmcore {

class OutOfMemory : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// What a device reports: a launch or a copy that failed, an error that a kernel left behind. RuntimeError in Python.
class DeviceError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Numbers without a stream: streams ask the global locale, and where another library in the process (PyTorch, say)
// brings a C++ runtime of its own, the locale's parts are looked up under that one's numbers and every figure prints as
// nothing.
template <class Part>
void append_part(std::string& text, const Part& part) {
    if constexpr (std::is_arithmetic_v<Part> && !std::is_same_v<Part, char> && !std::is_same_v<Part, bool>) {
        char digits[32];
        text.append(digits, std::to_chars(digits, digits + sizeof digits, part).ptr);
    } else if constexpr (std::is_same_v<Part, bool>) {
        text += part ? "true" : "false";
    } else if constexpr (std::is_same_v<Part, char>) {
        text += part;
    } else {
        text += std::string_view(part);
    }
}

template <class... Parts>
std::string concat(const Parts&... parts) {
    std::string text;
    (append_part(text, parts), ...);
    return text;
}

}  // namespace llmcore

// LLMCORE_CHECK(C > 0, "layernorm_forward: C must be positive, got ", C): op, rule, finding.
#define LLMCORE_CHECK(condition, ...)                                                  \
    do {                                                                               \
        if (!(condition)) throw std::invalid_argument(::llmcore::concat(__VA_ARGS__)); \
    } while (false)
