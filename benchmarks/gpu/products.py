"""Products of a training step of GPT-2 124M against cuBLAS: `python -m benchmarks.gpu.products [--json FILE]`.

bfloat16 operands drawn uniformly from (-1, 1), several sets of them in turn, so that none comes from the cache; times
are medians (benchmarks/gpu/timing.py), both sides in one process. Twice the twelve products of the four linear layers:
plain, and with what a training step has after them, in our epilogue and as torch's separate kernels. Then squares. A
corner of every plain product is compared with float64 before it is timed.

LLMCORE_MATMUL=sm90 chooses our Hopper products. torch is needed for a comparison; without it, only ours are timed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.case import DEVICE, compare, torch
from benchmarks.gpu.timing import seconds_per_call
from llmcore import _core

SETS = 3
CORNER = 16


class Operand:
    """(rows, columns) bfloat16 on the device, for both sides the same memory.

    Attributes:
        ours: the tensor.
        torch: torch's view of it; None where torch has no CUDA.
    """

    def __init__(self, rows: int, columns: int, seed: int):
        if torch is not None and torch.cuda.is_available():
            generator = torch.Generator(DEVICE).manual_seed(seed)
            empty = torch.empty(rows, columns, device=DEVICE, dtype=torch.bfloat16)
            self.torch = empty.uniform_(-1, 1, generator=generator)
            torch.cuda.synchronize()
            self.ours = _core.from_dlpack(self.torch)
        else:
            values = np.random.default_rng(seed).uniform(-1, 1, (rows, columns)).astype(np.float32)
            self.torch, self.ours = None, _core.from_numpy(values, _core.DType.bfloat16, DEVICE)

    def values(self, rows: int | None, columns: int | None) -> np.ndarray:
        """The first rows and columns in float64."""
        if self.torch is None:
            return self.ours.numpy()[:rows, :columns].astype(np.float64)
        return self.torch[:rows, :columns].double().cpu().numpy()


@dataclass
class Product:
    """`run` and `run_torch` take the number of a set of operands; `check` raises if `run` is wrong."""

    name: str
    fused: bool
    flops: float
    run: Callable[[int], Any]
    run_torch: Callable[[int], Any] | None
    check: Callable[[], None] | None = None


def operands(rows: int, columns: int, seed: int) -> list[Operand]:
    return [Operand(rows, columns, seed + 100 * number) for number in range(SETS)]


def forward(name: str, tokens: int, out: int, inner: int) -> Iterator[Product]:
    """y = x w^T; fused: + bias, GELU with what it was taken of, + residual, as the layer has it."""
    x, w, residual = operands(tokens, inner, 1), operands(out, inner, 2), operands(tokens, out, 3)
    bias = Operand(1, out, 4)
    has_torch = bias.torch is not None

    def plain(i: int) -> Any:
        return _core.matmul(x[i].ours, w[i].ours, transpose_b=True)

    def fused(i: int) -> Any:
        activation = "gelu_new" if name == "up" else ""
        beside = residual[i].ours if name in ("attention output", "down") else None
        row = bias.ours.view((out,))
        return _core.linear_forward(x[i].ours, w[i].ours, row, activation, beside, True, bool(activation))

    def torch_fused(i: int) -> Any:
        y = torch.nn.functional.linear(x[i].torch, w[i].torch, bias.torch[0])
        if name == "up":
            return y, torch.nn.functional.gelu(y, approximate="tanh")
        return y + residual[i].torch if name in ("attention output", "down") else y

    def check() -> None:
        expected = x[0].values(CORNER, None) @ w[0].values(CORNER, None).T
        compare(f"{name} forward", plain(0).numpy()[:CORNER, :CORNER].astype(np.float64), expected, "bfloat16")

    flops = 2.0 * tokens * out * inner
    title = f"{name} forward {tokens} x {out} x {inner}"
    yield Product(title, False, flops, plain, (lambda i: x[i].torch @ w[i].torch.T) if has_torch else None, check)
    yield Product(title, True, flops, fused, torch_fused if has_torch else None)


def to_input(name: str, tokens: int, out: int, inner: int) -> Iterator[Product]:
    """dx = dy w; fused: back through GELU, with the sums that are the bias's gradient."""
    dy, w, pre = operands(tokens, out, 5), operands(out, inner, 6), operands(tokens, inner, 7)
    dbias = _core.zeros((inner,), device=DEVICE)
    has_torch = dy[0].torch is not None

    def plain(i: int) -> Any:
        return _core.matmul(dy[i].ours, w[i].ours)

    def fused(i: int) -> Any:
        if name != "down":
            return plain(i)
        return _core.linear_activation_backward(dy[i].ours, w[i].ours, pre[i].ours, "gelu_new", True, dbias)

    def torch_fused(i: int) -> Any:
        dx = dy[i].torch @ w[i].torch
        if name != "down":
            return dx
        dpre = torch.ops.aten.gelu_backward(dx, pre[i].torch, approximate="tanh")
        return dpre, dpre.sum(0)

    def check() -> None:
        expected = dy[0].values(CORNER, None) @ w[0].values(None, CORNER)
        compare(f"{name} to input", plain(0).numpy()[:CORNER, :CORNER].astype(np.float64), expected, "bfloat16")

    flops = 2.0 * tokens * out * inner
    title = f"{name} back to the input {tokens} x {inner} x {out}"
    yield Product(title, False, flops, plain, (lambda i: dy[i].torch @ w[i].torch) if has_torch else None, check)
    yield Product(title, True, flops, fused, torch_fused if has_torch else None)


def to_weight(name: str, tokens: int, out: int, inner: int) -> Iterator[Product]:
    """dw = dy^T x in float (torch: bfloat16, which is less to write); fused: added to a float gradient."""
    dy, x = operands(tokens, out, 8), operands(tokens, inner, 9)
    gradient = _core.zeros((out, inner), device=DEVICE)
    has_torch = dy[0].torch is not None
    total = torch.zeros(out, inner, device=DEVICE) if has_torch else None

    def run(i: int, accumulate: bool) -> Any:
        _core.matmul_add(gradient, dy[i].ours, x[i].ours, transpose_a=True, accumulate=accumulate)
        return gradient

    def check() -> None:
        expected = dy[0].values(None, CORNER).T @ x[0].values(None, CORNER)
        compare(f"{name} to weight", run(0, False).numpy()[:CORNER, :CORNER].astype(np.float64), expected, "bfloat16")

    flops = 2.0 * tokens * out * inner
    title = f"{name} back to the weight {out} x {inner} x {tokens}"
    plain_torch = (lambda i: dy[i].torch.T @ x[i].torch) if has_torch else None
    added_torch = (lambda i: total.add_(dy[i].torch.T @ x[i].torch)) if has_torch else None
    yield Product(title, False, flops, lambda i: run(i, False), plain_torch, check)
    yield Product(title, True, flops, lambda i: run(i, True), added_torch)


def square(size: int) -> Iterator[Product]:
    (product, _) = forward("square", size, size, size)
    product.name = f"square {size}"
    yield product


def all_products(small: bool) -> Iterator[Product]:
    C, tokens = (64, 80) if small else (768, 65536)
    for name, out, inner in (("qkv", 3 * C, C), ("attention output", C, C), ("up", 4 * C, C), ("down", C, 4 * C)):
        for direction in (forward, to_input, to_weight):
            yield from direction(name, tokens, out, inner)
    for size in (128,) if small else (4096, 8192):
        yield from square(size)


def measure(product: Product, seconds: float) -> dict:
    if product.check is not None:
        product.check()

    def time_of(run: Callable[[int], Any], synchronize: Callable[[], Any]) -> float:
        numbers = itertools.cycle(range(SETS))
        return seconds_per_call(lambda: run(next(numbers)), synchronize, seconds)

    ours = time_of(product.run, lambda: _core.synchronize(DEVICE))
    theirs = time_of(product.run_torch, torch.cuda.synchronize) if product.run_torch else None
    return {
        "kernel": product.name + (", fused" if product.fused else ""),
        "dtype": "bfloat16",
        "us": ours * 1e6,
        "torch_us": theirs and theirs * 1e6,
        "rate": f"{product.flops / ours / 1e12:.1f} TFLOP/s",
    }


def summary(results: list[dict]) -> list[str]:
    """The geometric means over the twelve products, plain and fused."""
    lines = []
    for fused in (False, True):
        twelve = [r for r in results if r["kernel"].endswith(", fused") == fused and "square" not in r["kernel"]]
        ratios = [r["torch_us"] / r["us"] for r in twelve if r["torch_us"]]
        mean = f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f}" if ratios else "not measured"
        lines.append(f"{'fused' if fused else 'plain'}: {mean} of torch, geometric mean over {len(twelve)} products")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--seconds", type=float, default=0.25, help="of measuring, for each product and side")
    parser.add_argument("--small", action="store_true", help="shapes that show that it runs, and nothing else")
    arguments = parser.parse_args()
    results = []
    for product in all_products(arguments.small):
        results.append(measure(product, arguments.seconds))
        print(results[-1], flush=True)
    print(*summary(results), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
