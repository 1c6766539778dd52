// Global memory. Every block is an allocation of its own, so that AddressSanitizer sees each end, and fresh memory is
// NaN. A copy or a memset has to lie inside one block.
#include <cstdlib>
#include <cstring>
#include <map>

#include "emu/host.h"
#include "emu/host_state.h"

namespace llmcore::emu {
namespace {

constexpr size_t kAlignment = 256;  // cudaMalloc's

struct DeviceBlock {
    size_t bytes;
    int device;
    uint64_t number;  // of the allocation, to find it again in a run
};

struct DeviceMemory {
    std::map<const char*, DeviceBlock> blocks;
    std::map<int, MemoryAccount> accounts;
    uint64_t allocations = 0;
};

DeviceMemory& memory() {
    static auto* instance = new DeviceMemory;
    return *instance;
}

// The block that holds all of [pointer, pointer + bytes), or null.
const DeviceBlock* find_block(const void* pointer, size_t bytes) {
    const char* p = static_cast<const char*>(pointer);
    auto after = memory().blocks.upper_bound(p);
    if (after == memory().blocks.begin()) return nullptr;
    auto& [begin, block] = *std::prev(after);
    return p + bytes <= begin + block.bytes ? &block : nullptr;
}

bool is_device(const void* pointer, size_t bytes) {
    return find_block(pointer, bytes) != nullptr;
}

}  // namespace

MemoryAccount memory_account(int device) {
    std::lock_guard lock(machine_lock());
    return memory().accounts[device];
}

std::string leak_report() {
    std::lock_guard lock(machine_lock());
    std::string text;
    for (auto& [begin, block] : memory().blocks)
        text += std::to_string(block.bytes) + " bytes on device " + std::to_string(block.device) + ", allocation " +
                std::to_string(block.number) + "\n";
    return text;
}

}  // namespace llmcore::emu

using namespace llmcore::emu;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    std::lock_guard lock(machine_lock());
    *pointer = nullptr;
    if (!may_allocate()) return report(cudaErrorStreamCaptureUnsupported);
    if (cudaError_t error = injected_error()) return error;
    if (bytes == 0) return cudaSuccess;
    const int device = device_of_thread();
    MemoryAccount& account = memory().accounts[device];
    if (account.bytes + bytes > devices().at(static_cast<size_t>(device)).totalGlobalMem)
        return report(cudaErrorMemoryAllocation);
    if (posix_memalign(pointer, kAlignment, bytes) != 0) return report(cudaErrorMemoryAllocation);
    std::memset(*pointer, 0xff, bytes);
    memory().blocks[static_cast<char*>(*pointer)] = {bytes, device, ++memory().allocations};
    account.bytes += bytes;
    account.blocks += 1;
    if (account.bytes > account.peak_bytes) account.peak_bytes = account.bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
    std::lock_guard lock(machine_lock());
    if (pointer == nullptr) return cudaSuccess;
    if (!may_allocate()) return report(cudaErrorStreamCaptureUnsupported);
    auto found = memory().blocks.find(static_cast<char*>(pointer));
    if (found == memory().blocks.end()) return report(cudaErrorInvalidValue);
    MemoryAccount& account = memory().accounts[found->second.device];
    account.bytes -= found->second.bytes;
    account.blocks -= 1;
    memory().blocks.erase(found);
    std::free(pointer);
    return cudaSuccess;
}

// Kernels reach all memory of the host here. What is pinned is not an allocation of a device.
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
    if (cudaError_t error = injected_error()) return error;
    return posix_memalign(pointer, kAlignment, bytes) == 0 ? cudaSuccess : report(cudaErrorMemoryAllocation);
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
    std::lock_guard lock(machine_lock());
    *total_bytes = devices().at(static_cast<size_t>(device_of_thread())).totalGlobalMem;
    *free_bytes = *total_bytes - memory().accounts[device_of_thread()].bytes;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (cudaError_t error = injected_error()) return error;
    if (bytes == 0) return cudaSuccess;
    {
        std::lock_guard lock(machine_lock());
        const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
        const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
        if (kind != cudaMemcpyDefault && (is_device(to, bytes) != to_device || is_device(from, bytes) != from_device))
            return report(cudaErrorInvalidValue);
    }
    submit(stream, [=] { std::memmove(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes,
                                cudaStream_t stream) {
    {
        std::lock_guard lock(machine_lock());
        const DeviceBlock *target = find_block(to, bytes), *source = find_block(from, bytes);
        if (bytes > 0 && (!target || !source || target->device != to_device || source->device != from_device))
            return report(cudaErrorInvalidValue);
    }
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemsetAsync(void* pointer, int byte, size_t bytes, cudaStream_t stream) {
    if (cudaError_t error = injected_error()) return error;
    if (bytes == 0) return cudaSuccess;
    {
        std::lock_guard lock(machine_lock());
        if (!is_device(pointer, bytes)) return report(cudaErrorInvalidValue);
    }
    submit(stream, [=] { std::memset(pointer, byte, bytes); });
    return cudaSuccess;
}
