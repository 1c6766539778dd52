// The structures of DLPack 1.1, by which array libraries hand each other memory (dmlc.github.io/dlpack): their layout
// is the protocol.
#pragma once

#include <cstdint>

namespace dlpack {

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct Device {
    int32_t type;
    int32_t index;
};

struct DataType {
    uint8_t code, bits;
    uint16_t lanes;
};

struct Array {
    void* data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t* shape;
    int64_t* strides;  // in elements; null: row-major without gaps
    uint64_t byte_offset;
};

// What a capsule named "dltensor" holds. The consumer renames it "used_dltensor" and calls the deleter when it is done.
struct Managed {
    static constexpr const char *kName = "dltensor", *kUsedName = "used_dltensor";
    Array array;
    void* context;
    void (*deleter)(Managed*);
};

struct Version {
    uint32_t major, minor;
};

// The same since version 1, in capsules named "dltensor_versioned".
struct ManagedVersioned {
    static constexpr const char *kName = "dltensor_versioned", *kUsedName = "used_dltensor_versioned";
    static constexpr uint64_t kReadOnly = 1, kIsCopied = 2;  // flags
    Version version;
    void* context;
    void (*deleter)(ManagedVersioned*);
    uint64_t flags;
    Array array;
};

}  // namespace dlpack
