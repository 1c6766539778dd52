// What Python cannot ask the attention kernels: whether their accesses to shared memory meet bank conflicts. Their
// results are tests/kernels/test_attention.py's.
#include <vector>

#include "check.h"
#include "conflicts.h"
#include "cuda/attention_variants.cuh"

using namespace llmcore;

namespace {

const Cuda& cuda() {
    static const uint64_t no_shift = 0;
    static const Cuda backend = [] {
        Cuda made{nullptr, 90, 132, 227 * 1024};
        made.random_shift = &no_shift;
        return made;
    }();
    return backend;
}

template <class T>
std::vector<T> numbers(int64_t size) {
    std::vector<T> made(static_cast<size_t>(size));
    for (T& value : made) value = from_float<T>(random_number());
    return made;
}

// Forward, backward and decoding of two heads of 70 queries (decoding: 2) by 150 keys.
template <class T>
void run(int64_t HS, float dropout_p) {
    const int64_t NH = 2, Tq = 70, Tk = 150, C = NH * HS;
    AttentionProblem p{1, NH, NH, Tq, Tk, HS, C, C, C, Causal::kLastKey, nullptr, nullptr, 0.1f, dropout_p, 1, 2};
    const std::vector<T> q = numbers<T>(Tq * C), k = numbers<T>(Tk * C), v = numbers<T>(Tk * C);
    std::vector<T> out(q.size()), dq(q.size()), dk(k.size()), dv(k.size());
    std::vector<float> lse(static_cast<size_t>(NH * Tq)), workspace(attention_backward_workspace(cuda(), p));
    attention_forward(cuda(), out.data(), lse.data(), q.data(), k.data(), v.data(), nullptr, p);
    attention_backward(cuda(), dq.data(), dk.data(), dv.data(), q.data(), q.data(), k.data(), v.data(), out.data(),
                       lse.data(), workspace.data(), p);
    p.Tq = 2;
    workspace.resize(attention_decode_workspace(cuda(), p));
    attention_decode(cuda(), out.data(), q.data(), k.data(), v.data(), workspace.data(), p);
}

TEST(attention_in_bf16_has_no_bank_conflicts) {
    for (int64_t HS : {32, 64, 80, 128, 256}) {
        expect_no_bank_conflicts([&] { run<bf16>(HS, 0.5f); });
        EXPECT(emu::statistics().matrix_instructions > 0);
    }
}

TEST(attention_in_float_has_no_bank_conflicts) {
    for (int64_t HS : {32, 64, 80, 128, 256}) expect_no_bank_conflicts([&] { run<float>(HS, 0.5f); });
}

}  // namespace
