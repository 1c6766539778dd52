// The activation functions, by the names that users know. One list for the activation family and for the fused forms.
#pragma once

#include <string>

namespace llmcore {

enum class Activation { kNone, kGeluTanh, kGelu, kRelu, kSilu, kTanh };

// "" -> kNone, "gelu_new" (tanh form) -> kGeluTanh, "gelu" (erf form), "relu", "silu", "tanh". Throws
// std::invalid_argument, naming the op and the choices, for anything else.
Activation parse_activation(const char* op, const std::string& name);

}  // namespace llmcore
