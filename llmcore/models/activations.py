"""Activations under the names that configurations use."""

from __future__ import annotations

from llmcore.errors import ConfigError

# Hugging Face's name -> the name in functional.linear
ACTIVATIONS = {
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
}


def check_activation(field: str, name: str) -> None:
    """Raises ConfigError for an activation that is not known here."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"{field} must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
