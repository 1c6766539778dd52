// Checks of ids on the device: which fault is kept, when it is thrown, and that a captured check repeats.
#include <memory>
#include <vector>

#include "check.h"
#include "core/cuda_device.h"
#include "core/index_check.h"
#include "cuda/api.h"

using namespace llmcore;

namespace {

std::string sentence_of(const IndexRule& rule, int64_t element, int32_t value) {
    return concat(rule.op, " ", rule.name, " ", element, " ", value, " ", rule.rows);
}

IndexRule rule_of(const char* op, int64_t rows, int64_t ignored = kNoIgnoredIndex) {
    return {op, "ids", rows, ignored, sentence_of};
}

// Ids on the device, all `fill` but for some.
struct Ids {
    Ids(size_t size, int32_t fill) : host(size, fill) {
        device = static_cast<int32_t*>(cuda::allocate(size * sizeof(int32_t), 0));
    }
    ~Ids() { cuda::release(device, 0); }
    void set(size_t element, int32_t value) { host[element] = value; }
    void check(const IndexRule& rule) {
        cuda::copy_to_device(device, host.data(), host.size() * sizeof(int32_t), 0);
        cuda::check_indices(device, int64_t(host.size()), rule, 0);
    }
    std::vector<int32_t> host;
    int32_t* device;
};

std::string fault_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const std::out_of_range& fault) {
        return fault.what();
    }
    return "";
}

std::string waiting() {
    return fault_of([] { cuda::synchronize(0); });
}

TEST(index_check_keeps_the_first_element_that_is_outside) {
    for_every_policy([] {
        for (size_t size : {1u, 31u, 33u, 1024u, 5000u}) {
            Ids ids(size, 6);
            ids.check(rule_of("op", 7));
            EXPECT(waiting() == "");
            for (size_t element : {size - 1, size / 2, size / 3}) {  // each before the last one
                ids.set(element, element % 2 ? -1 : 7);
                ids.check(rule_of("op", 7));
                EXPECT(waiting() == concat("op ids ", element, " ", element % 2 ? -1 : 7, " 7"));
                EXPECT(waiting() == "");  // thrown once
            }
        }
        Ids ids(5000, 0);
        for (size_t element : {3100u, 2076u, 1052u}) ids.set(element, 9);  // one thread's
        ids.check(rule_of("op", 7));
        EXPECT(waiting() == "op ids 1052 9 7");
    });
}

TEST(index_check_takes_the_ignored_id_and_every_row) {
    Ids ids(3, 0);
    ids.set(1, -100);
    ids.set(2, 4);
    ids.check(rule_of("op", 5, -100));
    EXPECT(waiting() == "");
    ids.check(rule_of("op", 5));
    EXPECT(waiting() == "op ids 1 -100 5");
    ids.check(rule_of("op", 0));
    EXPECT(waiting() == "op ids 0 0 0");
    ids.set(0, INT32_MIN);
    ids.check(rule_of("op", 5, -100));
    EXPECT(waiting() == "op ids 0 -2147483648 5");
}

TEST(index_check_keeps_the_first_check_that_failed) {
    Ids one(40, 9), other(2, 9);
    other.set(1, 12);
    one.check(rule_of("fine", 10));
    other.check(rule_of("first", 10));
    one.check(rule_of("second", 9));
    int32_t value = 0;
    EXPECT(fault_of([&] { cuda::copy_to_host(&value, other.device, sizeof value, 0); }) == "first ids 1 12 10");
    EXPECT(value == 9);  // the copy was made
    EXPECT(waiting() == "");
}

TEST(index_check_in_a_graph_sees_what_a_replay_reads) {
    Ids ids(2, 1);
    cudaStream_t stream = cuda::open(0).stream;
    cudaGraph_t graph;
    cudaGraphExec_t replay;
    cuda::copy_to_device(ids.device, ids.host.data(), 8, 0);
    LLMCORE_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    cuda::check_indices(ids.device, 2, rule_of("captured", 3), 0);
    LLMCORE_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    LLMCORE_CUDA_CHECK(cudaGraphInstantiate(&replay, graph));
    for (int32_t id : {2, 3, 0, -5}) {
        ids.set(1, id);
        cuda::copy_to_device(ids.device, ids.host.data(), 8, 0);
        LLMCORE_CUDA_CHECK(cudaGraphLaunch(replay, stream));
        EXPECT(waiting() == (id >= 0 && id < 3 ? "" : concat("captured ids 1 ", id, " 3")));
    }
    LLMCORE_CUDA_CHECK(cudaGraphExecDestroy(replay));
    LLMCORE_CUDA_CHECK(cudaGraphDestroy(graph));
}

}  // namespace
