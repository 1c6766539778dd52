"""Whether GPT-2 trains on a GPU as it does on the CPU: `python -m benchmarks.gpu.loss_curve [--json FILE]`.

The same weights, batches and dropout masks on both, float32 and bfloat16 with float32 master weights: the losses of
every step, and the greatest difference. The text is this Python's standard library, a token per byte. Exits with 1 if a
difference is beyond what the order of sums explains: 1e-3 in float32, 1e-2 in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from llmcore import _core
from llmcore.models import GPT2Config, GPT2LMHeadModel
from llmcore.optim import AdamW

ALLOWED = {"float32": 1e-3, "bfloat16": 1e-2}
WARM_UP = 10  # steps


def text(length: int) -> np.ndarray:
    """The first bytes of the modules beside `os`, in the order of their names."""
    found = b""
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        found += path.read_bytes()
        if len(found) >= length:
            break
    return np.frombuffer(found[:length], np.uint8).astype(np.int32)


def losses(device: str, sizes: dict[str, int], dtype: _core.DType, batches: np.ndarray) -> list[float]:
    """Loss of each step; batches (steps, B, T)."""
    model = GPT2LMHeadModel(GPT2Config(**sizes), seed=1, device=device)
    model.train()
    optimizer = AdamW(model, weight_decay=0.1, dtype=dtype)
    trained = batches.shape[1] * (batches.shape[2] - 1)
    found = []
    for step, ids in enumerate(batches):
        optimizer.zero_grad()
        loss = model(ids, labels=ids, num_items_in_batch=trained).loss
        loss.backward()
        optimizer.step(6e-4 * min(1.0, (step + 1) / WARM_UP), _core.clip_factor(optimizer.grad_norm(), 1.0))
        model.generator.step += 1
        found.append(loss.item())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the losses")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--small", action="store_true", help="a small model, to show that it runs")
    arguments = parser.parse_args()
    sizes = dict(n_layer=2, n_embd=64, n_head=2, vocab_size=256) if arguments.small else {}
    shape = (arguments.steps, 2, 32) if arguments.small else (arguments.steps, 4, 128)
    batches = text(int(np.prod(shape))).reshape(shape)
    record, apart = [], []
    for name, allowed in ALLOWED.items():
        dtype = getattr(_core.DType, name)
        cpu, cuda = (losses(device, sizes, dtype, batches) for device in ("cpu", "cuda"))
        difference = float(np.abs(np.subtract(cpu, cuda)).max())
        what = f"GPT-2 {'(small)' if arguments.small else '124M'} {name}, {len(cpu)} steps"
        print(f"{what}: loss {cpu[0]:.4f} to {cpu[-1]:.4f} on the CPU, to {cuda[-1]:.4f} on the GPU;")
        print(f"  greatest difference {difference:.1e} (allowed {allowed:g})")
        record.append({"what": what, "cpu": cpu, "cuda": cuda, "greatest_difference": difference})
        if not difference <= allowed:
            apart.append(name)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if apart:
        raise SystemExit(f"the losses in {' and '.join(apart)} are too far apart")


if __name__ == "__main__":
    main()
