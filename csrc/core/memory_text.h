// Amounts of memory in sentences for people.
#pragma once

#include <cstddef>
#include <map>
#include <string>

namespace llmcore {

// "4000 bytes", "1.5 MiB", "79.2 GiB": the largest unit of which there is at least one, rounded down to a tenth.
std::string memory_text(size_t bytes);

// "weights 1.2 GiB, gradients 1.2 GiB, not labelled 300.0 MiB": the largest first.
std::string holders_text(const std::map<std::string, size_t>& by_label, size_t allocated);

// What helps everyone who meets it in training; the end of the sentence.
inline constexpr const char* kWhatNeedsLessMemory =
    "a smaller batch, a shorter block_size or activation_checkpointing=True needs less";

}  // namespace llmcore
