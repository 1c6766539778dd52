// Cross-entropy on CUDA: a block to a row of logits. Bound by memory: in 16-byte vectors where rows are aligned, and
// the logits are read once.
//
// A thread goes over its part of the row with the largest logit so far and the sum of the exponentials relative to it
// (Milakov and Gimelshein 2018, arXiv:1805.02867); then the block joins the threads' pairs in a fixed order. A gradient
// needs the row again: where it fits, each thread has kept its part in shared memory (the 50257 floats of a GPT-2 row
// do so on compute capability 9.0), elsewhere the second reading comes from the second-level cache, in which there is
// room for the few rows under way. Every class is treated as a wrong one, and the thread whose part holds the target
// corrects it, so that the loops compare nothing.
#include <algorithm>
#include <cstdint>

#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/fours.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "cuda/vec.cuh"
#include "cuda/warp.cuh"
#include "kernels/cross_entropy.h"

namespace llmcore {
namespace {

// What is asked of every row.
struct Rows {
    const int32_t* targets;
    int64_t V, row_step;
    int32_t ignore_index;
    float label_smoothing;
    int64_t dlogits_row_step = 0;  // where there are gradients

    LLMCORE_DEVICE bool counts(int32_t target) const { return target != ignore_index && target >= 0 && target < V; }
};

// ---------------------------------------------------------------------------------------------------------------------
// a row in groups: as many elements as are read at once

template <class T, bool kVectors>
constexpr int kPerGroup = kVectors ? kPerVector<T> : 1;

// body(column, count) for the groups of this thread, which are every kThreads-th; the last of the row may be short.
template <int kThreads, int kPer, class Body>
LLMCORE_DEVICE void for_groups(int64_t V, Body&& body) {
    for (int64_t column = int64_t(threadIdx.x) * kPer; column < V; column += kThreads * kPer)
        body(column, V - column < kPer ? int(V - column) : kPer);
}

template <int kThreads, int kPer>
LLMCORE_DEVICE bool is_mine(int32_t column) {
    return column / kPer % kThreads == int(threadIdx.x);
}

// Where a group is short, with logits that have no weight.
template <int kPer, class T>
LLMCORE_DEVICE void load_group(float (&values)[kPer], const T* from, int count) {
    if constexpr (kPer > 1)
        if (count == kPer) return load_vector(values, from);
#pragma unroll
    for (int i = 0; i < kPer; ++i) values[i] = i < count ? to_float(from[i]) : -INFINITY;
}

template <int kPer, class Out>
LLMCORE_DEVICE void store_group(Out* to, const float (&values)[kPer], int count) {
    if constexpr (kPer == kPerVector<Out>)
        if (count == kPer) return store_vector(to, values);
    if constexpr (kPer == 4) {
        store_four(to, values, count, count == 4);
    } else {
#pragma unroll
        for (int i = 0; i < kPer; ++i)
            if (i < count) to[i] = from_float<Out>(values[i]);
    }
}

// A group in shared memory, in the thread's own part of it.
template <int kPer>
LLMCORE_DEVICE void keep_group(float* to, const float (&values)[kPer]) {
    if constexpr (kPer == 4)
        *reinterpret_cast<Four<float>*>(to) = {{values[0], values[1], values[2], values[3]}};
    else
        *to = values[0];
}

template <int kPer>
LLMCORE_DEVICE void load_kept(float (&values)[kPer], const float* from) {
    if constexpr (kPer == 4) {
        const Four<float> four = *reinterpret_cast<const Four<float>*>(from);
#pragma unroll
        for (int i = 0; i < 4; ++i) values[i] = four.value[i];
    } else {
        values[0] = *from;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// softmax of a row, online

struct RowSums {
    float largest = -INFINITY;
    float exponentials = 0.0f;  // sum of exp(logit - largest)
    float logits = 0.0f;        // sum of the logits themselves, for the label smoothing

    LLMCORE_DEVICE float lse() const { return largest + logf(exponentials); }
};

// What makes sums relative to `from` relative to `to`, which is not smaller. Nothing but -inf so far has summed to 0.
LLMCORE_DEVICE float rescaled(float from, float to) {
    return from == -INFINITY ? 0.0f : expf(from - to);
}

template <int kPer>
LLMCORE_DEVICE void add_group(RowSums& sums, const float (&values)[kPer], int count) {
    float largest = sums.largest;
#pragma unroll
    for (int i = 0; i < kPer; ++i) largest = fmaxf(largest, values[i]);
    if (largest > sums.largest) sums.exponentials *= rescaled(sums.largest, largest);
    sums.largest = largest;
    const float base = largest == -INFINITY ? 0.0f : largest;  // -inf less -inf would be no number
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
        sums.exponentials += expf(values[i] - base);
        sums.logits += i < count ? values[i] : 0.0f;
    }
}

template <int kWarps>
struct WarpSums {
    float largest[kWarps], exponentials[kWarps], logits[kWarps];
};

// The sums of the block from those of its threads, in every thread and in all the same bits.
template <int kWarps>
LLMCORE_DEVICE RowSums over_block(const RowSums& mine, WarpSums<kWarps>& partial) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    RowSums sums;
    sums.largest = warp_max(mine.largest);
    sums.exponentials = warp_sum(mine.exponentials * rescaled(mine.largest, sums.largest));
    sums.logits = warp_sum(mine.logits);
    if (lane == 0) {
        partial.largest[warp] = sums.largest;
        partial.exponentials[warp] = sums.exponentials;
        partial.logits[warp] = sums.logits;
    }
    __syncthreads();
    const bool inside = lane < kWarps;  // now every warp does the same: a lane for each warp's sums
    const float largest = inside ? partial.largest[lane] : -INFINITY;
    sums.largest = warp_max(largest);
    sums.exponentials = warp_sum(inside ? partial.exponentials[lane] * rescaled(largest, sums.largest) : 0.0f);
    sums.logits = warp_sum(inside ? partial.logits[lane] : 0.0f);
    return sums;
}

LLMCORE_DEVICE float row_loss(const Rows& rows, const RowSums& sums, float at_target) {
    const float loss = sums.lse() - (1.0f - rows.label_smoothing) * at_target;
    return rows.label_smoothing == 0.0f ? loss : loss - rows.label_smoothing * (sums.logits / float(rows.V));
}

// ---------------------------------------------------------------------------------------------------------------------
// gradient of a row

// dlogits = exp(logit - shift) * factor - uniform, and `of_target` less at the target.
struct Gradient {
    float shift, factor, uniform, of_target;
    LLMCORE_DEVICE float at(float logit) const { return expf(logit - shift) * factor - uniform; }
};

// load(values, column, count) gives the logits. They may lie where dlogits does: a thread reads its part before it
// writes it.
template <int kThreads, int kPer, class Out, class Load>
LLMCORE_DEVICE void write_gradient(Out* dlogits, Load&& load, const Gradient& gradient, int64_t V, int32_t target,
                                   float at_target) {
    for_groups<kThreads, kPer>(V, [&](int64_t column, int count) {
        float values[kPer];
        load(values, column, count);
#pragma unroll
        for (int i = 0; i < kPer; ++i) values[i] = gradient.at(values[i]);
        store_group(dlogits + column, values, count);
    });
    if (is_mine<kThreads, kPer>(target)) dlogits[target] = from_float<Out>(gradient.at(at_target) - gradient.of_target);
}

template <int kThreads, int kPer, class Out>
LLMCORE_DEVICE void write_zeros(Out* dlogits, int64_t V) {
    const float zeros[kPer] = {};
    for_groups<kThreads, kPer>(V, [&](int64_t column, int count) { store_group(dlogits + column, zeros, count); });
}

// ---------------------------------------------------------------------------------------------------------------------
// kernels of a row

template <class T, int kWarps, bool kVectors>
__global__ void __launch_bounds__(kWarps * 32)
    cross_entropy_forward_kernel(float* losses, float* lse, const T* logits, Rows rows) {
    constexpr int kThreads = kWarps * 32, kPer = kPerGroup<T, kVectors>;
    LLMCORE_SHARED(WarpSums<kWarps>, partial);
    const int64_t n = blockIdx.x;
    const T* logits_n = logits + n * rows.row_step;
    const int32_t target = rows.targets[n];
    if (!rows.counts(target)) {
        if (threadIdx.x == 0) losses[n] = lse[n] = 0.0f;
        return;
    }
    RowSums mine;
    for_groups<kThreads, kPer>(rows.V, [&](int64_t column, int count) {
        float values[kPer];
        load_group(values, logits_n + column, count);
        add_group(mine, values, count);
    });
    const RowSums sums = over_block(mine, partial);
    if (threadIdx.x > 0) return;
    losses[n] = row_loss(rows, sums, to_float(logits_n[target]));
    lse[n] = sums.lse();
}

template <class Out, class T, int kWarps, bool kVectors>
__global__ void __launch_bounds__(kWarps * 32)
    cross_entropy_backward_kernel(Out* dlogits, const float* dloss, const float* scale, const T* logits,
                                  const float* lse, Rows rows) {
    constexpr int kThreads = kWarps * 32, kPer = kPerGroup<T, kVectors>;
    const int64_t n = blockIdx.x;
    Out* dlogits_n = dlogits + n * rows.dlogits_row_step;
    const T* logits_n = logits + n * rows.row_step;
    const int32_t target = rows.targets[n];
    if (!rows.counts(target)) return write_zeros<kThreads, kPer>(dlogits_n, rows.V);
    const float factor = dloss != nullptr ? *dloss * *scale : *scale;
    const Gradient gradient{lse[n], factor, factor * rows.label_smoothing / float(rows.V),
                            factor * (1.0f - rows.label_smoothing)};
    const float at_target = is_mine<kThreads, kPer>(target) ? to_float(logits_n[target]) : 0.0f;
    auto load = [&](float (&values)[kPer], int64_t column, int count) { load_group(values, logits_n + column, count); };
    write_gradient<kThreads, kPer>(dlogits_n, load, gradient, rows.V, target, at_target);
}

// keeps: whether the dynamic shared memory has room for a row, rounded up to whole groups.
template <class Out, int kWarps, bool kVectors>
__global__ void __launch_bounds__(kWarps * 32)
    cross_entropy_both_kernel(float* losses, float* lse, Out* dlogits, const float* logits, const float* scale,
                              Rows rows, bool keeps) {
    constexpr int kThreads = kWarps * 32, kPer = kPerGroup<float, kVectors>;
    LLMCORE_SHARED(WarpSums<kWarps>, partial);
    float* kept = shared_memory<float>();
    const int64_t n = blockIdx.x;
    Out* dlogits_n = dlogits + n * rows.dlogits_row_step;
    const float* logits_n = logits + n * rows.row_step;
    const int32_t target = rows.targets[n];
    if (!rows.counts(target)) {
        if (threadIdx.x == 0) losses[n] = lse[n] = 0.0f;
        return write_zeros<kThreads, kPer>(dlogits_n, rows.V);
    }
    const bool has_target = is_mine<kThreads, kPer>(target);
    const float at_target = has_target ? logits_n[target] : 0.0f;  // before its gradient takes its place
    RowSums mine;
    for_groups<kThreads, kPer>(rows.V, [&](int64_t column, int count) {
        float values[kPer];
        load_group(values, logits_n + column, count);
        if (keeps) keep_group(kept + column, values);
        add_group(mine, values, count);
    });
    const RowSums sums = over_block(mine, partial);
    const float factor = *scale;
    const Gradient gradient{sums.largest, factor / sums.exponentials, factor * rows.label_smoothing / float(rows.V),
                            factor * (1.0f - rows.label_smoothing)};
    auto load = [&](float (&values)[kPer], int64_t column, int count) {
        if (keeps)
            load_kept(values, kept + column);
        else
            load_group(values, logits_n + column, count);
    };
    write_gradient<kThreads, kPer>(dlogits_n, load, gradient, rows.V, target, at_target);
    if (!has_target) return;
    losses[n] = row_loss(rows, sums, at_target);
    lse[n] = sums.lse();
}

// ---------------------------------------------------------------------------------------------------------------------
// kernels of one number, a single block each

constexpr int kSumThreads = 512;

// The sum over the block, for its first thread: a lane adds one value of every warp, the thread then the lanes.
template <class T>
LLMCORE_DEVICE T block_total(T value, T (&sums)[kSumThreads]) {
    sums[threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
        for (int i = int(threadIdx.x) + 32; i < kSumThreads; i += 32) sums[threadIdx.x] += sums[i];
    }
    __syncthreads();
    T total{};
    if (threadIdx.x == 0)
        for (int lane = 0; lane < 32; ++lane) total += sums[lane];
    return total;
}

__global__ void __launch_bounds__(kSumThreads)
    cross_entropy_scale_kernel(float* scale, const int32_t* targets, int64_t N, int32_t ignore_index) {
    LLMCORE_SHARED(int64_t[kSumThreads], counts);
    int64_t count = 0;
    for (int64_t n = threadIdx.x; n < N; n += kSumThreads) count += targets[n] != ignore_index;
    count = block_total(count, counts);
    if (threadIdx.x == 0) *scale = count == 0 ? 0.0f : float(1.0 / double(count));
}

__global__ void cross_entropy_given_scale_kernel(float* scale, double num_items) {
    *scale = float(1.0 / num_items);
}

__global__ void __launch_bounds__(kSumThreads)
    cross_entropy_reduce_kernel(float* loss, const float* losses, const float* scale, int64_t N) {
    LLMCORE_SHARED(double[kSumThreads], totals);
    double total = 0.0;
    for (int64_t n = threadIdx.x; n < N; n += kSumThreads) total += double(losses[n]);
    total = block_total(total, totals);
    if (threadIdx.x == 0) *loss = float(total * double(*scale));
}

// ---------------------------------------------------------------------------------------------------------------------
// which kernel

template <int kWarps_, bool kVectors_>
struct Shape {
    static constexpr int warps = kWarps_;
    static constexpr bool vectors = kVectors_;
};

// Calls launch_for(Shape). A long row gets as many threads as a block may have: a few rows then fill the device, and
// what they need a second time is still in the caches.
template <class F>
void with_shape(int64_t V, bool vectors, F&& launch_for) {
    const bool is_long = V > 8192;
    if (is_long && vectors)
        launch_for(Shape<32, true>{});
    else if (is_long)
        launch_for(Shape<32, false>{});
    else if (vectors)
        launch_for(Shape<4, true>{});
    else
        launch_for(Shape<4, false>{});
}

// Whether every row starts where `count` elements can be accessed at once.
template <class T>
bool rows_on(const T* rows, int64_t row_step, int count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    return reinterpret_cast<uintptr_t>(rows) % bytes == 0 && row_step % count == 0;
}

template <class Shape>
Launch block_per_row(const Cuda& cuda, int64_t N, Shape, size_t shared_bytes = 0) {
    return {dim3(static_cast<unsigned>(N)), dim3(Shape::warps * 32), shared_bytes, cuda.stream};
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void cross_entropy_forward(Backend cuda, float* losses, float* lse, const T* logits, const int32_t* targets, int64_t N,
                           int64_t V, int64_t row_step, int32_t ignore_index, float label_smoothing) {
    if (N == 0) return;
    const Rows rows{targets, V, row_step, ignore_index, label_smoothing};
    with_shape(V, rows_on(logits, row_step, kPerVector<T>), [&](auto shape) {
        launch(block_per_row(cuda, N, shape), cross_entropy_forward_kernel<T, shape.warps, shape.vectors>, losses, lse,
               logits, rows);
    });
}

template <class Backend>
void cross_entropy_scale(Backend cuda, float* scale, const int32_t* targets, int64_t N, int32_t ignore_index,
                         double num_items) {
    if (num_items == 0)
        launch({1, kSumThreads, 0, cuda.stream}, cross_entropy_scale_kernel, scale, targets, N, ignore_index);
    else
        launch({1, 1, 0, cuda.stream}, cross_entropy_given_scale_kernel, scale, num_items);
}

template <class Backend>
void cross_entropy_reduce(Backend cuda, float* loss, const float* losses, const float* scale, int64_t N) {
    launch({1, kSumThreads, 0, cuda.stream}, cross_entropy_reduce_kernel, loss, losses, scale, N);
}

template <class Backend, class Out, class T>
void cross_entropy_backward(Backend cuda, Out* dlogits, const float* dloss, const float* scale, const T* logits,
                            const float* lse, const int32_t* targets, int64_t N, int64_t V, int64_t row_step,
                            int64_t dlogits_row_step, int32_t ignore_index, float label_smoothing) {
    if (N == 0) return;
    const Rows rows{targets, V, row_step, ignore_index, label_smoothing, dlogits_row_step};
    const bool vectors = rows_on(logits, row_step, kPerVector<T>) && rows_on(dlogits, dlogits_row_step, kPerVector<T>);
    with_shape(V, vectors, [&](auto shape) {
        launch(block_per_row(cuda, N, shape), cross_entropy_backward_kernel<Out, T, shape.warps, shape.vectors>,
               dlogits, dloss, scale, logits, lse, rows);
    });
}

template <class Backend, class Out>
void cross_entropy_forward_backward(Backend cuda, float* losses, float* lse, Out* dlogits, float* logits,
                                    const float* scale, const int32_t* targets, int64_t N, int64_t V, int64_t row_step,
                                    int64_t dlogits_row_step, int32_t ignore_index, float label_smoothing) {
    if (N == 0) return;
    const Rows rows{targets, V, row_step, ignore_index, label_smoothing, dlogits_row_step};
    const bool vectors =
        rows_on(logits, row_step, kPerVector<float>) && rows_on(dlogits, dlogits_row_step, kPerVector<float>);
    const size_t row_bytes = static_cast<size_t>((V + 3) / 4 * 4) * sizeof(float);
    const size_t room = static_cast<size_t>(cuda.shared_bytes) - sizeof(WarpSums<32>);
    const bool keeps = row_bytes <= room;
    with_shape(V, vectors, [&](auto shape) {
        launch(block_per_row(cuda, N, shape, keeps ? row_bytes : 0),
               cross_entropy_both_kernel<Out, shape.warps, shape.vectors>, losses, lse, dlogits, logits, scale, rows,
               keeps);
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(cross_entropy_forward, Cuda, float)
LLMCORE_INSTANTIATE(cross_entropy_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(cross_entropy_scale, Cuda)
LLMCORE_INSTANTIATE(cross_entropy_reduce, Cuda)
LLMCORE_INSTANTIATE(cross_entropy_backward, Cuda, float, float)
LLMCORE_INSTANTIATE(cross_entropy_backward, Cuda, bf16, bf16)
LLMCORE_INSTANTIATE(cross_entropy_backward, Cuda, bf16, float)
LLMCORE_INSTANTIATE(cross_entropy_forward_backward, Cuda, float)
LLMCORE_INSTANTIATE(cross_entropy_forward_backward, Cuda, bf16)

}  // namespace llmcore
