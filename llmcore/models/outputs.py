"""What models return."""

from __future__ import annotations

import dataclasses

from llmcore.autograd import Tensor


@dataclasses.dataclass
class CausalLMOutput:
    """`loss`: scalar float32, if labels were given. `logits`: (B, T, V) in the model's dtype, if asked for."""

    loss: Tensor | None = None
    logits: Tensor | None = None


@dataclasses.dataclass
class EncoderOutput:
    """`last_hidden_state` (B, T, C); `pooler_output` (B, C), if the model has a pooler; `hidden_states`: embeddings and
    the output of each layer, L + 1 of (B, T, C), if asked for."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclasses.dataclass
class MaskedLMOutput:
    """`loss`: scalar float32, if labels were given. `logits`: (B, T, V) in the model's dtype, if asked for."""

    loss: Tensor | None = None
    logits: Tensor | None = None


@dataclasses.dataclass
class ClassifierOutput:
    """`loss`: scalar float32, if labels were given. `logits`: (B, num_labels), or (B, T, num_labels) for tokens."""

    loss: Tensor | None = None
    logits: Tensor | None = None
