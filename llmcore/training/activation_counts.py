"""Bytes of activations of a training step, counted from what the Functions of each architecture save for the backward
pass, block by block as the allocator hands them out.

Each count takes the configuration and a micro-batch; it returns (kept for the backward pass, transient).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

_MASKED = 0.15  # part of the tokens that a masked model predicts


def block_size(nbytes: int) -> int:
    """What the allocator takes for a request: a power of two up to 1 MiB, then steps of an eighth of the one below."""
    power = 1 << max(0, nbytes - 1).bit_length()
    if power <= 1 << 20:
        return power
    step = power >> 4
    return -(-nbytes // step) * step


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """What a count depends on besides the configuration. `element` is the bytes of an activation; the head predicts
    `words` of the vocabulary, or a few classes."""

    batch_size: int
    sequence_length: int
    element: int
    activation_checkpointing: bool
    words: bool
    on_gpu: bool

    @property
    def rows(self) -> int:
        return self.batch_size * self.sequence_length

    def held(self, width: int, size: int | None = None) -> int:
        """What the allocator takes for an array of `width` elements, or values of `size` bytes, per token."""
        return block_size(self.rows * width * (size or self.element))


def _gpt2_activations(config: Any, batch: MicroBatch) -> tuple[int, int]:
    """A layer keeps per token two residual sums, two norms' outputs and the attention's output (5 C), q k v (3 C), the
    MLP's hidden layer before and after the activation (2 inner), and the statistics of norms and attention in float32.
    """
    held, C, layers, inner = batch.held, config.n_embd, config.n_layer, config.n_inner or 4 * config.n_embd
    layer = 5 * held(C) + held(3 * C) + 2 * held(inner) + 4 * held(1, 4) + held(config.n_head, 4)
    # backward through an MLP: gradients of hidden layer and input; or a chunk of logits
    backward = 2 * held(inner) + 2 * held(C)
    logits = _chunk_of_logits(batch, config.vocab_size) if batch.words else 0
    if batch.activation_checkpointing:
        # the inputs of the blocks (the first has one), a gradient, and one layer that is computed again; that is not
        # there yet while the logits are, but the last norm's input and output are
        kept = 2 * layers * held(C) + 4 * held(1, 4) + layer
        return kept, max(backward, logits + 2 * held(C) - layer)
    # embedding, last residual sum, last norm, and the loss's gradient, which is computed in the forward pass
    kept = 4 * held(C) + 4 * held(1, 4) + layers * layer
    return kept, max(backward, logits)


def _llama_activations(config: Any, batch: MicroBatch) -> tuple[int, int]:
    """A layer keeps per token two residual sums and two norms' outputs (4 C), the turned queries and the attention's
    output, the turned keys and the values, gate, up and their product (3 inner), and the statistics in float32."""
    held, C, layers, inner = batch.held, config.hidden_size, config.num_hidden_layers, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    layer = 4 * held(C) + 2 * held(queries) + 2 * held(keys) + 3 * held(inner) + 2 * held(1, 4)
    layer += held(config.num_attention_heads, 4)
    # the gradients of gate, up and their product, while the product itself is gone already
    backward = 2 * held(inner) + 2 * held(C)
    logits = _chunk_of_logits(batch, config.vocab_size) if batch.words else 0
    if batch.activation_checkpointing:
        kept = 2 * layers * held(C) + 2 * held(1, 4) + layer
        return kept, max(backward, logits + 2 * held(C) - layer)
    # embedding, last residual sum, last norm, and the loss's gradient, which is computed in the forward pass
    return 4 * held(C) + held(1, 4) + layers * layer, max(backward, logits)


def _bert_activations(config: Any, batch: MicroBatch) -> tuple[int, int]:
    """A layer keeps per token q, k, v and the attention's output, two sums and two norms' outputs (8 C), the MLP's
    hidden layer before and after the activation (2 inner), and the statistics of norms and attention in float32."""
    held, C, layers, inner = batch.held, config.hidden_size, config.num_hidden_layers, config.intermediate_size
    layer = 8 * held(C) + 2 * held(inner) + 4 * held(1, 4) + held(config.num_attention_heads, 4)
    # the gradients before and after the activation, while its result is gone already
    backward = held(inner) + 2 * held(C)
    predicted = int(batch.rows * _MASKED) if batch.words else 0
    scores = block_size(predicted * config.vocab_size * batch.element)
    embedded = 2 * held(C) + 2 * held(1, 4)
    if batch.activation_checkpointing:
        return embedded + layers * held(C) + layer, max(backward, 2 * scores - layer)
    return embedded + layers * layer, max(backward, 2 * scores)


def _chunk_of_logits(batch: MicroBatch, vocabulary: int) -> int:
    """Bytes of a chunk of logits in float32, and, on a GPU, of their gradients if they are not float32. Otherwise those
    take the logits' place."""
    chunk = _chunk_rows(batch, vocabulary) * vocabulary
    return block_size(chunk * 4) + (block_size(chunk * batch.element) if batch.on_gpu and batch.element < 4 else 0)


def _chunk_rows(batch: MicroBatch, vocabulary: int) -> int:
    """Rows of a chunk of logits, as csrc/ops/cross_entropy.cpp chooses them."""
    if batch.on_gpu:
        good, logits = 8192, 1 << 28
    else:
        good, logits = (512, 1 << 25) if batch.element < 4 else (256, 1 << 24)
        good = max(good, (1 << 20) // vocabulary)
    most = min(max(logits // vocabulary, 1), good)
    chunks = max(-(-batch.rows // most), 1)
    return max(-(-batch.rows // chunks), 1)


# model_type -> count of activations
ACTIVATIONS: dict[str, Callable[[Any, MicroBatch], tuple[int, int]]] = {
    "bert": _bert_activations,
    "gpt2": _gpt2_activations,
    "llama": _llama_activations,
}
