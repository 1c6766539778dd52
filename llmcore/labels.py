"""The one value of a label that says: nothing is learned or measured here."""

from __future__ import annotations

IGNORE_INDEX = -100  # as in PyTorch and transformers
