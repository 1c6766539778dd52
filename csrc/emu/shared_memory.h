// One block's shared memory. Every array is an allocation of its own, so that AddressSanitizer sees each end, and is
// known by a 32-bit shared address as well; fresh memory is NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "emu/error.h"

namespace llmcore::emu {

struct Block;

constexpr uint32_t kMaxSharedBytes = 227 * 1024;  // what sm_90 lets a block have

class SharedMemory {
  public:
    SharedMemory() = default;
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;
    ~SharedMemory();

    void allocate_dynamic(uint32_t bytes);
    unsigned char* dynamic() const;
    // The array declared at `key`; the block's first thread to come allocates it.
    void* fixed(const void* key, size_t bytes, size_t alignment, Location where);

    // From a pointer to a shared address and back; `find` gives 0 for a pointer to elsewhere.
    uint32_t find(const void* pointer) const;
    char* at(uint32_t address, size_t bytes, Location where) const;

    uint32_t end() const { return next_; }

  private:
    struct Array {
        uint32_t address, bytes;
        char* memory;
        const void* key;
    };
    char* add(uint32_t bytes, uint32_t alignment, const void* key);

    std::vector<Array> arrays_;
    uint32_t next_ = kFirstAddress;
    static constexpr uint32_t kFirstAddress = 1024;  // 0 means "not shared", and 1024 is aligned for every swizzle
};

// Addresses of another block of the cluster, as mapa gives them, carry its rank in the upper bits.
constexpr uint32_t kClusterBit = 0x80000000u, kOffsetMask = 0x00ffffffu;
Block& block_of(uint32_t address, Block& mine);

// What kernels call, for the running thread.
unsigned char* dynamic_shared();
void* fixed_shared(const void* key, size_t bytes, size_t alignment, Location where);
uint32_t shared_address(const void* pointer, Location where);
uint32_t map_to_rank(uint32_t address, uint32_t rank, Location where);  // mapa

}  // namespace llmcore::emu
