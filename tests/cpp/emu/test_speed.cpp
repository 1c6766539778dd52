// How long the emulator takes for matrix products: what decides how many shapes a test can afford.
#include <cstdio>
#include <ctime>
#include <memory>

#include "check.h"
#include "cuda/launch.cuh"
#include "gemm_mma_kernel.cuh"
#include "gemm_wgmma_kernel.cuh"

using namespace llmcore;

namespace {

constexpr int kSize = 256;

// Milliseconds of CPU time, the best of five: other work on the machine stretches it less than wall time.
double best_time(const std::function<void()>& body) {
    double best = 1e9;
    for (int i = 0; i < 5; ++i) {
        std::clock_t begin = std::clock();
        body();
        best = std::fmin(best, double(std::clock() - begin) * 1e3 / CLOCKS_PER_SEC);
    }
    return best;
}

// The aim is 40 ms for mma.sync and 20 ms for wgmma; ten times that is a regression, whatever the machine does and with
// the portable switch between fibers, too.
TEST(products_of_256_cubed_take_milliseconds) {
    std::unique_ptr<uint16_t[]> a(new uint16_t[kSize * kSize]()), b(new uint16_t[kSize * kSize]());
    std::unique_ptr<float[]> c(new float[kSize * kSize]);
    double mma = best_time([&] {
        launch({dim3(kSize / 64, kSize / 64), 128, kGemmMmaShared}, gemm_mma, c.get(), a.get(), b.get(), kSize, kSize,
               kSize);
    });
    uint64_t sizes[] = {kSize, kSize}, strides[] = {kSize * 2};
    uint32_t box[] = {64, 128};
    auto map_of = [&](uint16_t* base) {
        return emu::encode_tensor_map(emu::TensorType::kBf16, 2, base, sizes, strides, box, emu::Swizzle::k128);
    };
    CUtensorMap map_a = map_of(a.get()), map_b = map_of(b.get());
    double wgmma = best_time([&] {
        launch({dim3(kSize / 128, kSize / 128), 384, kGemmWgmmaShared}, gemm_wgmma<false, false, 1, false>, c.get(),
               map_a, map_b, map_a, kSize, kSize, kSize);
    });
    std::printf("     256^3: mma.sync %.1f ms, wgmma %.1f ms of CPU time\n", mma, wgmma);
    if (!kAsan && !emu::race_detection()) EXPECT(mma < 400 && wgmma < 200);
}

}  // namespace
