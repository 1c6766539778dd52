// The host's half of CUDA in the emulator: devices, memory, streams, graphs, tensor maps.
#include <cstring>
#include <vector>

#include "check.h"
#include "cuda/launch.cuh"
#include "emu/driver_api.h"
#include "emu/host.h"

using namespace llmcore;

namespace {

// A stream and the devices of one test.
struct Host {
    cudaStream_t stream = nullptr;
    Host() { EXPECT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess); }
    ~Host() {
        cudaStreamDestroy(stream);
        emu::set_devices({emu::pretend_h100()});
        cudaSetDevice(0);
        cudaGetLastError();
    }
};

template <class T>
T* device_array(size_t count) {
    void* memory = nullptr;
    EXPECT(cudaMalloc(&memory, count * sizeof(T)) == cudaSuccess);
    return static_cast<T*>(memory);
}

void add_one(float* x) {
    x[threadIdx.x] += 1.0f;
}

// Gives its own error, and leaves it for cudaGetLastError, which forgets it.
bool fails_with(cudaError_t expected, cudaError_t found) {
    return found == expected && cudaPeekAtLastError() == expected && cudaGetLastError() == expected &&
           cudaGetLastError() == cudaSuccess;
}

TEST(fresh_device_memory_is_nan_and_is_accounted_for) {
    Host host;
    EXPECT(emu::leak_report().empty());
    emu::MemoryAccount before = emu::memory_account(0);
    float* x = device_array<float>(3);
    EXPECT(x[0] != x[0] && x[2] != x[2] && reinterpret_cast<uintptr_t>(x) % 256 == 0);
    EXPECT(emu::memory_account(0).bytes == before.bytes + 12 && emu::memory_account(0).blocks == before.blocks + 1);
    EXPECT(emu::leak_report().find("12 bytes on device 0, allocation ") == 0);
    size_t free_bytes = 0, total_bytes = 0;
    EXPECT(cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess && total_bytes == free_bytes + 12);
    EXPECT(fails_with(cudaErrorInvalidValue, cudaFree(x + 1)));  // not the beginning of a block
    EXPECT(cudaFree(x) == cudaSuccess);
    EXPECT(emu::leak_report().empty() && emu::memory_account(0).peak_bytes >= 12);
    EXPECT(fails_with(cudaErrorInvalidValue, cudaFree(&host)));  // never allocated
}

TEST(a_device_has_as_much_memory_as_it_says) {
    Host host;
    cudaDeviceProp small = emu::pretend_a100();
    small.totalGlobalMem = 1000;
    emu::set_devices({small});
    void *first = nullptr, *second = nullptr;
    EXPECT(cudaMalloc(&first, 600) == cudaSuccess);
    EXPECT(fails_with(cudaErrorMemoryAllocation, cudaMalloc(&second, 401)) && second == nullptr);
    EXPECT(cudaMalloc(&second, 400) == cudaSuccess);
    cudaFree(first);
    cudaFree(second);
}

TEST(copies_stay_inside_one_block_and_on_their_sides) {
    Host host;
    float values[4] = {1, 2, 3, 4}, back[4] = {};
    float* x = device_array<float>(4);
    auto copy = [&](void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
        return cudaMemcpyAsync(to, from, bytes, kind, host.stream);
    };
    EXPECT(copy(x, values, 16, cudaMemcpyHostToDevice) == cudaSuccess);
    EXPECT(copy(back, x, 16, cudaMemcpyDeviceToHost) == cudaSuccess && back[3] == 4);
    EXPECT(copy(x, x + 1, 4, cudaMemcpyDeviceToDevice) == cudaSuccess && x[0] == 2);
    EXPECT(cudaMemsetAsync(x, 0, 16, host.stream) == cudaSuccess && x[3] == 0);
    EXPECT(fails_with(cudaErrorInvalidValue, copy(x, values, 16, cudaMemcpyDeviceToDevice)));
    EXPECT(fails_with(cudaErrorInvalidValue, copy(back, x, 16, cudaMemcpyHostToDevice)));
    EXPECT(fails_with(cudaErrorInvalidValue, copy(back, x + 1, 16, cudaMemcpyDeviceToHost)));  // beyond the end
    EXPECT(fails_with(cudaErrorInvalidValue, cudaMemsetAsync(x + 3, 0, 8, host.stream)));
    cudaFree(x);
}

TEST(devices_are_an_h100_or_an_a100_or_none) {
    Host host;
    emu::set_devices({emu::pretend_h100(), emu::pretend_a100()});
    int count = 0, current = -1;
    EXPECT(cudaGetDeviceCount(&count) == cudaSuccess && count == 2);
    cudaDeviceProp h100{}, a100{};
    EXPECT(cudaGetDeviceProperties(&h100, 0) == cudaSuccess && cudaGetDeviceProperties(&a100, 1) == cudaSuccess);
    EXPECT(h100.major == 9 && h100.multiProcessorCount == 132 && h100.sharedMemPerBlockOptin == 232448);
    EXPECT(a100.major == 8 && a100.multiProcessorCount == 108 && a100.sharedMemPerBlockOptin == 166912);
    EXPECT(cudaSetDevice(1) == cudaSuccess && cudaGetDevice(&current) == cudaSuccess && current == 1);
    float *there = device_array<float>(1), value = 5;
    EXPECT(emu::memory_account(1).bytes == 4);
    EXPECT(fails_with(cudaErrorInvalidValue, cudaMemcpyPeerAsync(there, 0, there, 1, 4, host.stream)));
    EXPECT(cudaMemcpyAsync(there, &value, 4, cudaMemcpyHostToDevice, host.stream) == cudaSuccess);
    EXPECT(cudaSetDevice(0) == cudaSuccess);
    float* here = device_array<float>(1);
    EXPECT(cudaMemcpyPeerAsync(here, 0, there, 1, 4, host.stream) == cudaSuccess && *here == 5);
    EXPECT(fails_with(cudaErrorInvalidDevice, cudaSetDevice(2)));
    cudaFree(here);
    cudaFree(there);
    emu::set_devices({});
    EXPECT(fails_with(cudaErrorNoDevice, cudaGetDeviceCount(&count)) && count == 0);
}

TEST(a_launch_has_to_fit_the_device) {
    Host host;
    float* x = device_array<float>(32);
    emu::set_devices({emu::pretend_a100()});
    launch({1, 32, 163 * 1024}, add_one, x);
    expect_error("launch", "163 KiB", [&] { launch({1, 32, 164 * 1024}, add_one, x); });
    expect_error("launch", "cluster", [&] { launch({2, 32, 0, nullptr, 2}, add_one, x); });
    cudaFree(x);
}

TEST(a_graph_is_what_the_stream_wrote_down) {
    Host host;
    float* x = device_array<float>(32);
    cudaMemsetAsync(x, 0, 128, host.stream);
    EXPECT(cudaStreamBeginCapture(host.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    EXPECT(fails_with(cudaErrorIllegalState, cudaStreamBeginCapture(host.stream, cudaStreamCaptureModeGlobal)));
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    EXPECT(cudaStreamIsCapturing(host.stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive);
    launch({1, 32, 0, host.stream}, add_one, x);
    launch({1, 32, 0, host.stream}, add_one, x);
    EXPECT(x[31] == 0);  // written down, not done
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t runnable = nullptr;
    EXPECT(cudaStreamEndCapture(host.stream, &graph) == cudaSuccess && graph != nullptr);
    EXPECT(cudaGraphInstantiate(&runnable, graph) == cudaSuccess);
    EXPECT(cudaGraphDestroy(graph) == cudaSuccess);
    for (int replay = 1; replay <= 3; ++replay) {
        EXPECT(cudaGraphLaunch(runnable, host.stream) == cudaSuccess);
        EXPECT(x[0] == 2.0f * float(replay) && x[31] == 2.0f * float(replay));
    }
    launch({1, 32, 0, host.stream}, add_one, x);  // after the capture a launch is a launch again
    EXPECT(x[5] == 7);
    cudaGraphExecDestroy(runnable);
    cudaFree(x);
}

TEST(waiting_while_a_stream_captures_gives_the_capture_up) {
    Host host;
    cudaGraph_t graph = nullptr;
    EXPECT(fails_with(cudaErrorStreamCaptureUnsupported, cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal)));
    EXPECT(fails_with(cudaErrorIllegalState, cudaStreamEndCapture(host.stream, &graph)));
    EXPECT(cudaStreamBeginCapture(host.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    EXPECT(fails_with(cudaErrorStreamCaptureUnsupported, cudaStreamSynchronize(host.stream)));
    EXPECT(fails_with(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(host.stream, &graph)));
    EXPECT(graph == nullptr && cudaStreamSynchronize(host.stream) == cudaSuccess);
}

TEST(only_a_relaxed_capture_lets_its_thread_allocate) {
    Host host;
    float* x = device_array<float>(1);
    for (auto mode : {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed}) {
        const bool relaxed = mode == cudaStreamCaptureModeRelaxed;
        cudaGraph_t graph = nullptr;
        void* memory = nullptr;
        EXPECT(cudaStreamBeginCapture(host.stream, mode) == cudaSuccess);
        EXPECT(relaxed ? cudaMalloc(&memory, 4) == cudaSuccess && cudaFree(memory) == cudaSuccess
                       : fails_with(cudaErrorStreamCaptureUnsupported, cudaMalloc(&memory, 4)) &&
                             fails_with(cudaErrorStreamCaptureUnsupported, cudaFree(x)));
        EXPECT(cudaStreamEndCapture(host.stream, &graph) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
    }
    cudaFree(x);
}

TEST(an_injected_error_comes_at_its_call_and_stays_if_a_kernel_left_it) {
    Host host;
    float* x = device_array<float>(32);
    void* memory = nullptr;
    auto zero = [&] { return cudaMemsetAsync(x, 0, 4, host.stream); };
    emu::inject_error(cudaErrorInvalidValue, 2);
    EXPECT(zero() == cudaSuccess && zero() == cudaSuccess);
    x[0] = 1;
    EXPECT(fails_with(cudaErrorInvalidValue, zero()) && x[0] == 1 && zero() == cudaSuccess);
    emu::inject_error(cudaErrorIllegalAddress, 0);
    EXPECT(fails_with(cudaErrorIllegalAddress, zero()) && fails_with(cudaErrorIllegalAddress, cudaMalloc(&memory, 4)));
    try {
        launch({7, 32, 0, host.stream}, add_one, x);
        EXPECT(!"the launch had to fail");
    } catch (const DeviceError& error) {
        EXPECT(std::strstr(error.what(),
                           "kernel with grid (7, 1, 1), block (32, 1, 1), 0 bytes of shared memory on cuda:0: "
                           "cudaErrorIllegalAddress, an illegal memory access was encountered. A kernel"));
    }
    emu::inject_error(cudaSuccess, 0);
    EXPECT(zero() == cudaSuccess);
    cudaFree(x);
}

TEST(who_waits_for_whom_is_known) {
    Host host, other;
    cudaEvent_t event = nullptr;
    EXPECT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    EXPECT(cudaEventRecord(event, other.stream) == cudaSuccess);
    EXPECT(cudaStreamWaitEvent(host.stream, event) == cudaSuccess);
    EXPECT(emu::stream_waits().back() == std::pair(host.stream, other.stream));
    cudaEventDestroy(event);
}

TEST(events_measure_the_time_between_them) {
    Host host;
    cudaEvent_t begin = nullptr, end = nullptr;
    EXPECT(cudaEventCreateWithFlags(&begin, 0) == cudaSuccess && cudaEventCreateWithFlags(&end, 0) == cudaSuccess);
    float milliseconds = -1;
    EXPECT(cudaEventRecord(begin, host.stream) == cudaSuccess);
    EXPECT(fails_with(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&milliseconds, begin, end)));
    EXPECT(cudaEventRecord(end, host.stream) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess);
    EXPECT(cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess && milliseconds >= 0);
    EXPECT(cudaStreamWaitEvent(host.stream, end) == cudaSuccess);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
}

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    EXPECT(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found) ==
           cudaSuccess);
    EXPECT(found == cudaDriverEntryPointSuccess);
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

// A matrix of 64 x 128 bf16 in boxes of 8 x 64: each test breaks one rule.
struct Matrix {
    alignas(256) static inline uint16_t data[64 * 128];
    void* base = data;
    cuuint32_t rank = 2;
    cuuint64_t sizes[5] = {128, 64, 1, 1, 1}, strides[4] = {256, 256, 256, 256};
    cuuint32_t box[5] = {64, 8, 1, 1, 1}, steps[5] = {1, 1, 1, 1, 1};
    CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    CUtensorMap map{};

    CUresult encode() {
        return encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, base, sizes, strides, box, steps,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    }
    bool is_refused_for(const char* rule) {
        return encode() == CUDA_ERROR_INVALID_VALUE && std::strstr(emu::tensor_map_error(), rule) != nullptr;
    }
};

template <class Change>
Matrix changed(const Change& change) {
    Matrix matrix;
    change(matrix);
    return matrix;
}

TEST(tensor_maps_come_from_the_driver_and_are_checked_there) {
    EXPECT(Matrix{}.encode() == CUDA_SUCCESS);
    EXPECT(changed([](Matrix& m) { m.rank = 6; }).is_refused_for("rank"));
    EXPECT(changed([](Matrix& m) { m.base = m.data + 1; }).is_refused_for("base address"));
    EXPECT(changed([](Matrix& m) { m.strides[0] = 264; }).is_refused_for("multiple of 16 bytes"));
    EXPECT(changed([](Matrix& m) { m.strides[0] = 1ull << 40; }).is_refused_for("below 2^40"));
    EXPECT(changed([](Matrix& m) { m.sizes[1] = 0; }).is_refused_for("size"));
    EXPECT(changed([](Matrix& m) { m.box[1] = 257; }).is_refused_for("box"));
    EXPECT(changed([](Matrix& m) { m.box[0] = 4; }).is_refused_for("multiple of 16 bytes"));
    EXPECT(changed([](Matrix& m) { m.box[0] = 128; }).is_refused_for("exceed the swizzle"));
    EXPECT(changed([](Matrix& m) { m.steps[1] = 2; }).is_refused_for("element strides"));
}

TEST(the_driver_has_one_function_and_says_so) {
    void* function = &function;
    cudaDriverEntryPointQueryResult found{};
    cudaGetDriverEntryPointByVersion("cuMemAlloc", &function, 12000, cudaEnableDefault, &found);
    EXPECT(function == nullptr && found == cudaDriverEntryPointSymbolNotFound);
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 11000, cudaEnableDefault, &found);
    EXPECT(function == nullptr && found == cudaDriverEntryPointVersionNotSufficent);
}

}  // namespace
