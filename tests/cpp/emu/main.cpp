// emulator_tests_<build>: runs all tests, or those named. --list-dying names the tests whose process must die.
#include <cstdio>
#include <cstring>

#include "check.h"

namespace {

bool run(const Test& test) {
    try {
        llmcore::emu::policy() = {};
        test.body();
        std::printf("ok   %s\n", test.name);
        return true;
    } catch (const std::exception& error) {
        std::printf("FAIL %s: %s\n", test.name, error.what());
        return false;
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1 && !std::strcmp(argv[1], "--list-dying")) {
        for (const Test& test : all_tests())
            if (test.ends_the_process) std::printf("%s\n", test.name);
        return 0;
    }
    int failed = 0, count = 0;
    for (const Test& test : all_tests()) {
        bool named = false;
        for (int i = 1; i < argc; ++i) named |= !std::strcmp(argv[i], test.name);
        if (argc > 1 ? !named : test.ends_the_process) continue;
        ++count;
        failed += !run(test);
    }
    std::printf("%d tests, %d failed\n", count, failed);
    return failed || !count;
}
