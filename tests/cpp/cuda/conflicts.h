// Holds kernels to having no bank conflicts: of ldmatrix and stmatrix in every build, of ordinary accesses in the race
// build, whose instrumentation sees those.
#pragma once

#include <stdexcept>
#include <string>

#include "emu/conflicts.h"
#include "emu/policy.h"

namespace llmcore {

// Calls body, which launches kernels.
template <class Body>
void expect_no_bank_conflicts(Body&& body) {
    emu::statistics() = {};
    emu::policy().count_bank_conflicts = true;
    body();
    emu::policy() = {};
    if (emu::statistics().bank_conflicts == 0 && emu::statistics().shared_bank_conflicts == 0) return;
    std::string message = std::to_string(emu::statistics().bank_conflicts) + " of ldmatrix and stmatrix\n";
    for (const emu::LineConflicts& line : emu::conflicts_by_line())
        message += line.line + ": " + std::to_string(line.conflicts) + "\n";
    throw std::runtime_error(message);
}

}  // namespace llmcore
