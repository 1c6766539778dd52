// The largest errors of the vector functions of cpu/simd_math.h against double, over every 997th of all floats: one
// line per function, `name ulp at`. The error is counted in units of the last place of the exact value, as a normal
// number. Compiled and read by tests/core/test_simd_math.py.
#include "cpu/simd_math.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "core/subnormals.h"

namespace llmcore {
namespace {

constexpr uint64_t kStep = 997 * kLanes;  // every lane gets all kinds of numbers

// The spacing of floats at |exact|.
double unit_of(double exact) {
    int exponent;
    std::frexp(exact, &exponent);
    return std::ldexp(1.0, std::max(exponent, -125) - 24);
}

struct Worst {
    double error = 0;
    float at = 0;
};

// `from` <= x <= `to`; beyond them f is measured elsewhere. A NaN must stay one.
template <class Function, class Exact>
Worst worst_error(const Function& function, const Exact& exact, float from, float to) {
    Worst worst;
    for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += kStep) {
        float x[kLanes], y[kLanes];
        for (int i = 0; i < kLanes; ++i) {
            const uint32_t word = static_cast<uint32_t>(bits + 997 * static_cast<uint64_t>(i));
            std::memcpy(&x[i], &word, sizeof word);
            if (std::fpclassify(x[i]) == FP_SUBNORMAL) x[i] = 0;
        }
        store(y, function(load(x)));
        for (int i = 0; i < kLanes; ++i) {
            const bool inside = x[i] >= from && x[i] <= to;
            if ((inside || std::isnan(x[i])) && std::isnan(x[i]) != std::isnan(y[i])) return {INFINITY, x[i]};
            if (inside) {
                const double value = exact(static_cast<double>(x[i]));
                const double error = std::fabs(static_cast<double>(y[i]) - value) / unit_of(value);
                if (error > worst.error) worst = {error, x[i]};
            }
        }
    }
    return worst;
}

void print(const char* name, Worst worst) {
    std::printf("%s %.3f %.9g\n", name, worst.error, static_cast<double>(worst.at));
}

}  // namespace
}  // namespace llmcore

int main() {
    using namespace llmcore;
    FlushSubnormals flush;
    print("exp", worst_error([](Vec x) { return exp(x); }, [](double x) { return std::exp(x); }, -87.3f, 88.72f));
    print("tanh",
          worst_error([](Vec x) { return tanh(x); }, [](double x) { return std::tanh(x); }, -INFINITY, INFINITY));
    print("erf", worst_error([](Vec x) { return erf(x); }, [](double x) { return std::erf(x); }, -INFINITY, INFINITY));
    print("reciprocal",
          worst_error([](Vec x) { return reciprocal(x); }, [](double x) { return 1 / x; }, 1.0f, 0x1p125f));
    float limits[kLanes] = {-1e30f, -88.0f, 88.8f, 1e30f}, found[kLanes];
    store(found, exp(load(limits)));
    std::printf("exp beyond %g %g %g %g\n", double(found[0]), double(found[1]), double(found[2]), double(found[3]));
}
