// Climbs the ladder on a GPU: every rung, then csrc/cuda/matmul_sm90.cu as each of its designs, alone and in clusters.
// Checks the first rows of each against float64, then times it: the median of 20 calls, over operands that are random
// (zeros are quicker: matmul is limited by power) and change from call to call.
//
//   ladder [M N K]      8192 8192 8192 unless given; M and N multiples of 128, K of 64
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "cuda/api.h"
#include "cuda/matmul_variants.cuh"
#include "rungs.h"

using namespace llmcore;

namespace {

constexpr int kSets = 3, kCalls = 20, kCheckedRows = 2;

struct Set {
    bf16 *a, *b, *y;
};

std::vector<bf16> random_values(size_t count, uint32_t state) {
    std::vector<bf16> values(count);
    for (bf16& value : values) {
        state = state * 1664525u + 1013904223u;
        value = to_bf16(float(int32_t(state)) / 2147483648.0f);
    }
    return values;
}

bf16* on_device(const std::vector<bf16>& values) {
    void* memory = nullptr;
    LLMCORE_CUDA_CHECK(cudaMalloc(&memory, values.size() * sizeof(bf16)));
    LLMCORE_CUDA_CHECK(cudaMemcpy(memory, values.data(), values.size() * sizeof(bf16), cudaMemcpyHostToDevice));
    return static_cast<bf16*>(memory);
}

// The largest error beside the largest value, over the first rows.
double error_of(const std::vector<bf16>& a, const std::vector<bf16>& b, const bf16* y, const ladder::Problem& p) {
    std::vector<bf16> found(size_t(kCheckedRows) * size_t(p.N));
    LLMCORE_CUDA_CHECK(cudaMemcpy(found.data(), y, found.size() * sizeof(bf16), cudaMemcpyDeviceToHost));
    double error = 0, largest = 0;
    for (int m = 0; m < kCheckedRows; ++m)
        for (int n = 0; n < p.N; ++n) {
            double sum = 0;
            for (int k = 0; k < p.K; ++k)
                sum += double(to_float(a[size_t(m) * size_t(p.K) + size_t(k)])) *
                       double(to_float(b[size_t(n) * size_t(p.K) + size_t(k)]));
            error = std::max(error, std::fabs(sum - double(to_float(found[size_t(m) * size_t(p.N) + size_t(n)]))));
            largest = std::max(largest, std::fabs(sum));
        }
    return error / largest;
}

double median_seconds(const Cuda& cuda, const std::function<void(int)>& call) {
    cudaEvent_t begin, end;
    LLMCORE_CUDA_CHECK(cudaEventCreate(&begin));
    LLMCORE_CUDA_CHECK(cudaEventCreate(&end));
    std::vector<float> times(kCalls);
    for (int i = 0; i < kCalls; ++i) call(i);  // until the clock has settled
    for (int i = 0; i < kCalls; ++i) {
        LLMCORE_CUDA_CHECK(cudaEventRecord(begin, cuda.stream));
        call(i);
        LLMCORE_CUDA_CHECK(cudaEventRecord(end, cuda.stream));
        LLMCORE_CUDA_CHECK(cudaEventSynchronize(end));
        LLMCORE_CUDA_CHECK(cudaEventElapsedTime(&times[size_t(i)], begin, end));
    }
    std::sort(times.begin(), times.end());
    return double(times[kCalls / 2]) * 1e-3;
}

void climb(const ladder::Problem& p) {
    cudaDeviceProp properties;
    LLMCORE_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
    Cuda cuda{};
    cuda.arch = 90;
    cuda.multiprocessors = properties.multiProcessorCount;
    LLMCORE_CUDA_CHECK(cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking));

    std::vector<bf16> a, b;
    std::vector<Set> sets;
    for (uint32_t i = 0; i < kSets; ++i) {
        a = random_values(size_t(p.M) * size_t(p.K), 2 * i + 1);
        b = random_values(size_t(p.N) * size_t(p.K), 2 * i + 2);
        sets.push_back({on_device(a), on_device(b), on_device(std::vector<bf16>(size_t(p.M) * size_t(p.N)))});
    }

    std::printf("%s, %d multiprocessors; %d x %d x %d\n", properties.name, cuda.multiprocessors, p.M, p.N, p.K);
    auto show = [&](const char* name, const std::function<void(const Set&)>& multiply) {
        multiply(sets.back());
        LLMCORE_CUDA_CHECK(cudaStreamSynchronize(cuda.stream));
        const double error = error_of(a, b, sets.back().y, p);
        const double seconds = median_seconds(cuda, [&](int i) { multiply(sets[size_t(i % kSets)]); });
        const double teraflops = 2e-12 * p.M * p.N * p.K / seconds;
        std::printf("  %-40s %8.1f us %7.1f TFLOP/s %s\n", name, seconds * 1e6, teraflops, error < 1e-2 ? "" : "WRONG");
    };
    show("wgmma and TMA, one after the other", [&](const Set& s) { multiply_by_wgmma(cuda, s.y, s.a, s.b, p); });
    show("four stages", [&](const Set& s) { multiply_in_stages(cuda, s.y, s.a, s.b, p); });
    show("a warpgroup that loads", [&](const Set& s) { multiply_by_specialists(cuda, s.y, s.a, s.b, p); });
    const char* names[][2] = {{"128x256 cooperative, persistent", "128x256, cluster of two"},
                              {"128x192 ping-pong", "128x192, cluster of two"},
                              {"128x160 ping-pong", "128x160, cluster of two"},
                              {"64x256 ping-pong", "64x256, cluster of two"}};
    const MatmulProblem problem{.batch = 1, .M = p.M, .N = p.N, .K = p.K, .transpose_b = true};
    for (MatmulDesign design : kMatmulDesigns)
        for (int cluster : {1, 2})
            show(names[int(design)][cluster - 1],
                 [&](const Set& s) { matmul_sm90(cuda, {design, cluster, 1}, s.y, s.a, s.b, problem, {}, nullptr); });
}

}  // namespace

int main(int argc, char** argv) {
    ladder::Problem p{8192, 8192, 8192};
    if (argc == 4) p = {std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3])};
    if (p.M <= 0 || p.N <= 0 || p.K <= 0 || p.M % 128 || p.N % 128 || p.K % 64) {
        std::fprintf(stderr, "ladder: M and N must be multiples of 128 and K of 64\n");
        return 2;
    }
    try {
        climb(p);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "ladder: %s\n", error.what());
        return 1;
    }
}
