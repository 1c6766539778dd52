"""The exceptions of llmcore. Each is also the built-in that callers would expect, so `except ValueError` works."""

from __future__ import annotations


class LlmcoreError(Exception):
    """Base of everything that llmcore raises on purpose."""


class OutOfMemoryError(LlmcoreError, MemoryError):
    """A device or the machine has too little memory for a request."""


class ConfigError(LlmcoreError, ValueError):
    """A setting is unknown, of the wrong type, or does not go with another one."""


class CheckpointError(LlmcoreError, OSError):
    """A checkpoint could not be written, or what was found is incomplete or altered."""


class DataError(LlmcoreError, ValueError):
    """Training data could not be read, or is not what it says it is."""
