"""Floating point operations per trained token, to hold a run's speed against the machine's matmul peak."""

from __future__ import annotations

from typing import Any


def flops_per_token(model: Any, sequence_length: int) -> float | None:
    """Operations of one trained token, forward and backward, by the usual count (Chowdhery et al. 2022, appendix B).

    6 per parameter, without embeddings unless they are the head, and 12 L C T for the attention scores. Recomputed
    activations are not counted: they are no progress. None for an unknown architecture.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "dimensions"):
        return None
    sizes = config.dimensions()
    return 6.0 * (sizes.multiplied + sizes.vectors) + 12.0 * sizes.layers * sizes.attention_width * sequence_length
