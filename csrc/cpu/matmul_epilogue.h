// The end of a matrix product on the CPU: from float sums to y, through the epilogue of kernels/matmul.h.
#pragma once

#include <cstdint>

#include "core/inline.h"
#include "cpu/matmul_source.h"
#include "cpu/simd_math.h"
#include "kernels/matmul.h"

namespace llmcore {
namespace {

// One matrix of the batch; `base` is the index of its first element of y.
template <class Out, class A, class B>
struct Product {
    Out* y;
    PanelSource<A> a;
    PanelSource<B> b;
    const MatmulProblem& p;
    const MatmulEpilogue<Out>& epilogue;
    int64_t base;
    float* partial;  // sums of y over the rows of each strip (strips, N), for epilogue.dbias
};

// One row of y from its sums: y = residual + activation(sums + bias), or y += that.
template <Activation kind, class Out>
LLMCORE_INLINE void finish_row(Out* y, const float* sums, const Out* bias, Out* pre, const Out* residual,
                               int64_t columns, bool accumulate) {
    for_each_vector(columns, [&](auto at) {
        Vec value = at.load(sums);
        if (bias != nullptr) value += at.load(bias);
        if (pre != nullptr) at.store(pre, value);
        value = activate<kind>(value);
        if (residual != nullptr) value += at.load(residual);
        if (accumulate) value += at.load(y);
        at.store(y, value);
    });
}

// A strip's rows of y from their sums, on the way back: y = sums * activation'(slope_at), and the sums over these rows
// of y if `partial` is not null.
template <Activation kind, class Out>
LLMCORE_INLINE void finish_strip_backward(Out* y, int64_t y_stride, const float* sums, int64_t stride,
                                          const Out* slope_at, float* partial, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; ++r)
        for_each_vector(columns, [&](auto at) {
            Vec value = at.load(sums + r * stride);
            if constexpr (kind != Activation::kNone) value *= activation_slope<kind>(at.load(slope_at + r * y_stride));
            at.store(y + r * y_stride, value);
            if (partial != nullptr) at.store(partial, r == 0 ? value : at.load(partial) + value);
        });
}

// `rows` x `columns` of y, starting at (row, column), from their sums. They are all of these columns that a strip has.
template <class Kernel, class Out, class A, class B>
void finish(const Product<Out, A, B>& product, const float* sums, int64_t stride, int64_t row, int64_t column,
            int64_t rows, int64_t columns) {
    const MatmulEpilogue<Out>& e = product.epilogue;
    int64_t y_stride = product.p.y_row(), first = product.base + row * y_stride + column;
    bool accumulate = product.p.accumulate;
    if (e.is_backward())
        return with_activation(e.activation, [&]<Activation kind>() {
            finish_strip_backward<kind>(
                product.y + first, y_stride, sums, stride, e.slope_at ? e.slope_at + first : nullptr,
                e.dbias ? product.partial + row / Kernel::kStrip * product.p.N + column : nullptr, rows, columns);
        });
    if (e.bias == nullptr && e.pre_activation == nullptr && e.residual == nullptr &&
        e.activation == Activation::kNone) {
        Out* y = product.y + first;
        for (int64_t r = 0; r < rows; ++r, y += y_stride, sums += stride)
            if (accumulate)
                for_each_vector(columns, [&](auto at) { at.store(y, at.load(sums) + at.load(y)); });
            else
                for_each_vector(columns, [&](auto at) { at.store(y, at.load(sums)); });
        return;
    }
    with_activation(e.activation, [&]<Activation kind>() {
        for (int64_t r = 0; r < rows; ++r) {
            int64_t offset = first + r * y_stride;
            finish_row<kind>(product.y + offset, sums + r * stride, e.bias ? e.bias + column : nullptr,
                             e.pre_activation ? e.pre_activation + offset : nullptr,
                             e.residual ? e.residual + offset : nullptr, columns, accumulate);
        }
    });
}

}  // namespace
}  // namespace llmcore
