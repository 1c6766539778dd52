"""Where the time of a training step goes: every kernel call with its operations and bytes, and the machine's limits."""

from __future__ import annotations

from llmcore.profiling.recorder import Call, Recording, record
from llmcore.profiling.step import StepProfile, profile_step

__all__ = ["Call", "Recording", "StepProfile", "profile_step", "record"]
