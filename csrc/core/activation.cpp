#include "core/activation.h"

#include "core/check.h"

namespace llmcore {

Activation parse_activation(const char* op, const std::string& name) {
    if (name.empty()) return Activation::kNone;
    if (name == "gelu_new") return Activation::kGeluTanh;
    if (name == "gelu") return Activation::kGelu;
    if (name == "relu") return Activation::kRelu;
    if (name == "silu") return Activation::kSilu;
    if (name == "tanh") return Activation::kTanh;
    throw std::invalid_argument(concat(
        op, ": activation must be None, \"gelu_new\", \"gelu\", \"relu\", \"silu\" or \"tanh\", got \"", name, "\""));
}

}  // namespace llmcore
