// Tensor maps come from a cache: the same for the same question, another for any other.
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda/tensor_map.h"

using namespace llmcore;

namespace {

struct Question {
    const bf16* data;
    int64_t sizes[3] = {64, 128, 2}, steps[2] = {64, 64 * 128};
    uint32_t box[3] = {64, 64, 1};
    CUtensorMap ask() const { return bf16_tensor_map(data, sizes, steps, box); }
};

bool same(const CUtensorMap& a, const CUtensorMap& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

emu::TensorMap decoded(const CUtensorMap& map) {
    emu::TensorMap found;
    std::memcpy(&found, &map, sizeof found);
    return found;
}

struct alignas(16) Memory {
    bf16 elements[2 * 128 * 128 + 64];
};

TEST(tensor_map_is_made_once_for_each_question) {
    auto memory = std::make_unique<Memory>();
    const Question first{memory->elements};
    std::vector<Question> questions(8, first);
    questions[1].data += 8;
    questions[2].sizes[0] = 32;
    questions[3].sizes[1] = 127;
    questions[4].sizes[2] = 1;
    questions[5].steps[0] = 72;
    questions[6].steps[1] = 64 * 128 + 8;
    questions[7].box[1] = 128;
    std::vector<CUtensorMap> maps;
    for (const Question& question : questions) maps.push_back(question.ask());
    for (size_t i = 0; i < maps.size(); ++i)
        for (size_t j = 0; j < i; ++j) EXPECT(!same(maps[i], maps[j]));
    for (size_t i = 0; i < maps.size(); ++i) {
        EXPECT(same(questions[i].ask(), maps[i]));  // made anew if another one has had its place since
        const uint64_t before = encoded_tensor_maps();
        EXPECT(same(questions[i].ask(), maps[i]));
        EXPECT(encoded_tensor_maps() == before);
    }
}

// The same numbers mean twice the bytes.
TEST(tensor_map_of_floats_is_another) {
    auto memory = std::make_unique<Memory>();
    const int64_t sizes[3] = {32, 16, 2}, steps[2] = {32, 32 * 16};
    const uint32_t box[3] = {32, 16, 1};
    const auto* floats = reinterpret_cast<const float*>(memory.get());
    for (int turn = 0; turn < 2; ++turn) {
        const emu::TensorMap halves = decoded(bf16_tensor_map(memory->elements, sizes, steps, box));
        const emu::TensorMap whole = decoded(float_tensor_map(floats, sizes, steps, box));
        EXPECT(halves.element_bytes == 2 && halves.strides[1] == 64 && halves.swizzle_mask == 3);
        EXPECT(whole.element_bytes == 4 && whole.strides[1] == 128 && whole.swizzle_mask == 7);
    }
}

// Which of them share a place follows from the memory's address: some 36 of 200 questions, on average.
TEST(tensor_map_cache_holds_many) {
    auto memory = std::make_unique<Memory>();
    auto ask_all = [&] {
        const uint64_t before = encoded_tensor_maps();
        for (int64_t i = 0; i < 200; ++i) {
            Question question{memory->elements};
            question.sizes[1] = 1 + i;
            question.ask();
        }
        return encoded_tensor_maps() - before;
    };
    ask_all();
    EXPECT(ask_all() < 100);
}

TEST(tensor_map_cache_forgets_and_stays_right) {
    auto memory = std::make_unique<Memory>();
    const CUtensorMap map = Question{memory->elements}.ask();
    const uint64_t before = encoded_tensor_maps();
    // More than there is room for, so that many share a place: each has to come out different from all others.
    std::set<std::string> different;
    for (int64_t i = 1; i <= 2000; ++i) {
        std::vector<Question> questions(4, Question{memory->elements});
        questions[0].data += 8 * i;
        questions[1].sizes[1] = 200 + i;
        questions[2].steps[0] = 64 + 8 * i;
        questions[3].box[1] = uint32_t(1 + i % 250);
        questions[3].box[2] = uint32_t(2 + i / 250);
        for (const Question& question : questions) {
            const CUtensorMap made = question.ask();
            different.insert(std::string(reinterpret_cast<const char*>(&made), sizeof made));
        }
    }
    EXPECT(different.size() == 8000);
    EXPECT(encoded_tensor_maps() > before + 7000);  // some addresses are another test's
    EXPECT(same(Question{memory->elements}.ask(), map));
    Question refused{memory->elements};
    refused.box[1] = 512;  // more than the hardware takes
    for (int attempt = 0; attempt < 2; ++attempt) {
        bool threw = false;
        try {
            refused.ask();
        } catch (const std::runtime_error&) {
            threw = true;
        }
        EXPECT(threw);
    }
}

TEST(tensor_map_cache_is_shared_by_threads) {
    auto memory = std::make_unique<Memory>();
    std::vector<CUtensorMap> expected;
    auto question_of = [&](int i) {
        Question question{memory->elements};
        question.sizes[1] = 1 + i % 100;
        return question;
    };
    for (int i = 0; i < 100; ++i) expected.push_back(question_of(i).ask());
    bool right[4] = {};
    std::vector<std::thread> threads;
    for (bool& result : right)
        threads.emplace_back([&] {
            result = true;
            for (int i = 0; i < 3000; ++i)
                result = result && same(question_of(i * 7).ask(), expected[size_t(i * 7 % 100)]);
        });
    for (std::thread& thread : threads) thread.join();
    for (bool result : right) EXPECT(result);
}

}  // namespace
