"""llmcore: train language models with kernels written by hand."""

from __future__ import annotations

__version__ = "0.1.0"
