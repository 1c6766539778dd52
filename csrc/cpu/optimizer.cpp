// Optimizer steps on the CPU: one pass over memory, pieces of a fixed size.
#include "kernels/optimizer.h"

#include <cmath>

#include "core/thread_pool.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements: with 5 arrays of float some 320 KiB of traffic, well above a wake-up

// ----------------------------------------------------------------------------------------------------------------
// kernels

// Calls update(at, weight, gradient) -> new weight for each vector of the piece [begin, end).
template <class T, class Update>
LLMCORE_INLINE void update_piece(T* params, float* master, const float* grads, float scale, int64_t begin, int64_t end,
                                 const Update& update) {
    params += begin;
    grads += begin;
    if (master != nullptr) master += begin;
    for_each_vector(end - begin, [&](auto at) {
        Vec weight = master != nullptr ? at.load(master) : at.load(params);
        weight = update(at, weight, at.load(grads) * scale);
        if (master != nullptr) at.store(master, weight);
        at.store(params, weight);
    });
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

// Factors that are differences or powers (1 - beta2, 1 - beta1^step) are formed in double: in float, 1 - 0.999 has lost
// four of its seven digits.
template <class Backend, class T>
void adamw_step(Backend, T* params, float* master, float* m, float* v, const float* grads, const float* grad_scale,
                int64_t n, AdamWOptions o) {
    double correction1 = 1.0 - std::pow(o.beta1, static_cast<double>(o.step));
    double correction2 = 1.0 - std::pow(o.beta2, static_cast<double>(o.step));
    float scale = grad_scale != nullptr ? *grad_scale : 1.0f;
    float keep = o.l2 ? 1.0f : static_cast<float>(1.0 - o.learning_rate * o.weight_decay);
    float l2 = o.l2 ? static_cast<float>(o.weight_decay) : 0.0f;
    float take1 = static_cast<float>(1.0 - o.beta1), take2 = static_cast<float>(1.0 - o.beta2);
    float beta2 = static_cast<float>(o.beta2), epsilon = static_cast<float>(o.epsilon);
    float step_size = static_cast<float>(o.learning_rate / correction1);
    float v_scale = static_cast<float>(1.0 / std::sqrt(correction2));
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        update_piece(params, master, grads, scale, begin, end, [=](auto at, Vec weight, Vec g) {
            g = g + weight * l2;
            Vec m_old = at.load(m + begin);
            Vec m_new = m_old + (g - m_old) * take1, v_new = at.load(v + begin) * beta2 + g * g * take2;
            at.store(m + begin, m_new);
            at.store(v + begin, v_new);
            return weight * keep - m_new / (sqrt(v_new) * v_scale + epsilon) * step_size;
        });
    });
}

template <class Backend, class T>
void sgd_step(Backend, T* params, float* master, float* momentum_buffer, const float* grads, const float* grad_scale,
              int64_t n, SgdOptions o) {
    float scale = grad_scale != nullptr ? *grad_scale : 1.0f;
    float learning_rate = static_cast<float>(o.learning_rate), weight_decay = static_cast<float>(o.weight_decay);
    float momentum = static_cast<float>(o.momentum), take = static_cast<float>(1.0 - o.dampening);
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        update_piece(params, master, grads, scale, begin, end, [=](auto at, Vec weight, Vec g) {
            g = g + weight * weight_decay;
            if (momentum_buffer != nullptr) {
                Vec buffer = o.first_step ? g : at.load(momentum_buffer + begin) * momentum + g * take;
                at.store(momentum_buffer + begin, buffer);
                g = o.nesterov ? g + buffer * momentum : buffer;
            }
            return weight - g * learning_rate;
        });
    });
}

template <class Backend, class T>
void rmsprop_step(Backend, T* params, float* master, float* square_avg, float* momentum_buffer, const float* grads,
                  const float* grad_scale, int64_t n, RmspropOptions o) {
    float scale = grad_scale != nullptr ? *grad_scale : 1.0f;
    float learning_rate = static_cast<float>(o.learning_rate), weight_decay = static_cast<float>(o.weight_decay);
    float alpha = static_cast<float>(o.alpha), take = static_cast<float>(1.0 - o.alpha);
    float momentum = static_cast<float>(o.momentum), epsilon = static_cast<float>(o.epsilon);
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        update_piece(params, master, grads, scale, begin, end, [=](auto at, Vec weight, Vec g) {
            g = g + weight * weight_decay;
            Vec average = at.load(square_avg + begin) * alpha + g * g * take;
            at.store(square_avg + begin, average);
            Vec step = g / (sqrt(average) + epsilon);
            if (momentum_buffer != nullptr) {
                step = at.load(momentum_buffer + begin) * momentum + step;
                at.store(momentum_buffer + begin, step);
            }
            return weight - step * learning_rate;
        });
    });
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(adamw_step, Cpu, float)
LLMCORE_INSTANTIATE(adamw_step, Cpu, bf16)
LLMCORE_INSTANTIATE(sgd_step, Cpu, float)
LLMCORE_INSTANTIATE(sgd_step, Cpu, bf16)
LLMCORE_INSTANTIATE(rmsprop_step, Cpu, float)
LLMCORE_INSTANTIATE(rmsprop_step, Cpu, bf16)

}  // namespace llmcore
