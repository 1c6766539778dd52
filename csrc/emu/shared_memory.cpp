#include "emu/shared_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <sstream>

#include "emu/machine.h"

namespace llmcore::emu {

SharedMemory::~SharedMemory() {
    for (const Array& array : arrays_) std::free(array.memory);
}

char* SharedMemory::add(uint32_t bytes, uint32_t alignment, const void* key) {
    next_ = (next_ + alignment - 1) / alignment * alignment;
    void* memory = nullptr;
    if (bytes && posix_memalign(&memory, alignment, bytes)) throw std::bad_alloc();
    if (bytes) std::memset(memory, 0xff, bytes);  // NaN as bf16 and as float
    arrays_.push_back({next_, bytes, static_cast<char*>(memory), key});
    next_ += bytes;
    return arrays_.back().memory;
}

void SharedMemory::allocate_dynamic(uint32_t bytes) {
    add(bytes, 1024, nullptr);
    next_ = (next_ + 1023) / 1024 * 1024;
}

unsigned char* SharedMemory::dynamic() const {
    return reinterpret_cast<unsigned char*>(arrays_.front().memory);
}

void* SharedMemory::fixed(const void* key, size_t bytes, size_t alignment, Location where) {
    for (const Array& array : arrays_)
        if (array.key == key) return array.memory;
    if (next_ - kFirstAddress + bytes > kMaxSharedBytes)
        fail("shared-bounds", "static and dynamic shared memory together exceed 227 KiB", where);
    return add(static_cast<uint32_t>(bytes), static_cast<uint32_t>(std::max<size_t>(alignment, 16)), key);
}

uint32_t SharedMemory::find(const void* pointer) const {
    const char* p = static_cast<const char*>(pointer);
    for (const Array& array : arrays_)
        if (p >= array.memory && p < array.memory + array.bytes)
            return array.address + static_cast<uint32_t>(p - array.memory);
    return 0;
}

char* SharedMemory::at(uint32_t address, size_t bytes, Location where) const {
    address &= kOffsetMask;
    for (const Array& array : arrays_)
        if (address >= array.address && address + bytes <= array.address + array.bytes)
            return array.memory + (address - array.address);
    std::ostringstream text;
    text << bytes << "-byte access at shared address 0x" << std::hex << address << " is outside every allocation";
    fail("shared-bounds", text.str(), where);
}

Block& block_of(uint32_t address, Block& mine) {
    return address & kClusterBit ? *mine.cluster->blocks.at(address >> 24 & 0x7f) : mine;
}

unsigned char* dynamic_shared() {
    return self().block->shared.dynamic();
}

void* fixed_shared(const void* key, size_t bytes, size_t alignment, Location where) {
    return self().block->shared.fixed(key, bytes, alignment, where);
}

uint32_t shared_address(const void* pointer, Location where) {
    uint32_t address = self().block->shared.find(pointer);
    if (!address) fail("shared-bounds", "the pointer is not into this block's shared memory", where);
    return address;
}

uint32_t map_to_rank(uint32_t address, uint32_t rank, Location where) {
    size_t ranks = self().block->cluster->blocks.size();
    if (rank >= ranks)
        fail("cluster", "mapa: rank " + std::to_string(rank) + " in a cluster of " + std::to_string(ranks), where);
    return kClusterBit | rank << 24 | (address & kOffsetMask);
}

}  // namespace llmcore::emu
