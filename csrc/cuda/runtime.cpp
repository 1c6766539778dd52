// Devices, their streams and their memory, as core/cuda_device.h asks for them.
#include "cuda/runtime.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "core/check.h"
#include "core/cuda_device.h"
#include "core/determinism.h"
#include "cuda/api.h"
#include "cuda/index_check.h"
#include "cuda/random_shift.h"
#include "cuda/staging.h"

namespace llmcore::cuda {
namespace {

constexpr int kLowestArch = 80;

// Asked once: a process does not gain a GPU.
struct Machine {
    int devices = 0;
    std::string why_none;

    Machine() {
        cudaError_t status = cudaGetDeviceCount(&devices);
        if (status == cudaSuccess && devices > 0) return;
        (void)cudaGetLastError();
        devices = 0;
        why_none = "no CUDA device was found";
        if (status != cudaSuccess) why_none = concat(why_none, " (", cudaGetErrorString(status), ")");
    }
};

const Machine& machine() {
    static const Machine* found = new Machine;
    return *found;
}

cudaDeviceProp properties_of(int device) {
    cudaDeviceProp properties;
    LLMCORE_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    return properties;
}

// LLMCORE_ARCH=80 runs the portable kernels on a newer device, for tests and comparisons.
int arch_of(const cudaDeviceProp& properties) {
    const int arch = properties.major * 10 + properties.minor;
    LLMCORE_CHECK(arch >= kLowestArch, "device ", properties.name, " has compute capability ", properties.major, ".",
                  properties.minor, "; llmcore needs 8.0 or newer");
    const char* wish = std::getenv("LLMCORE_ARCH");
    if (wish == nullptr || *wish == '\0') return arch;
    LLMCORE_CHECK(std::strcmp(wish, "80") == 0 || std::strcmp(wish, "90") == 0, "LLMCORE_ARCH must be 80 or 90, got ",
                  wish);
    const int wanted = std::atoi(wish);
    LLMCORE_CHECK(wanted <= arch, "LLMCORE_ARCH=", wish, ": device ", properties.name, " reaches only ", arch);
    return wanted;
}

// The kernels of matmul_sm90.cu have not run on hardware yet: until then they are for those who ask.
bool wants_matmul_sm90(const cudaDeviceProp& properties, int arch) {
    const char* wish = std::getenv("LLMCORE_MATMUL");
    if (wish == nullptr || *wish == '\0' || std::strcmp(wish, "sm80") == 0) return false;
    LLMCORE_CHECK(std::strcmp(wish, "sm90") == 0, "LLMCORE_MATMUL must be sm80 or sm90, got ", wish);
    LLMCORE_CHECK(arch == 90, "LLMCORE_MATMUL=sm90 needs compute capability 9.0: device ", properties.name,
                  " is used as ", arch / 10, ".", arch % 10);
    return true;
}

// What lives as long as the process: tensors may be freed while the interpreter shuts down.
struct OpenDevice {
    Cuda backend;
    uint64_t* random_shift;  // the backend's, to write
};

OpenDevice open_device(int device) {
    cudaDeviceProp properties = properties_of(device);
    Cuda backend{};
    backend.arch = arch_of(properties);
    backend.multiprocessors = properties.multiProcessorCount;
    backend.shared_bytes = static_cast<int>(properties.sharedMemPerBlockOptin);
    backend.matmul_sm90 = wants_matmul_sm90(properties, backend.arch);
    LLMCORE_CUDA_CHECK(cudaStreamCreateWithFlags(&backend.stream, cudaStreamNonBlocking));
    backend.index_fault = new_index_fault();
    void* random_shift = nullptr;
    LLMCORE_CUDA_CHECK(cudaMalloc(&random_shift, sizeof(uint64_t)));
    LLMCORE_CUDA_CHECK(cudaMemsetAsync(random_shift, 0, sizeof(uint64_t), backend.stream));
    OpenDevice opened{backend, static_cast<uint64_t*>(random_shift)};
    opened.backend.random_shift = opened.random_shift;
    return opened;
}

struct OpenDevices {
    std::mutex mutex;
    std::vector<std::unique_ptr<OpenDevice>> slots{static_cast<size_t>(device_count())};

    static OpenDevices& instance() {
        static auto* all = new OpenDevices;
        return *all;
    }
};

// The device, made current for the calling thread.
const OpenDevice& opened(int device) {
    LLMCORE_CUDA_CHECK(cudaSetDevice(device));
    OpenDevices& all = OpenDevices::instance();
    std::lock_guard guard(all.mutex);
    std::unique_ptr<OpenDevice>& slot = all.slots.at(static_cast<size_t>(device));
    if (slot == nullptr) slot = std::make_unique<OpenDevice>(open_device(device));
    return *slot;
}

void wait_for(cudaStream_t stream) {
    LLMCORE_CUDA_CHECK(cudaStreamSynchronize(stream));
}

}  // namespace

int device_count() {
    return machine().devices;
}

std::string why_no_device() {
    return machine().why_none;
}

Cuda open(int device) {
    Cuda backend = opened(device).backend;
    backend.deterministic = are_deterministic_algorithms_enabled();
    if (cudaStream_t recording = recording_stream(device)) backend.stream = recording;
    return backend;
}

cudaStream_t opened_stream(int device) {
    OpenDevices& all = OpenDevices::instance();
    std::lock_guard guard(all.mutex);
    const std::unique_ptr<OpenDevice>& slot = all.slots.at(static_cast<size_t>(device));
    return slot != nullptr ? slot->backend.stream : nullptr;
}

DeviceFacts describe(int device) {
    open(device);
    cudaDeviceProp properties = properties_of(device);
    DeviceFacts facts;
    facts.name = properties.name;
    facts.major = properties.major;
    facts.minor = properties.minor;
    facts.multiprocessors = properties.multiProcessorCount;
    LLMCORE_CUDA_CHECK(cudaMemGetInfo(&facts.free_bytes, &facts.total_bytes));
    return facts;
}

void* allocate(size_t bytes, int device) {
    open(device);
    void* memory = nullptr;
    cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return nullptr;
    }
    check_cuda(status, "cudaMalloc");
    return memory;
}

// Called by destructors, so it reports nothing: what a kernel left behind, the next call that can throw will.
void release(void* memory, int device) {
    int before = 0;
    (void)cudaGetDevice(&before);
    (void)cudaSetDevice(device);
    (void)cudaFree(memory);
    (void)cudaSetDevice(before);
}

void zero(void* memory, size_t bytes, int device) {
    LLMCORE_CUDA_CHECK(cudaMemsetAsync(memory, 0, bytes, open(device).stream));
}

void copy_to_device(void* to, const void* from, size_t bytes, int device) {
    refuse_in_capture(device, "a copy from the CPU");
    cudaStream_t stream = open(device).stream;
    if (bytes == 0 || copy_through_staging(to, from, bytes, stream, device)) return;
    LLMCORE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
    wait_for(stream);
}

void copy_to_host(void* to, const void* from, size_t bytes, int device) {
    refuse_in_capture(device, "a copy to the CPU");
    LLMCORE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, open(device).stream));
    synchronize(device);
}

void copy_between(void* to, int to_device, const void* from, int from_device, size_t bytes) {
    if (to_device == from_device) {
        cudaStream_t stream = open(to_device).stream;
        LLMCORE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
        return;
    }
    for (int device : {from_device, to_device}) refuse_in_capture(device, "a copy between devices");
    wait_for(open(from_device).stream);
    cudaStream_t stream = open(to_device).stream;
    LLMCORE_CUDA_CHECK(cudaMemcpyPeerAsync(to, to_device, from, from_device, bytes, stream));
    wait_for(stream);
}

void set_random_shift(uint64_t shift, int device) {
    refuse_in_capture(device, "set_random_shift()");
    const OpenDevice& target = opened(device);
    write_random_shift(target.backend, target.random_shift, shift);
}

void synchronize(int device) {
    refuse_in_capture(device, "synchronize()");
    const Cuda backend = open(device);
    wait_for(backend.stream);
    throw_index_fault(backend.index_fault);
}

}  // namespace llmcore::cuda
