#include "core/memory_text.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/check.h"

namespace llmcore {

std::string memory_text(size_t bytes) {
    const std::pair<const char*, int> units[] = {{" GiB", 30}, {" MiB", 20}};
    for (auto [unit, bits] : units)
        if (bytes >> bits > 0) return concat(bytes >> bits, ".", ((bytes >> (bits - 10)) % 1024) * 10 / 1024, unit);
    return concat(bytes, " bytes");
}

std::string holders_text(const std::map<std::string, size_t>& by_label, size_t allocated) {
    std::vector<std::pair<size_t, std::string>> holders;
    size_t labelled = 0;
    for (auto& [label, bytes] : by_label) {
        if (bytes > 0) holders.emplace_back(bytes, label);
        labelled += bytes;
    }
    if (holders.empty()) return "";
    if (allocated > labelled) holders.emplace_back(allocated - labelled, "not labelled");
    std::sort(holders.rbegin(), holders.rend());
    std::string text;
    for (auto& [bytes, label] : holders) text += concat(text.empty() ? "" : ", ", label, " ", memory_text(bytes));
    return text;
}

}  // namespace llmcore
