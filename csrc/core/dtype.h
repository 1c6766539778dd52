// Element types of a Tensor.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/bf16.h"

namespace llmcore {

enum class DType { kFloat32, kBFloat16, kInt32 };

constexpr size_t size_of(DType dtype) {
    return dtype == DType::kBFloat16 ? 2 : 4;
}

constexpr const char* name_of(DType dtype) {
    return dtype == DType::kFloat32 ? "float32" : dtype == DType::kBFloat16 ? "bfloat16" : "int32";
}

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
    return DType::kFloat32;
}
template <>
constexpr DType dtype_of<bf16>() {
    return DType::kBFloat16;
}
template <>
constexpr DType dtype_of<int32_t>() {
    return DType::kInt32;
}

}  // namespace llmcore
