// benchmarks/ladder: every rung multiplies small integers exactly.
#include "../../../benchmarks/ladder/rungs.h"
#include "matmul_case.h"

using namespace llmcore;

namespace {

TEST(ladder_rungs_are_exact) {
    const Cuda cuda{nullptr, 90, 132, 227 * 1024};
    const ladder::Problem p{128, 256, 384};  // more steps than stages
    Case<bf16, bf16, bf16> c(plain(p.M, p.N, p.K, 2), {});
    c.generate(small_integer);
    for (auto multiply : {ladder::multiply_by_wgmma, ladder::multiply_in_stages, ladder::multiply_by_specialists})
        for_policies_of_this_build([&] {
            c.reset();
            multiply(cuda, c.y.data, c.a.data, c.b.data, p);
            check(c, 0);
        });
}

}  // namespace
