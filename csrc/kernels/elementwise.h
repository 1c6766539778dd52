// Operations on each element by itself. All arrays have n elements; bf16 is computed in float and rounded once. y may
// be one of the inputs of its own type.
#pragma once

#include <cstdint>

namespace llmcore {

// y = a + b
template <class Backend, class T>
void add(Backend, T* y, const T* a, const T* b, int64_t n);

// y = a - b
template <class Backend, class T>
void sub(Backend, T* y, const T* a, const T* b, int64_t n);

// y = a * b
template <class Backend, class T>
void mul(Backend, T* y, const T* a, const T* b, int64_t n);

// y = x * factor + offset
template <class Backend, class T>
void scale(Backend, T* y, const T* x, float factor, float offset, int64_t n);

// y += x
template <class Backend, class T>
void add_into(Backend, float* y, const T* x, int64_t n);

// y = x in another type. The same type copies, bit by bit; int32 from a float truncates towards zero, takes the nearest
// int32 for what lies outside, and 0 for NaN.
template <class Backend, class To, class From>
void cast(Backend, To* y, const From* x, int64_t n);

// y = value
template <class Backend, class T>
void fill(Backend, T* y, double value, int64_t n);

}  // namespace llmcore
