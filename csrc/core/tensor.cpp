#include "core/tensor.h"

#include <algorithm>
#include <cstring>

#include "core/allocator.h"
#include "core/cuda_device.h"

namespace llmcore {

// The limit holds for the product without the zeros, too: whichever sizes of a shape an op multiplies, they fit.
int64_t numel_of(const Shape& shape) {
    int64_t product = 1;
    bool empty = false;
    for (int64_t size : shape) {
        LLMCORE_CHECK(size >= 0, "a tensor cannot have the shape ", to_string(shape), ": sizes are zero or more");
        empty = empty || size == 0;
        LLMCORE_CHECK(!__builtin_mul_overflow(product, size == 0 ? 1 : size, &product) && product < (int64_t{1} << 56),
                      "a tensor of shape ", to_string(shape), " has more elements than can be addressed");
    }
    return empty ? 0 : product;
}

std::string to_string(const Shape& shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + ")";
}

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
    Tensor tensor;
    tensor.numel_ = numel_of(shape);
    tensor.shape_ = std::move(shape);
    tensor.dtype_ = dtype;
    tensor.device_ = device;
    tensor.storage_ = allocate(tensor.nbytes(), device);
    return tensor;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
    Tensor tensor = empty(std::move(shape), dtype, device);
    if (device.type == DeviceType::kCpu) {
        std::memset(tensor.raw(), 0, tensor.nbytes());
    } else if constexpr (kWithCuda) {
        cuda::zero(tensor.raw(), tensor.nbytes(), device.index);
    }
    return tensor;
}

Tensor Tensor::in_storage(std::shared_ptr<void> storage, Shape shape, DType dtype, Device device) {
    Tensor tensor;
    tensor.numel_ = numel_of(shape);
    tensor.shape_ = std::move(shape);
    tensor.dtype_ = dtype;
    tensor.device_ = device;
    tensor.storage_ = std::move(storage);
    return tensor;
}

Tensor Tensor::to(Device device) const {
    if (device == device_) return *this;
    Tensor result = empty(shape_, dtype_, device);
    copy_elements(result, *this);
    return result;
}

void Tensor::check_access(DType dtype) const {
    LLMCORE_CHECK(dtype_ == dtype, "a tensor of ", name_of(dtype_), " was read as ", name_of(dtype));
    check_reachable(device_);
}

Tensor Tensor::view(Shape shape) const {
    Shape wanted = shape;
    if (auto unknown = std::find(shape.begin(), shape.end(), -1); unknown != shape.end()) {
        *unknown = 1;
        int64_t known = numel_of(shape);
        LLMCORE_CHECK(known > 0, "view: the -1 in ", to_string(wanted), " could be any size");
        *unknown = numel_ / known;
    }
    LLMCORE_CHECK(numel_of(shape) == numel_, "view: ", to_string(shape_), " cannot be seen as ", to_string(wanted));
    Tensor result = *this;
    result.shape_ = std::move(shape);
    return result;
}

Tensor Tensor::narrow(int64_t start, int64_t length) const {
    LLMCORE_CHECK(dim() >= 1 && start >= 0 && length >= 0 && length <= shape_[0] - start, "narrow: rows from ", start,
                  " on, ", length, " of them, are not inside ", to_string(shape_));
    Tensor result = *this;
    int64_t row = shape_[0] == 0 ? 0 : numel_ / shape_[0];
    result.shape_[0] = length;
    result.numel_ = length * row;
    result.offset_ += static_cast<size_t>(start * row) * size_of(dtype_);
    return result;
}

void copy_elements(const Tensor& y, const Tensor& x) {
    LLMCORE_CHECK(y.shape() == x.shape() && y.dtype() == x.dtype(), "copy: a ", name_of(x.dtype()), " tensor of shape ",
                  to_string(x.shape()), " does not fit a ", name_of(y.dtype()), " one of ", to_string(y.shape()));
    const bool to_cpu = y.device().type == DeviceType::kCpu, from_cpu = x.device().type == DeviceType::kCpu;
    if (to_cpu && from_cpu) {
        std::memmove(y.raw(), x.raw(), y.nbytes());
    } else if constexpr (kWithCuda) {
        if (to_cpu)
            cuda::copy_to_host(y.raw(), x.raw(), y.nbytes(), x.device().index);
        else if (from_cpu)
            cuda::copy_to_device(y.raw(), x.raw(), y.nbytes(), y.device().index);
        else
            cuda::copy_between(y.raw(), y.device().index, x.raw(), x.device().index, y.nbytes());
    }
}

void check_shape(const char* op, const char* name, const Tensor& tensor, const Shape& shape) {
    LLMCORE_CHECK(tensor.shape() == shape, op, ": ", name, " must have shape ", to_string(shape), ", got ",
                  to_string(tensor.shape()));
}

void check_dtype(const char* op, const char* name, const Tensor& tensor, DType dtype) {
    LLMCORE_CHECK(tensor.dtype() == dtype, op, ": ", name, " must be ", name_of(dtype), ", got ",
                  name_of(tensor.dtype()));
}

void check_float(const char* op, const char* name, const Tensor& tensor) {
    LLMCORE_CHECK(tensor.dtype() != DType::kInt32, op, ": ", name, " must be float32 or bfloat16, got int32");
}

}  // namespace llmcore
