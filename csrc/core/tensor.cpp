#include "core/tensor.h"

#include "core/allocator.h"

namespace llmcore {

int64_t numel_of(const Shape& shape) {
    int64_t n = 1;
    for (int64_t size : shape) {
        LLMCORE_CHECK(size >= 0, "a tensor cannot have the shape ", to_string(shape), ": sizes are zero or more");
        LLMCORE_CHECK(!__builtin_mul_overflow(n, size, &n) && n < (int64_t{1} << 56), "a tensor of shape ",
                      to_string(shape), " has more elements than can be addressed");
    }
    return n;
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

Tensor Tensor::view(Shape shape) const {
    Shape wanted = shape;
    int64_t unknown = -1, known = 1;
    for (size_t i = 0; i < shape.size(); ++i) {
        if (shape[i] == -1 && unknown < 0)
            unknown = static_cast<int64_t>(i);
        else
            known *= shape[i];
    }
    if (unknown >= 0 && known > 0) shape[unknown] = numel_ / known;
    LLMCORE_CHECK(numel_of(shape) == numel_, "view: ", to_string(shape_), " cannot be seen as ", to_string(wanted));
    Tensor result = *this;
    result.shape_ = std::move(shape);
    return result;
}

Tensor Tensor::narrow(int64_t start, int64_t length) const {
    LLMCORE_CHECK(dim() >= 1 && start >= 0 && length >= 0 && start + length <= shape_[0], "narrow: rows [", start, ", ",
                  start + length, ") are not inside ", to_string(shape_));
    Tensor result = *this;
    int64_t row = shape_[0] == 0 ? 0 : numel_ / shape_[0];
    result.shape_[0] = length;
    result.numel_ = length * row;
    result.offset_ += static_cast<size_t>(start * row) * size_of(dtype_);
    return result;
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
