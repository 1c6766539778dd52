// What Python cannot ask the attention kernels: whether their accesses to shared memory meet bank conflicts. Their
// results are tests/kernels/test_attention.py's.
#include <vector>

#include "check.h"
#include "cuda/attention_variants.cuh"
#include "emu/conflicts.h"

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

std::vector<bf16> numbers(int64_t size) {
    std::vector<bf16> made(static_cast<size_t>(size));
    for (bf16& value : made) value = to_bf16(random_number());
    return made;
}

// Forward, backward and decoding of two heads of 70 queries (decoding: 2) by 150 keys.
void run(int64_t HS, float dropout_p) {
    const int64_t NH = 2, Tq = 70, Tk = 150, C = NH * HS;
    AttentionProblem p{1, NH, NH, Tq, Tk, HS, C, C, C, Causal::kLastKey, nullptr, nullptr, 0.1f, dropout_p, 1, 2};
    const std::vector<bf16> q = numbers(Tq * C), k = numbers(Tk * C), v = numbers(Tk * C);
    std::vector<bf16> out(q.size()), dq(q.size()), dk(k.size()), dv(k.size());
    std::vector<float> lse(static_cast<size_t>(NH * Tq)), workspace(attention_backward_workspace(cuda(), p));
    attention_forward(cuda(), out.data(), lse.data(), q.data(), k.data(), v.data(), nullptr, p);
    attention_backward(cuda(), dq.data(), dk.data(), dv.data(), q.data(), q.data(), k.data(), v.data(), out.data(),
                       lse.data(), workspace.data(), p);
    p.Tq = 2;
    workspace.resize(attention_decode_workspace(cuda(), p));
    attention_decode(cuda(), out.data(), q.data(), k.data(), v.data(), workspace.data(), p);
}

void expect_no_conflicts() {
    std::string lines;
    for (const emu::LineConflicts& line : emu::conflicts_by_line())
        lines += line.line + ": " + std::to_string(line.conflicts) + "\n";
    if (emu::statistics().bank_conflicts > 0 || emu::statistics().shared_bank_conflicts > 0)
        throw std::runtime_error(std::to_string(emu::statistics().bank_conflicts) + " conflicts of ldmatrix\n" + lines);
}

TEST(attention_in_bf16_has_no_bank_conflicts) {
    for (int64_t HS : {32, 64, 80, 128, 256}) {
        emu::statistics() = {};
        emu::policy().count_bank_conflicts = true;  // of ordinary accesses, in the race build
        run(HS, 0.5f);
        emu::policy() = {};
        EXPECT(emu::statistics().matrix_instructions > 0);
        expect_no_conflicts();
    }
}

}  // namespace
