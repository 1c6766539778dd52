"""Training steps of GPT-2 on a GPU against torch: `python -m benchmarks.gpu.training [--json FILE]`.

bfloat16 with float32 master weights, AdamW, tokens at random; torch runs transformers' model, eager, under autocast.
Ours comes as the trainer does it, replaying a CUDA graph, and once more kernel by kernel.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.gpu.timing import seconds_per_call
from llmcore import _core

DEVICE = "cuda"
LEARNING_RATE = 1e-4


def batches(vocabulary: int, B: int, T: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    while True:
        yield random.integers(0, vocabulary, (B, T), dtype=np.int32)


def llmcore_step(sizes: dict[str, int], B: int, T: int, captured: bool) -> Callable[[], None]:
    from llmcore.models import GPT2Config, GPT2LMHeadModel
    from llmcore.optim import AdamW
    from llmcore.training.step_graphs import StepGraphs

    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config, seed=1, device=DEVICE)
    optimizer = AdamW(model, LEARNING_RATE, dtype=_core.DType.bfloat16)
    source = batches(config.vocab_size, B, T)
    graphs = StepGraphs(model, [model.generator])

    def step() -> None:
        ids = next(source)
        optimizer.zero_grad()
        batch = model.device_batch(ids, ids, num_items_in_batch=B * (T - 1))
        if captured:
            graphs.loss_and_gradients(batch)
        else:
            model.loss_of(batch).backward()
        optimizer.step()

    return step


def torch_step(sizes: dict[str, int], B: int, T: int) -> Callable[[], None]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    source = batches(config.vocab_size, B, T)

    def step() -> None:
        ids = torch.from_numpy(next(source)).long().to(DEVICE)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def tokens_per_second(
    step: Callable[[], None], synchronize: Callable[[], object], tokens: int, seconds: float
) -> float:
    return tokens / seconds_per_call(step, synchronize, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--seconds", type=float, default=8.0, help="of measuring, for each opponent")
    parser.add_argument("--small", action="store_true", help="a small model, to show that it runs")
    arguments = parser.parse_args()
    sizes = dict(n_layer=2, n_embd=64, n_head=2, vocab_size=128) if arguments.small else {}
    B, T = (2, 32) if arguments.small else (8, 1024)
    ours, one_by_one = (
        tokens_per_second(
            llmcore_step(sizes, B, T, captured), lambda: _core.synchronize(DEVICE), B * T, arguments.seconds
        )
        for captured in (True, False)
    )
    import torch

    theirs = None
    if torch.cuda.is_available():
        theirs = tokens_per_second(torch_step(sizes, B, T), torch.cuda.synchronize, B * T, arguments.seconds)
    what = f"GPT-2 {'(small)' if arguments.small else '124M'} bfloat16, {B} x {T} tokens a step"
    result = [
        {"what": what, "tokens_per_s": ours, "torch_tokens_per_s": theirs},
        {"what": f"{what}, without CUDA graphs", "tokens_per_s": one_by_one, "torch_tokens_per_s": theirs},
    ]
    print(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
