"""A long run needs no more memory at its end than at its beginning."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from llmcore import _core
from llmcore.training.callbacks import TrainerCallback

from .test_gpt2_training import make_model, make_trainer

STEPS = 1000
SETTLED = 200  # by then every buffer has been used once


class MemoryOfSteps(TrainerCallback):
    """Notes at each step what the process has resident and what the allocator holds, in bytes."""

    def __init__(self) -> None:
        self.resident: list[int] = []
        self.reserved: list[int] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.reserved.append(_core.memory_stats("cpu")["reserved"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_thousand_steps_do_not_grow(tmp_path, dtype):
    memory = MemoryOfSteps()
    settings = {"bf16": dtype == "bfloat16", "logging_steps": 100, "save_steps": 500}
    trainer = make_trainer(tmp_path, make_model(dropout=0.1), max_steps=STEPS, disable_tqdm=True, **settings)
    trainer.add_callback(memory)
    threads = _core.num_threads()
    _core.set_num_threads(1)  # a thousand steps this small would mostly wait for the other test processes' threads
    try:
        trainer.train()
    finally:
        _core.set_num_threads(threads)
    assert len(memory.resident) == STEPS
    assert memory.reserved[-1] == memory.reserved[SETTLED]
    early, late = (np.median(part) for part in (memory.resident[SETTLED : SETTLED + 100], memory.resident[-100:]))
    # a leak of one activation (8 x 32 x 32 floats) a step would be 26 MB; two checkpoints and ten log lines lie between
    assert late - early < 2_000_000
