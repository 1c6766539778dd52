// Optimizer steps on the CPU: one pass over memory, pieces of a fixed size.
#include "kernels/optimizer.h"

#include <cmath>

#include "core/thread_pool.h"
#include "cpu/philox_words.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kRun = 512;        // elements whose random words lie in the first-level cache
constexpr int64_t kGrain = 1 << 14;  // elements: with 5 arrays of float some 320 KiB of traffic, well above a wake-up

// ----------------------------------------------------------------------------------------------------------------
// kernels

// round_to_bf16_randomly (core/stochastic_rounding.h) for a vector; the words begin at `words`.
LLMCORE_INLINE Vec round_randomly(Vec value, const uint32_t* words) {
    VecUint random, bits = float_to_bits(value);
    std::memcpy(&random, words, sizeof random);
    const Vec rounded = bits_to_float((bits + (random >> 16)) & 0xffff0000u);
    return select((bits & 0x7f800000u) == 0x7f800000u, value, rounded);
}

// Calls update(at, weight, gradient) -> new weight for each vector of n elements. round(at, weight) is what params get.
template <class T, class Round, class Update>
LLMCORE_INLINE void update_run(T* params, float* master, const float* grads, float scale, int64_t n, const Round& round,
                               const Update& update) {
    for_each_vector(n, [&](auto at) {
        Vec weight = master != nullptr ? at.load(master) : at.load(params);
        weight = update(at, weight, at.load(grads) * scale);
        if (master != nullptr) at.store(master, weight);
        at.store(params, round(at, weight));
    });
}

// The piece [begin, end): update(first, at, weight, gradient), where `at` counts from element `first`.
template <class T, class Update>
LLMCORE_INLINE void update_piece(T* params, float* master, const float* grads, float scale, int64_t begin, int64_t end,
                                 const Rounding& rounding, const Update& update) {
    auto run = [&](int64_t first, int64_t n, const auto& round) {
        update_run(params + first, master != nullptr ? master + first : nullptr, grads + first, scale, n, round,
                   [&](auto at, Vec weight, Vec g) { return update(first, at, weight, g); });
    };
    if (!rounding.stochastic) return run(begin, end - begin, [](auto, Vec weight) { return weight; });
    uint32_t buffer[kRun + kWordsPadding + kLanes] = {};
    for (int64_t first = begin; first < end; first += kRun) {
        int64_t n = end - first < kRun ? end - first : kRun;
        const uint32_t* words = philox_words(buffer, rounding.seed, rounding.offset, static_cast<uint64_t>(first), n);
        run(first, n, [words](auto at, Vec weight) { return round_randomly(weight, words + at.column); });
    }
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

// Factors that are differences or powers (1 - beta2, 1 - beta1^step) are formed in double: in float, 1 - 0.999 has lost
// four of its seven digits.
template <class Backend, class T>
void adamw_step(Backend, T* params, float* master, float* m, float* v, const float* grads, const float* grad_scale,
                int64_t n, AdamWOptions o, Rounding rounding) {
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
        update_piece(params, master, grads, scale, begin, end, rounding,
                     [=](int64_t first, auto at, Vec weight, Vec g) {
                         g = g + weight * l2;
                         Vec m_old = at.load(m + first);
                         Vec m_new = m_old + (g - m_old) * take1, v_new = at.load(v + first) * beta2 + g * g * take2;
                         at.store(m + first, m_new);
                         at.store(v + first, v_new);
                         return weight * keep - m_new / (sqrt(v_new) * v_scale + epsilon) * step_size;
                     });
    });
}

template <class Backend, class T>
void sgd_step(Backend, T* params, float* master, float* momentum_buffer, const float* grads, const float* grad_scale,
              int64_t n, SgdOptions o, Rounding rounding) {
    float scale = grad_scale != nullptr ? *grad_scale : 1.0f;
    float learning_rate = static_cast<float>(o.learning_rate), weight_decay = static_cast<float>(o.weight_decay);
    float momentum = static_cast<float>(o.momentum), take = static_cast<float>(1.0 - o.dampening);
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        update_piece(params, master, grads, scale, begin, end, rounding,
                     [=](int64_t first, auto at, Vec weight, Vec g) {
                         g = g + weight * weight_decay;
                         if (momentum_buffer != nullptr) {
                             Vec buffer = o.first_step ? g : at.load(momentum_buffer + first) * momentum + g * take;
                             at.store(momentum_buffer + first, buffer);
                             g = o.nesterov ? g + buffer * momentum : buffer;
                         }
                         return weight - g * learning_rate;
                     });
    });
}

template <class Backend, class T>
void rmsprop_step(Backend, T* params, float* master, float* square_avg, float* momentum_buffer, const float* grads,
                  const float* grad_scale, int64_t n, RmspropOptions o, Rounding rounding) {
    float scale = grad_scale != nullptr ? *grad_scale : 1.0f;
    float learning_rate = static_cast<float>(o.learning_rate), weight_decay = static_cast<float>(o.weight_decay);
    float alpha = static_cast<float>(o.alpha), take = static_cast<float>(1.0 - o.alpha);
    float momentum = static_cast<float>(o.momentum), epsilon = static_cast<float>(o.epsilon);
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        update_piece(params, master, grads, scale, begin, end, rounding,
                     [=](int64_t first, auto at, Vec weight, Vec g) {
                         g = g + weight * weight_decay;
                         Vec average = at.load(square_avg + first) * alpha + g * g * take;
                         at.store(square_avg + first, average);
                         Vec step = g / (sqrt(average) + epsilon);
                         if (momentum_buffer != nullptr) {
                             step = at.load(momentum_buffer + first) * momentum + step;
                             at.store(momentum_buffer + first, step);
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
