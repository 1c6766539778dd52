// Cross-entropy on the CPU: a row of logits is read three times by one thread (largest, sum of exponentials, gradient),
// out of its cache where one launcher does all three.
#include "kernels/cross_entropy.h"

#include <cmath>

#include "core/thread_pool.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kLogitsPerTask = 1 << 15;  // rows of a small vocabulary are taken together

LLMCORE_INLINE int64_t rows_per_task(int64_t V) {
    return V >= kLogitsPerTask ? 1 : kLogitsPerTask / V;
}

// ----------------------------------------------------------------------------------------------------------------
// kernels

struct RowScan {
    float largest, mean;  // mean only where the smoothing needs it
};

template <class T>
RowScan scan_row(const T* logits, int64_t V) {
    Vec largest = splat(-__builtin_inff()), totals{};
    for_each_vector(V, [&](auto at) {
        largest = max(at.load(logits, -__builtin_inff()), largest);
        totals += at.load(logits);
    });
    return {max_lane(largest), sum(totals) / static_cast<float>(V)};
}

float row_loss(float lse, float at_target, float mean, float label_smoothing) {
    float loss = lse - (1.0f - label_smoothing) * at_target;
    return label_smoothing == 0.0f ? loss : loss - label_smoothing * mean;
}

template <class T>
float forward_row(float* lse, const T* logits, int32_t target, int64_t V, float label_smoothing) {
    RowScan scan = scan_row(logits, V);
    Vec sums{};
    for_each_vector(V, [&](auto at) { sums += exp(at.load(logits, -__builtin_inff()) - scan.largest); });
    *lse = scan.largest + std::log(sum(sums));
    return row_loss(*lse, to_float(logits[target]), scan.mean, label_smoothing);
}

template <class Out, class T>
void backward_row(Out* dlogits, float scale, const T* logits, float lse, int32_t target, int64_t V,
                  float label_smoothing) {
    float uniform = label_smoothing / static_cast<float>(V);
    float at_target = to_float(logits[target]);  // before dlogits, perhaps the same memory, is written
    for_each_vector(V, [&](auto at) { at.store(dlogits, scale * (exp(at.load(logits) - lse) - uniform)); });
    float probability = exp(splat(at_target - lse))[0];
    dlogits[target] = from_float<Out>(scale * (probability - uniform - (1.0f - label_smoothing)));
}

// The exponentials take the logits' place, so that each is computed once.
template <class Out>
float forward_backward_row(float* lse, Out* dlogits, float scale, float* logits, int32_t target, int64_t V,
                           float label_smoothing) {
    RowScan scan = scan_row(logits, V);
    float at_target = logits[target];
    Vec sums{};
    for_each_vector(V, [&](auto at) {
        Vec e = exp(at.load(logits, -__builtin_inff()) - scan.largest);
        at.store(logits, e);
        sums += e;
    });
    float total = sum(sums), uniform = scale * label_smoothing / static_cast<float>(V), factor = scale / total;
    float e_target = logits[target];  // before dlogits, perhaps the same memory, is written
    for_each_vector(V, [&](auto at) { at.store(dlogits, at.load(logits) * factor - uniform); });
    dlogits[target] = from_float<Out>(scale * (e_target / total - (1.0f - label_smoothing)) - uniform);
    *lse = scan.largest + std::log(total);
    return row_loss(*lse, at_target, scan.mean, label_smoothing);
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void cross_entropy_forward(Backend, float* losses, float* lse, const T* logits, const int32_t* targets, int64_t N,
                           int64_t V, int64_t row_step, int32_t ignore_index, float label_smoothing) {
    parallel_for(N, rows_per_task(V), [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            bool ignored = targets[n] == ignore_index;
            lse[n] = losses[n] = 0.0f;
            if (!ignored) losses[n] = forward_row(lse + n, logits + n * row_step, targets[n], V, label_smoothing);
        }
    });
}

template <class Backend>
void cross_entropy_scale(Backend, float* scale, const int32_t* targets, int64_t N, int32_t ignore_index,
                         double num_items) {
    if (num_items == 0)
        for (int64_t n = 0; n < N; ++n) num_items += targets[n] != ignore_index;
    *scale = num_items == 0 ? 0.0f : static_cast<float>(1.0 / num_items);
}

template <class Backend>
void cross_entropy_reduce(Backend, float* loss, const float* losses, const float* scale, int64_t N) {
    double total = 0;
    for (int64_t n = 0; n < N; ++n) total += losses[n];
    *loss = static_cast<float>(total * *scale);
}

template <class Backend, class Out, class T>
void cross_entropy_backward(Backend, Out* dlogits, const float* dloss, const float* scale, const T* logits,
                            const float* lse, const int32_t* targets, int64_t N, int64_t V, int64_t row_step,
                            int64_t dlogits_row_step, int32_t ignore_index, float label_smoothing) {
    float factor = dloss ? *dloss * *scale : *scale;
    parallel_for(N, rows_per_task(V), [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            Out* row = dlogits + n * dlogits_row_step;
            if (targets[n] == ignore_index)
                for_each_vector(V, [&](auto at) { at.store(row, Vec{}); });
            else
                backward_row(row, factor, logits + n * row_step, lse[n], targets[n], V, label_smoothing);
        }
    });
}

template <class Backend, class Out>
void cross_entropy_forward_backward(Backend, float* losses, float* lse, Out* dlogits, float* logits, const float* scale,
                                    const int32_t* targets, int64_t N, int64_t V, int64_t row_step,
                                    int64_t dlogits_row_step, int32_t ignore_index, float label_smoothing) {
    float factor = *scale;
    parallel_for(N, rows_per_task(V), [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            Out* row = dlogits + n * dlogits_row_step;
            lse[n] = losses[n] = 0.0f;
            if (targets[n] == ignore_index)
                for_each_vector(V, [&](auto at) { at.store(row, Vec{}); });
            else
                losses[n] =
                    forward_backward_row(lse + n, row, factor, logits + n * row_step, targets[n], V, label_smoothing);
        }
    });
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(cross_entropy_forward, Cpu, float)
LLMCORE_INSTANTIATE(cross_entropy_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(cross_entropy_scale, Cpu)
LLMCORE_INSTANTIATE(cross_entropy_reduce, Cpu)
LLMCORE_INSTANTIATE(cross_entropy_backward, Cpu, float, float)
LLMCORE_INSTANTIATE(cross_entropy_backward, Cpu, bf16, bf16)
LLMCORE_INSTANTIATE(cross_entropy_backward, Cpu, bf16, float)
LLMCORE_INSTANTIATE(cross_entropy_forward_backward, Cpu, float)
LLMCORE_INSTANTIATE(cross_entropy_forward_backward, Cpu, bf16)

}  // namespace llmcore
