"""Running a model without training it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from llmcore.autograd import no_grad


@contextlib.contextmanager
def inference(model: Any) -> Iterator[None]:
    """Inside, nothing is recorded and dropout is off; afterwards the model trains on if it was training."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        with no_grad():
            yield
    finally:
        if was_training:
            model.train()


def context_length(model: Any) -> int | None:
    """How many tokens the model can see at once; None if nothing limits it."""
    for name in ("max_position_embeddings", "n_positions"):
        length = getattr(getattr(model, "config", None), name, None)
        if length is not None:
            return int(length)
    return None
