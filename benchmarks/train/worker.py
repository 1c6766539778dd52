"""One opponent in a process of its own, which makes training steps when it is told to.

    python -m benchmarks.train.worker OPPONENT WORKLOAD DTYPE THREADS [WEIGHTS_FOLDER]

Prints a line of JSON after its first step. Then it reads a number of steps from each line of its input, makes them and
answers with a line: seconds and loss of each step, page faults, and the most memory that the process ever had. It waits
without computing, so the others have the machine to themselves. Without a folder the weights are random.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.train.workloads import (
    BETA1,
    BETA2,
    EPSILON,
    IGNORE,
    LEARNING_RATE,
    WEIGHT_DECAY,
    WORKLOADS,
    Workload,
    decays,
)

Step = Callable[[int], float]  # makes the step of this number, returns its loss


def llmcore_step(workload: Workload, dtype: str, threads: int, weights: Path | None) -> Step:
    """Training with llmcore; in bfloat16 with float32 master weights."""
    from llmcore import _core
    from llmcore.models import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel
    from llmcore.optim import AdamW

    _core.set_num_threads(threads)
    bert = workload.architecture == "bert"
    model_class, config_class = (BertForMaskedLM, BertConfig) if bert else (GPT2LMHeadModel, GPT2Config)
    if weights is None:
        model = model_class(config_class(**workload.config()), seed=1)
    else:
        model = model_class.from_pretrained(weights)
    optimizer = AdamW(
        model,
        LEARNING_RATE,
        beta1=BETA1,
        beta2=BETA2,
        epsilon=EPSILON,
        weight_decay=WEIGHT_DECAY,
        decays=lambda name, parameter: decays(name, len(parameter.shape)),
        dtype=_core.DType.bfloat16 if dtype == "bfloat16" else None,
    )
    model.train()
    batches = workload.batches()

    def step(index: int) -> float:
        ids, labels = batches[index % len(batches)]
        optimizer.zero_grad()
        # With the number of predicted tokens the loss computes its gradients at once, as it does for the Trainer.
        items = {} if bert else {"num_items_in_batch": labels[:, 1:].size}
        loss = model(ids, labels=labels, **items).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_step(workload: Workload, dtype: str, threads: int, weights: Path | None, compiled: bool) -> Step:
    """Training with PyTorch: autocast to bfloat16 if that is asked for, fused AdamW."""
    import torch

    from benchmarks.train import torch_models

    torch.set_num_threads(threads)
    model = torch_models.build(workload)
    if weights is not None:
        torch_models.load(model, workload, weights)
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if decays(name, p.dim())], "weight_decay": WEIGHT_DECAY},
        {"params": [p for name, p in named if not decays(name, p.dim())], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)
    forward = torch.compile(model) if compiled else model
    batches = []
    for ids, labels in workload.batches():
        targets = torch.from_numpy(labels).clone()
        if workload.architecture != "bert":
            targets[:, :-1], targets[:, -1] = torch.from_numpy(labels[:, 1:]), IGNORE
        batches.append((torch.from_numpy(ids), targets))

    def step(index: int) -> float:
        ids, targets = batches[index % len(batches)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def peak_memory() -> int:
    """Bytes: the high-water mark of this process's resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> None:
    opponent, name, dtype, threads = sys.argv[1:5]
    weights = Path(sys.argv[5]) if len(sys.argv) > 5 else None
    # Whatever a library prints must not get between the lines of JSON.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if opponent == "llmcore":
        step = llmcore_step(WORKLOADS[name], dtype, int(threads), weights)
    else:
        step = torch_step(WORKLOADS[name], dtype, int(threads), weights, compiled=opponent != "torch-eager")
    done = 0
    for line in itertools.chain(["1"], sys.stdin):
        seconds, losses, faults_before = [], [], page_faults()
        for _ in range(int(line)):
            begin = time.perf_counter()
            losses.append(step(done))
            seconds.append(time.perf_counter() - begin)
            done += 1
        faults = page_faults() - faults_before
        answer = {"seconds": seconds, "losses": losses, "faults": faults, "peak_memory": peak_memory()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
