"""How good is a model? `perplexity`: windows over text -> perplexity and bits per byte, each named by its windows."""

from __future__ import annotations

from llmcore.evaluation.perplexity import perplexity

__all__ = ["perplexity"]
