// A contiguous, row-major array on a device. Copying a Tensor copies the handle; views share the storage.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/dtype.h"
#include "core/runtime.h"

namespace llmcore {

using Shape = std::vector<int64_t>;

int64_t numel_of(const Shape& shape);
std::string to_string(const Shape& shape);  // "(2, 3)"

class Tensor {
  public:
    Tensor() = default;  // no storage: stands for "not given" in optional arguments

    // Uninitialised. Throws std::invalid_argument for a negative size, OutOfMemory if it does not fit.
    static Tensor empty(Shape shape, DType dtype, Device device);
    static Tensor zeros(Shape shape, DType dtype, Device device);

    // Memory of another owner: row-major, at least one element. It lives as long as `storage` does.
    static Tensor in_storage(std::shared_ptr<void> storage, Shape shape, DType dtype, Device device);

    bool defined() const { return storage_ != nullptr; }
    const Shape& shape() const { return shape_; }
    int64_t dim() const { return static_cast<int64_t>(shape_.size()); }
    int64_t size(int64_t axis) const { return shape_[axis < 0 ? axis + dim() : axis]; }  // negative: from the end
    int64_t numel() const { return numel_; }
    size_t nbytes() const { return static_cast<size_t>(numel_) * size_of(dtype_); }
    DType dtype() const { return dtype_; }
    Device device() const { return device_; }
    const std::shared_ptr<void>& storage() const { return storage_; }

    Tensor view(Shape shape) const;                      // same elements, another shape; one size may be -1
    Tensor narrow(int64_t start, int64_t length) const;  // rows [start, start + length) of the first dimension

    // The same elements on that device: this tensor itself if it is there already, else a copy. Waits for both devices.
    Tensor to(Device device) const;

    void* raw() const { return static_cast<char*>(storage_.get()) + offset_; }

    // nullptr when the tensor is not defined, so an optional argument can be passed on as it is. Throws if the elements
    // are not T, or not on the device for which this thread runs: inside an op's dispatch all tensors are on one
    // device, and outside only the CPU's can be read.
    template <class T>
    T* data() const {
        if (!defined()) return nullptr;
        check_access(dtype_of<T>());
        return static_cast<T*>(raw());
    }

  private:
    void check_access(DType dtype) const;

    std::shared_ptr<void> storage_;
    size_t offset_ = 0;  // bytes
    Shape shape_;
    int64_t numel_ = 0;
    DType dtype_ = DType::kFloat32;
    Device device_;
};

// Scratch memory for a launcher, in floats.
inline Tensor float_workspace(size_t count, Device device) {
    return Tensor::empty({static_cast<int64_t>(count)}, DType::kFloat32, device);
}

// Copies the elements of x into y: same shape and dtype, any devices. Waits where the host takes part.
void copy_elements(const Tensor& y, const Tensor& x);

// Checks of arguments: `op: name must have shape (768), got (512)`.
void check_shape(const char* op, const char* name, const Tensor& tensor, const Shape& shape);
void check_dtype(const char* op, const char* name, const Tensor& tensor, DType dtype);
void check_float(const char* op, const char* name, const Tensor& tensor);  // float32 or bfloat16

}  // namespace llmcore
