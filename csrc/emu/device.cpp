// Devices and errors of the host runtime.
#include <cstdlib>
#include <cstring>

#include "emu/error.h"
#include "emu/host.h"
#include "emu/host_state.h"

namespace llmcore::emu {
namespace {

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};

#define LLMCORE_ERROR_TEXT(error, text) {error, #error, text}
constexpr ErrorText kErrorTexts[] = {
    LLMCORE_ERROR_TEXT(cudaSuccess, "no error"),
    LLMCORE_ERROR_TEXT(cudaErrorInvalidValue, "invalid argument"),
    LLMCORE_ERROR_TEXT(cudaErrorMemoryAllocation, "out of memory"),
    LLMCORE_ERROR_TEXT(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    LLMCORE_ERROR_TEXT(cudaErrorInvalidDevice, "invalid device ordinal"),
    LLMCORE_ERROR_TEXT(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    LLMCORE_ERROR_TEXT(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    LLMCORE_ERROR_TEXT(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    LLMCORE_ERROR_TEXT(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    LLMCORE_ERROR_TEXT(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    LLMCORE_ERROR_TEXT(cudaErrorAssert, "device-side assert triggered"),
    LLMCORE_ERROR_TEXT(cudaErrorHardwareStackError, "hardware stack error"),
    LLMCORE_ERROR_TEXT(cudaErrorIllegalInstruction, "an illegal instruction was encountered"),
    LLMCORE_ERROR_TEXT(cudaErrorMisalignedAddress, "misaligned address"),
    LLMCORE_ERROR_TEXT(cudaErrorInvalidAddressSpace, "operation not supported on global/shared address space"),
    LLMCORE_ERROR_TEXT(cudaErrorInvalidPc, "invalid program counter"),
    LLMCORE_ERROR_TEXT(cudaErrorLaunchFailure, "unspecified launch failure"),
    LLMCORE_ERROR_TEXT(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    LLMCORE_ERROR_TEXT(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
};
#undef LLMCORE_ERROR_TEXT

struct Injected {
    cudaError_t error = cudaSuccess;
    int calls_before = 0;
};
Injected injected;

// "h100" or, with another amount of memory in MiB, "h100:64".
cudaDeviceProp parse_device(const std::string& text) {
    const std::string name = text.substr(0, text.find(':'));
    if (name != "h100" && name != "a100")
        throw Error("device", "LLMCORE_EMULATED_DEVICES holds h100 and a100, or is none; got " + text);
    cudaDeviceProp properties = name == "h100" ? pretend_h100() : pretend_a100();
    if (name.size() < text.size())
        properties.totalGlobalMem = std::strtoull(text.c_str() + name.size() + 1, nullptr, 10) << 20;
    return properties;
}

std::vector<cudaDeviceProp> devices_of_the_environment() {
    const char* names = std::getenv("LLMCORE_EMULATED_DEVICES");
    if (names == nullptr || *names == '\0') return {pretend_h100()};
    std::vector<cudaDeviceProp> found;
    std::string rest = names;
    if (rest == "none") return found;
    while (!rest.empty()) {
        const std::string text = rest.substr(0, rest.find(','));
        rest.erase(0, text.size() + 1);
        found.push_back(parse_device(text));
    }
    return found;
}

std::vector<cudaDeviceProp>& device_list() {
    static std::vector<cudaDeviceProp> list = devices_of_the_environment();
    return list;
}

}  // namespace

cudaDeviceProp pretend_h100() {
    cudaDeviceProp p{};
    std::strcpy(p.name, "Emulated H100");
    p.totalGlobalMem = size_t{80} << 30;
    p.sharedMemPerMultiprocessor = 228 * 1024;
    p.sharedMemPerBlockOptin = 227 * 1024;
    p.major = 9;
    p.multiProcessorCount = 132;
    p.maxThreadsPerMultiProcessor = 2048;
    p.maxBlocksPerMultiProcessor = 32;
    p.regsPerMultiprocessor = 65536;
    p.l2CacheSize = 50 << 20;
    return p;
}

cudaDeviceProp pretend_a100() {
    cudaDeviceProp p = pretend_h100();
    std::strcpy(p.name, "Emulated A100");
    p.sharedMemPerMultiprocessor = 164 * 1024;
    p.sharedMemPerBlockOptin = 163 * 1024;
    p.major = 8;
    p.multiProcessorCount = 108;
    p.l2CacheSize = 40 << 20;
    return p;
}

void set_devices(std::vector<cudaDeviceProp> devices) {
    std::lock_guard lock(machine_lock());
    device_list() = std::move(devices);
}

const std::vector<cudaDeviceProp>& devices() {
    return device_list();
}

void check_launch(size_t shared_bytes, unsigned cluster) {
    const cudaDeviceProp& device = devices().at(static_cast<size_t>(device_of_thread()));
    if (shared_bytes > device.sharedMemPerBlockOptin)
        throw Error("launch", std::to_string(shared_bytes) + " bytes of shared memory; a block of the " + device.name +
                                  " has at most " + std::to_string(device.sharedMemPerBlockOptin / 1024) + " KiB");
    if (cluster > 1 && device.major < 9) throw Error("launch", std::string("the ") + device.name + " has no clusters");
}

std::recursive_mutex& machine_lock() {
    static auto* lock = new std::recursive_mutex;
    return *lock;
}

cudaError_t report(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

int device_of_thread() {
    return current_device;
}

void inject_error(cudaError_t error, int calls_before) {
    std::lock_guard lock(machine_lock());
    injected = {error, calls_before};
}

cudaError_t injected_error() {
    std::lock_guard lock(machine_lock());
    if (injected.error == cudaSuccess || injected.calls_before-- > 0) return cudaSuccess;
    const cudaError_t error = injected.error;
    injected.calls_before = 0;
    if (error < cudaErrorIllegalAddress || error > cudaErrorLaunchFailure) injected.error = cudaSuccess;
    return report(error);
}

}  // namespace llmcore::emu

using namespace llmcore::emu;

const char* cudaGetErrorName(cudaError_t error) {
    for (const ErrorText& each : kErrorTexts)
        if (each.error == error) return each.name;
    return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
    for (const ErrorText& each : kErrorTexts)
        if (each.error == error) return each.text;
    return "unrecognized error code";
}

cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError() {
    return last_error;
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = static_cast<int>(devices().size());
    return report(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
    *device = device_of_thread();
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= static_cast<int>(devices().size())) return report(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device < 0 || device >= static_cast<int>(devices().size())) return report(cudaErrorInvalidDevice);
    *properties = devices()[static_cast<size_t>(device)];
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    return cudaSuccess;
}
