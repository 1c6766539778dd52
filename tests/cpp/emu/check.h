// The little that the C++ tests need: named tests, expectations that throw, and a loop over all policies.
#pragma once

#include <cmath>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "emu/error.h"
#include "emu/policy.h"
#include "emu/race.h"

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAsan = true;
#else
constexpr bool kAsan = false;
#endif

struct Test {
    const char* name;
    void (*body)();
    bool ends_the_process = false;  // a bug that a sanitizer stops: run alone, by name
};

inline std::vector<Test>& all_tests() {
    static std::vector<Test> tests;
    return tests;
}

struct Registration {
    explicit Registration(Test test) { all_tests().push_back(test); }
};

#define TEST(name)                                            \
    static void name();                                       \
    static const Registration register_##name({#name, name}); \
    static void name()

// In the sanitizer build only: a test whose process must die with a report.
#define DYING_TEST(name)                                            \
    static void name();                                             \
    static const Registration register_##name({#name, name, true}); \
    static void name()

#define EXPECT(condition)                                                                                       \
    do {                                                                                                        \
        if (!(condition))                                                                                       \
            throw std::runtime_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " #condition); \
    } while (false)

// The kind of emulator error that body ends with ("" if none) and its whole text.
struct Outcome {
    std::string kind, text;
};

inline Outcome outcome_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const llmcore::emu::Error& error) {
        return {error.kind, error.what()};
    }
    return {};
}

inline void expect_error(const std::string& kind, const std::string& part, const std::function<void()>& body) {
    Outcome outcome = outcome_of(body);
    if (outcome.kind != kind || outcome.text.find(part) == std::string::npos)
        throw std::runtime_error("expected " + kind + " with \"" + part + "\", got \"" + outcome.text + "\"");
}

// Every order of threads with every landing of copies and matrix instructions that differs.
inline void for_every_policy(const std::function<void()>& body) {
    using namespace llmcore::emu;
    const Order orders[] = {Order::kForward, Order::kReverse, Order::kRandom};
    const Landing landings[][2] = {{Landing::kLate, Landing::kLate},
                                   {Landing::kEarly, Landing::kEarly},
                                   {Landing::kMixed, Landing::kMixed},
                                   {Landing::kEarly, Landing::kLate},
                                   {Landing::kLate, Landing::kEarly}};
    uint64_t seed = 0;
    for (Order order : orders)
        for (const auto& landing : landings) {
            policy() = Policy{};
            policy().order = order;
            policy().copies = landing[0];
            policy().math = landing[1];
            policy().seed = ++seed;
            body();
        }
    policy() = Policy{};
}

// Repeatable numbers in [-1, 1).
inline float random_number() {
    static uint32_t state = 12345;
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int32_t>(state >> 8) - (1 << 23)) / static_cast<float>(1 << 23);
}
