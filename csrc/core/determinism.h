// Whether results must have the same bits in every run. They have unless somebody asks for speed instead.
#pragma once

#include <atomic>

namespace llmcore {

inline std::atomic<bool> deterministic_algorithms{true};

// For what is called, and for graphs that are captured, from now on; all threads.
inline void use_deterministic_algorithms(bool mode) {
    deterministic_algorithms = mode;
}

inline bool are_deterministic_algorithms_enabled() {
    return deterministic_algorithms;
}

}  // namespace llmcore
