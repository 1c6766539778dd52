// A bug is planted by number, at run time, so that the right kernel and its broken copies are one source. The numbers
// are those of the tests in planted_bugs.cpp.
#pragma once

#if LLMCORE_EMULATE
inline int planted_bug = 0;
#else
constexpr int planted_bug = 0;
#endif

#if LLMCORE_EMULATE
struct Planted {
    explicit Planted(int bug) { planted_bug = bug; }
    ~Planted() { planted_bug = 0; }
};
#endif
