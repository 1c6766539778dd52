"""The profile of a training step: per op, how long it takes and how far it is from what the machine can do."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

from llmcore import _core
from llmcore.machine import matmul_peak_flops, memory_bandwidth
from llmcore.profiling.recorder import Call, record

BETWEEN = "(between ops)"  # Python, and what reads the batch


@dataclasses.dataclass
class Row:
    """An op's part of one step. `limit` says which limit binds, `percent` how much of it is reached (0: no limit)."""

    op: str
    shape: str
    calls: float
    seconds: float
    flops: float
    nbytes: float
    limit: str
    percent: float
    share: float

    @property
    def rate(self) -> float:
        """Operations or bytes a second, whichever is limited."""
        return (self.flops if self.limit == "matmul" else self.nbytes) / self.seconds if self.seconds else 0.0


@dataclasses.dataclass
class StepProfile:
    """Rows by falling time, whose shares of `seconds` add up to 1.

    `seconds` of a step while it was recorded, without the time of writing down; `plain_seconds` of one with a clock
    alone.
    """

    seconds: float
    plain_seconds: float
    rows: list[Row]


def profile_step(
    step: Callable[[], Any], steps: int = 5, by_shape: bool = False, device: str = "cpu", warm_up: int = 2
) -> StepProfile:
    """Runs `step` `warm_up` times, `steps` times with a clock alone and `steps` times recorded.

    With `by_shape` an op has one row for each shape. The limit of a call is the larger of two times: its operations at
    the rate of `matmul_peak_flops`, its bytes at that of `memory_bandwidth` for as many bytes.
    """
    for _ in range(warm_up):
        step()
    plain = []
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        _core.synchronize(device)
        plain.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    with record() as recording:
        for _ in range(steps):
            step()
    seconds = (time.perf_counter() - begin - recording.overhead) / steps
    return StepProfile(seconds, statistics.median(plain), _rows(recording.calls, seconds, steps, by_shape, device))


def _rows(calls: list[Call], seconds: float, steps: int, by_shape: bool, device: str) -> list[Row]:
    groups: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        key = (call.op, call.cost.shape if by_shape else "")
        groups.setdefault(key, []).append(call)
    rows = [_row(op, shape, group, seconds, steps, device) for (op, shape), group in groups.items()]
    rows.sort(key=lambda row: -row.seconds)
    between = max(0.0, seconds - sum(row.seconds for row in rows))
    rows.append(Row(BETWEEN, "", 0, between, 0.0, 0.0, "", 0.0, between / seconds))
    return rows


def _row(op: str, shape: str, calls: list[Call], seconds: float, steps: int, device: str) -> Row:
    taken = sum(call.seconds for call in calls)
    by_flops = sum(call.cost.flops / matmul_peak_flops(call.cost.dtype, device) for call in calls if call.cost.flops)
    by_bytes = sum(call.cost.nbytes / memory_bandwidth(call.cost.nbytes, device) for call in calls if call.cost.nbytes)
    at_best = sum(_limit(call, device) for call in calls)
    limit = "" if not at_best else "matmul" if by_flops >= by_bytes else "memory"
    return Row(
        op=op,
        shape=shape,
        calls=len(calls) / steps,
        seconds=taken / steps,
        flops=sum(call.cost.flops for call in calls) / steps,
        nbytes=sum(call.cost.nbytes for call in calls) / steps,
        limit=limit,
        percent=100 * at_best / taken if taken else 0.0,
        share=taken / steps / seconds,
    )


def _limit(call: Call, device: str) -> float:
    """Seconds that the call would take at the machine's limit."""
    cost = call.cost
    by_flops = cost.flops / matmul_peak_flops(cost.dtype, device) if cost.flops else 0.0
    return max(by_flops, cost.nbytes / memory_bandwidth(cost.nbytes, device) if cost.nbytes else 0.0)


def language_model_step(
    model: Any, optimizer: Any, ids: Any, labels: Any, items: int | None, max_grad_norm: float = 1.0
) -> Callable[[], float]:
    """A step as the Trainer makes it: loss, gradients, their norm, clipping, update; returns the loss.

    `items` is the number of predicted tokens, for a model that takes it; None lets the model count.
    """
    options = {} if items is None else {"num_items_in_batch": items}

    def step() -> float:
        optimizer.zero_grad()
        loss = model(ids, labels=labels, **options).loss
        loss.backward()
        norm = optimizer.grad_norm()
        optimizer.step(grad_scale=_core.clip_factor(norm, max_grad_norm) if max_grad_norm else None)
        return loss.item()

    return step
