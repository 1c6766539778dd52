// Ids that choose rows of a table: every one must be inside it. Where the ids are on the host, check_indices throws
// std::out_of_range for the first that is not. On a GPU it does not wait: the check runs there in the order of the
// stream, and what it finds the next synchronize or copy to the host throws, with the same sentence. Until then kernels
// run on such ids, so their contracts say what they take a wrong one for; none may leave its memory.
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor.h"

namespace llmcore {

inline constexpr int64_t kNoIgnoredIndex = INT64_MIN;  // no int32 is it

struct IndexRule {
    // What is said of ids[element] = value.
    using Sentence = std::string (*)(const IndexRule& rule, int64_t element, int32_t value);

    const char *op, *name;  // literals: a rule may wait on a device for as long as the process lives
    int64_t rows;           // ids are in [0, rows)
    int64_t ignored;        // ... or this one; kNoIgnoredIndex for none
    Sentence sentence;
};

// The first id of a check that broke its rule.
struct IndexFault {
    bool found;
    IndexRule rule;
    int64_t element;
    int32_t value;
};

// ids: int32, any shape.
void check_indices(const Tensor& ids, const IndexRule& rule);

}  // namespace llmcore
