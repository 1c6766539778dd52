// Problems with their expected results, for the tests of the matmul kernels. Small integers make every sum exact, so
// that one wrong index shows.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "check.h"
#include "core/bf16.h"
#include "kernels/matmul.h"

namespace llmcore {

// Exactly `size` elements, `offset` elements behind an address that vectors could use; a read or write past either end
// of the allocation is AddressSanitizer's.
template <class T>
struct Buffer {
    Buffer(size_t size_, size_t offset) : size(size_), memory(new T[size_ + offset]), data(memory.get() + offset) {}
    size_t size;
    std::unique_ptr<T[]> memory;
    T* data;
    void fill(float value) {
        for (size_t i = 0; i < size; ++i) data[i] = from_float<T>(value);
    }
    template <class F>
    void generate(F&& f) {
        for (size_t i = 0; i < size; ++i) data[i] = from_float<T>(f());
    }
};

struct Extras {
    bool bias = false, pre_activation = false, residual = false, accumulate = false;
    Activation activation = Activation::kNone;
    bool slope = false, dbias = false;
};

inline double activated(Activation kind, double x) {
    switch (kind) {
        case Activation::kNone:
            return x;
        case Activation::kGeluTanh:
            return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::kGelu:
            return 0.5 * x * (1 + std::erf(x / std::sqrt(2)));
        case Activation::kRelu:
            return x > 0 ? x : 0;
        case Activation::kSilu:
            return x / (1 + std::exp(-x));
        case Activation::kTanh:
            return std::tanh(x);
    }
    return NAN;
}

inline double slope_of(Activation kind, double x) {
    if (kind == Activation::kRelu) return x > 0;
    const double step = 1e-5;
    return (activated(kind, x + step) - activated(kind, x - step)) / (2 * step);
}

inline float small_integer() {
    return std::floor(random_number() * 4);  // -4 to 3
}

constexpr float kDbiasBefore = 3;  // gradients are added

template <class Out, class A, class B>
struct Case {
    MatmulProblem problem;
    Extras extras;
    Buffer<A> a;
    Buffer<B> b;
    Buffer<Out> bias, residual, before, y, pre;
    Buffer<Out> slope_at;
    Buffer<float> dbias;
    std::vector<double> expected, expected_pre, expected_dbias;

    Case(const MatmulProblem& p, const Extras& e, size_t offset = 0)
        : problem(p),
          extras(e),
          a(size_t(p.a_step ? p.batch * p.a_step : rows_of_a() * p.a_row()), offset),
          b(size_t(p.b_step ? p.batch * p.b_step : p.N * p.K), offset),
          bias(size_t(p.N), offset),
          residual(outputs(), offset),
          before(outputs(), 0),
          y(outputs(), offset),
          pre(outputs(), offset),
          slope_at(outputs(), offset),
          dbias(size_t(p.N), offset) {
        problem.accumulate = e.accumulate;
    }
    int64_t rows_of_a() const { return problem.transpose_a ? problem.K : problem.M; }
    size_t outputs() const { return size_t(problem.batch * problem.M * problem.y_row()); }
    bool between_rows(size_t i) const { return int64_t(i) % problem.y_row() >= problem.N; }

    void generate(float (*number)()) {
        a.generate(number), b.generate(number), bias.generate(number), residual.generate(number);
        before.generate(number), slope_at.generate(number);
        expected.resize(outputs()), expected_pre.resize(outputs());
        expected_dbias.assign(size_t(problem.N), kDbiasBefore);
        for (size_t i = 0; i < outputs(); ++i) expect(i);
    }
    double product(int64_t matrix, int64_t m, int64_t n) const {
        const MatmulProblem& p = problem;
        const A* a_0 = a.data + matrix * p.a_step + (p.transpose_a ? m : m * p.a_row());
        const B* b_0 = b.data + matrix * p.b_step + (p.transpose_b ? n * p.K : n);
        double sum = 0;
        for (int64_t k = 0; k < p.K; ++k)
            sum += double(to_float(a_0[p.transpose_a ? k * p.a_row() : k])) *
                   double(to_float(b_0[p.transpose_b ? k : k * p.N]));
        return sum;
    }
    void expect(size_t i) {
        if (between_rows(i)) return;
        int64_t row = problem.y_row(), M = problem.M, at = int64_t(i), n = at % row;
        double value = product(at / (M * row), at / row % M, n);
        if (extras.bias) value += double(to_float(bias.data[n]));
        expected_pre[i] = value;
        if (extras.slope)
            value *= slope_of(extras.activation, double(to_float(slope_at.data[i])));
        else
            value = activated(extras.activation, value);
        if (extras.residual) value += double(to_float(residual.data[i]));
        if (extras.accumulate) value += double(to_float(before.data[i]));
        expected[i] = value;
        expected_dbias[size_t(n)] += value;
    }
    // What was there before: to be added to, or poison.
    void reset() {
        y.fill(NAN), pre.fill(NAN), dbias.fill(kDbiasBefore);
        for (size_t i = 0; extras.accumulate && i < outputs(); ++i)
            if (!between_rows(i)) y.data[i] = before.data[i];
    }
    MatmulEpilogue<Out> epilogue() const {
        return {extras.bias ? bias.data : nullptr,          extras.activation,
                extras.pre_activation ? pre.data : nullptr, extras.residual ? residual.data : nullptr,
                extras.slope ? slope_at.data : nullptr,     extras.dbias ? dbias.data : nullptr};
    }
};

// `tolerance` 0: every value is the reference, rounded once to Out.
template <class Out>
void expect_close(Out found, double expected, double tolerance) {
    if (tolerance == 0) {
        EXPECT(to_float(found) == to_float(from_float<Out>(float(expected))));
    } else {
        double rounding = std::is_same_v<Out, bf16> ? std::fabs(expected) / 256 : 0;
        EXPECT(std::fabs(to_float(found) - expected) <= tolerance + rounding);
    }
}

template <class Out, class A, class B>
void check(const Case<Out, A, B>& c, double tolerance) {
    for (size_t i = 0; i < c.outputs(); ++i) {
        if (c.between_rows(i)) {
            EXPECT(std::isnan(to_float(c.y.data[i])));  // as it was
            continue;
        }
        expect_close(c.y.data[i], c.expected[i], tolerance);
        if (c.extras.pre_activation) expect_close(c.pre.data[i], c.expected_pre[i], tolerance);
    }
    for (size_t n = 0; c.extras.dbias && n < c.dbias.size; ++n)
        expect_close(c.dbias.data[n], c.expected_dbias[n], tolerance * double(c.problem.M));
}

inline MatmulProblem plain(int64_t M, int64_t N, int64_t K, int transposes) {
    MatmulProblem p{1, M, N, K};
    p.transpose_a = transposes & 1;
    p.transpose_b = transposes & 2;
    return p;
}

inline MatmulProblem batched(int64_t batch, MatmulProblem p, bool shared_a, bool shared_b) {
    p.batch = batch;
    if (!shared_a) p.a_step = p.M * p.K;
    if (!shared_b) p.b_step = p.K * p.N;
    return p;
}

// All in the plain build. The race detector needs no luck, and sanitizers look for the ends of tensors, which no policy
// moves: there the extremes are enough.
inline void for_policies_of_this_build(const std::function<void()>& body) {
    if (!kAsan && !emu::race_detection()) return for_every_policy(body);
    using emu::Landing, emu::Order;
    const std::pair<Order, Landing> extremes[] = {{Order::kForward, Landing::kLate}, {Order::kRandom, Landing::kEarly}};
    for (auto [order, landing] : extremes) {
        emu::policy() = {};
        emu::policy().order = order;
        emu::policy().copies = emu::policy().math = landing;
        body();
    }
    emu::policy() = {};
}

}  // namespace llmcore
