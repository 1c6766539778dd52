// Optimizer steps: one pass over memory, eight elements to a thread at a time. Factors that are differences or powers
// (1 - beta2, 1 - beta1^step) are formed in double on the host: in float, 1 - 0.999 has lost four of its seven digits.
#include <cmath>

#include "core/philox.h"
#include "core/stochastic_rounding.h"
#include "cuda/map.cuh"
#include "kernels/optimizer.h"

namespace llmcore {
namespace {

// The arrays that every step has. A rule's state follows.
template <class T>
struct Weights {
    T* params;
    float* master;  // null: params is updated itself
    const float *grads, *grad_scale;
    int64_t n;
    bool vectors;
    bool state1_is_new;  // nothing has been written there yet
    Rounding rounding;
    const uint64_t* random_shift;  // of the rounding's offset: core/backend.h
};

// Eight elements from `first` on, a multiple of four: see Rounding in kernels/optimizer.h.
LLMCORE_DEVICE void round_randomly(float (&values)[kChunk], int64_t first, uint64_t seed, uint64_t offset) {
#pragma unroll
    for (int block = 0; block < kChunk / 4; ++block) {
        const Philox4 words = philox(seed, offset, uint64_t(first) / 4 + uint64_t(block));
#pragma unroll
        for (int i = 0; i < 4; ++i)
            values[block * 4 + i] = round_to_bf16_randomly(values[block * 4 + i], words.word[i]);
    }
}

// rule(weight, gradient, state 1, state 2) of each element -> its new weight; the rule also changes the state. A state
// that the rule does not have is null.
template <class T, bool kStochastic, class Rule>
__global__ void __launch_bounds__(kMapThreads) step_kernel(Weights<T> w, float* state1, float* state2, Rule rule) {
    const float scale = w.grad_scale != nullptr ? *w.grad_scale : 1.0f;
    const uint64_t offset = kStochastic ? w.rounding.offset + *w.random_shift : 0;
    for_chunks(w.n, [&](int64_t first, int count) {
        float weight[kChunk], gradient[kChunk], one[kChunk] = {}, two[kChunk] = {};
        if (w.master != nullptr)
            load_chunk(weight, w.master + first, count, w.vectors);
        else
            load_chunk(weight, w.params + first, count, w.vectors);
        load_chunk(gradient, w.grads + first, count, w.vectors);
        if (state1 != nullptr && !w.state1_is_new) load_chunk(one, state1 + first, count, w.vectors);
        if (state2 != nullptr) load_chunk(two, state2 + first, count, w.vectors);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) weight[i] = rule(weight[i], gradient[i] * scale, one[i], two[i]);
        if (state1 != nullptr) store_chunk(state1 + first, one, count, w.vectors);
        if (state2 != nullptr) store_chunk(state2 + first, two, count, w.vectors);
        if (w.master != nullptr) store_chunk(w.master + first, weight, count, w.vectors);
        if constexpr (kStochastic) round_randomly(weight, first, w.rounding.seed, offset);
        store_chunk(w.params + first, weight, count, w.vectors);
    });
}

template <class T, class Rule>
void step(const Cuda& backend, T* params, float* master, float* state1, float* state2, const float* grads,
          const float* grad_scale, int64_t n, const Rounding& rounding, const Rule& rule, bool state1_is_new = false) {
    if (n == 0) return;
    const bool vectors =
        on_vectors(params) && on_vectors(master) && on_vectors(state1) && on_vectors(state2) && on_vectors(grads);
    const Weights<T> weights{params,  master,        grads,    grad_scale,          n,
                             vectors, state1_is_new, rounding, backend.random_shift};
    const auto kernel = rounding.stochastic ? step_kernel<T, true, Rule> : step_kernel<T, false, Rule>;
    launch(chunk_shape(backend, n), kernel, weights, state1, state2, rule);
}

struct AdamW {
    float l2, keep, take1, take2, beta2, step_size, v_scale, epsilon;
    LLMCORE_DEVICE float operator()(float weight, float g, float& m, float& v) const {
        g += weight * l2;
        m += (g - m) * take1;
        v = v * beta2 + g * g * take2;
        return weight * keep - m / (sqrtf(v) * v_scale + epsilon) * step_size;
    }
};

struct Sgd {
    float learning_rate, weight_decay, momentum, take;
    bool has_buffer, nesterov, first_step;
    LLMCORE_DEVICE float operator()(float weight, float g, float& buffer, float&) const {
        g += weight * weight_decay;
        if (has_buffer) {
            buffer = first_step ? g : buffer * momentum + g * take;
            g = nesterov ? g + buffer * momentum : buffer;
        }
        return weight - g * learning_rate;
    }
};

struct Rmsprop {
    float learning_rate, weight_decay, alpha, take, momentum, epsilon;
    bool has_buffer;
    LLMCORE_DEVICE float operator()(float weight, float g, float& average, float& buffer) const {
        g += weight * weight_decay;
        average = average * alpha + g * g * take;
        float update = g / (sqrtf(average) + epsilon);
        if (has_buffer) update = buffer = buffer * momentum + update;
        return weight - update * learning_rate;
    }
};

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void adamw_step(Backend backend, T* params, float* master, float* m, float* v, const float* grads,
                const float* grad_scale, int64_t n, AdamWOptions o, Rounding rounding) {
    const double correction1 = 1.0 - std::pow(o.beta1, static_cast<double>(o.step));
    const double correction2 = 1.0 - std::pow(o.beta2, static_cast<double>(o.step));
    const AdamW rule{o.l2 ? static_cast<float>(o.weight_decay) : 0.0f,
                     o.l2 ? 1.0f : static_cast<float>(1.0 - o.learning_rate * o.weight_decay),
                     static_cast<float>(1.0 - o.beta1),
                     static_cast<float>(1.0 - o.beta2),
                     static_cast<float>(o.beta2),
                     static_cast<float>(o.learning_rate / correction1),
                     static_cast<float>(1.0 / std::sqrt(correction2)),
                     static_cast<float>(o.epsilon)};
    step(backend, params, master, m, v, grads, grad_scale, n, rounding, rule);
}

template <class Backend, class T>
void sgd_step(Backend backend, T* params, float* master, float* momentum_buffer, const float* grads,
              const float* grad_scale, int64_t n, SgdOptions o, Rounding rounding) {
    const Sgd rule{static_cast<float>(o.learning_rate),
                   static_cast<float>(o.weight_decay),
                   static_cast<float>(o.momentum),
                   static_cast<float>(1.0 - o.dampening),
                   momentum_buffer != nullptr,
                   o.nesterov,
                   o.first_step};
    step(backend, params, master, momentum_buffer, static_cast<float*>(nullptr), grads, grad_scale, n, rounding, rule,
         o.first_step);
}

template <class Backend, class T>
void rmsprop_step(Backend backend, T* params, float* master, float* square_avg, float* momentum_buffer,
                  const float* grads, const float* grad_scale, int64_t n, RmspropOptions o, Rounding rounding) {
    const Rmsprop rule{static_cast<float>(o.learning_rate), static_cast<float>(o.weight_decay),
                       static_cast<float>(o.alpha),         static_cast<float>(1.0 - o.alpha),
                       static_cast<float>(o.momentum),      static_cast<float>(o.epsilon),
                       momentum_buffer != nullptr};
    step(backend, params, master, square_avg, momentum_buffer, grads, grad_scale, n, rounding, rule);
}

// ---------------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(adamw_step, Cuda, float)
LLMCORE_INSTANTIATE(adamw_step, Cuda, bf16)
LLMCORE_INSTANTIATE(sgd_step, Cuda, float)
LLMCORE_INSTANTIATE(sgd_step, Cuda, bf16)
LLMCORE_INSTANTIATE(rmsprop_step, Cuda, float)
LLMCORE_INSTANTIATE(rmsprop_step, Cuda, bf16)

}  // namespace llmcore
