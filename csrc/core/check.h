// Errors. The core throws; it never prints, exits or aborts. The bindings turn these into Python exceptions:
// std::invalid_argument -> ValueError, std::out_of_range -> IndexError, OutOfMemory -> llmcore.OutOfMemoryError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace llmcore {

class OutOfMemory : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    return text.str();
}

}  // namespace llmcore

// LLMCORE_CHECK(C > 0, "layernorm_forward: C must be positive, got ", C): op, rule, finding.
#define LLMCORE_CHECK(condition, ...)                                                  \
    do {                                                                               \
        if (!(condition)) throw std::invalid_argument(::llmcore::concat(__VA_ARGS__)); \
    } while (false)
