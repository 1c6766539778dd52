// Operations on each element by itself. All arrays have n elements; bf16 is computed in float and rounded once.
#pragma once

#include <cstdint>

namespace llmcore {

// y = a + b. y may be a or b.
template <class Backend, class T>
void add(Backend, T* y, const T* a, const T* b, int64_t n);

// y = x in another type; int32 from a float truncates towards zero. The same type copies.
template <class Backend, class To, class From>
void cast(Backend, To* y, const From* x, int64_t n);

// y = value
template <class Backend, class T>
void fill(Backend, T* y, double value, int64_t n);

}  // namespace llmcore
