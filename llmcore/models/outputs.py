"""What models return."""

from __future__ import annotations

import dataclasses

from llmcore.autograd import Tensor


@dataclasses.dataclass
class CausalLMOutput:
    """`loss`: scalar float32, if labels were given. `logits`: (B, T, V) in the model's dtype, if asked for."""

    loss: Tensor | None = None
    logits: Tensor | None = None
