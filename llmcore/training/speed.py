"""Floating point operations per trained token, to hold a run's speed against the machine's matmul peak."""

from __future__ import annotations

from typing import Any


def flops_per_token(model: Any, sequence_length: int) -> float | None:
    """Operations of one trained token, forward and backward, by the usual count (Chowdhery et al. 2022, appendix B).

    6 per parameter that takes part in a matrix product (position embeddings do not, the token embedding does as the
    head), and 12 L C T for the attention scores. Recomputed activations are not counted: they are no progress. None
    for an unknown architecture.
    """
    config = getattr(model, "config", None)
    layers, width = getattr(config, "n_layer", None), getattr(config, "n_embd", None)
    if layers is None or width is None:
        return None
    positions = getattr(config, "n_positions", 0) * width
    parameters = model.num_parameters() - positions
    if not getattr(config, "tie_word_embeddings", True):
        parameters -= config.vocab_size * width  # the token table is a lookup then
    return 6.0 * parameters + 12.0 * layers * width * sequence_length
