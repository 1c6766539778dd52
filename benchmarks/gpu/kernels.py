"""Kernels on a GPU against torch and the device's copy bandwidth: `python -m benchmarks.gpu.kernels [--json FILE]`.

Every kernel is compared with float64 on the host, on its first rows, before it is timed. Its rate is in per cent of the
bandwidth of a copy on this device for what memory bounds, and in TFLOP/s for products.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.gpu.attention_kernels import attention_cases
from benchmarks.gpu.case import DEVICE, DTYPES, Case, compare, first_rows, on_torch, random_rows, torch
from benchmarks.gpu.row_kernels import row_cases
from benchmarks.gpu.timing import seconds_per_call
from llmcore import _core


def layernorm_cases(dtype: str, N: int, C: int) -> Iterator[Case]:
    x, dy = random_rows((N, C), dtype, 1), random_rows((N, C), dtype, 2)
    weight, bias = random_rows((C,), dtype, 3), random_rows((C,), dtype, 4)
    dweight, dbias = (_core.zeros((C,), device=DEVICE) for _ in range(2))
    _, mean, rstd = _core.layernorm_forward(x, weight, bias, 1e-5)
    tx, tdy, tweight, tbias = (on_torch(t) for t in (x, dy, weight, bias))
    w, b = weight.numpy().astype(np.float64), bias.numpy().astype(np.float64)
    rows, drows = first_rows(x), first_rows(dy)
    scale = 1 / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)
    normalised = (rows - rows.mean(-1, keepdims=True)) * scale

    def backward(dweight: _core.Tensor | None, dbias: _core.Tensor | None) -> _core.Tensor:
        return _core.layernorm_backward(dy, None, x, weight, mean, rstd, dweight, dbias)

    def check_forward() -> None:
        y = first_rows(_core.layernorm_forward(x, weight, bias, 1e-5)[0])
        compare("layernorm forward", y, normalised * w + b, dtype)

    def check_backward() -> None:
        g = drows * w
        centred = g - g.mean(-1, keepdims=True) - normalised * (g * normalised).mean(-1, keepdims=True)
        sums = _core.zeros((C,), device=DEVICE)
        compare("layernorm backward", first_rows(backward(None, sums)), scale * centred, dtype)
        compare("layernorm dbias", sums.numpy(), dy.numpy().astype(np.float64).sum(0), "float32")

    normalize = torch and tx is not None and torch.ops.aten.native_layer_norm
    differentiate = torch and tx is not None and torch.ops.aten.native_layer_norm_backward
    stats = normalize(tx, [C], tweight, tbias, 1e-5)[1:] if normalize else None
    yield Case(
        f"layernorm forward {N} x {C}", "layernorm", dtype, lambda: _core.layernorm_forward(x, weight, bias, 1e-5),
        check_forward, (lambda: normalize(tx, [C], tweight, tbias, 1e-5)) if normalize else None, 2.0 * x.nbytes,
    )  # fmt: skip
    yield Case(
        f"layernorm backward {N} x {C}", "layernorm", dtype, lambda: backward(dweight, dbias), check_backward,
        (lambda: differentiate(tdy, tx, [C], *stats, tweight, tbias, [True] * 3)) if differentiate else None,
        3.0 * x.nbytes,
    )  # fmt: skip


def add_cases(dtype: str, N: int, C: int) -> Iterator[Case]:
    a, b = random_rows((N, C), dtype, 1), random_rows((N, C), dtype, 2)
    ta, tb = on_torch(a), on_torch(b)
    yield Case(
        f"add {N} x {C}", "elementwise", dtype, lambda: _core.add(a, b),
        lambda: compare("add", first_rows(_core.add(a, b)), first_rows(a) + first_rows(b), dtype),
        (lambda: ta + tb) if ta is not None else None, 3.0 * a.nbytes,
    )  # fmt: skip


def matmul_cases(dtype: str, M: int, N: int, K: int) -> Iterator[Case]:
    a, b = random_rows((M, K), dtype, 1), random_rows((N, K), dtype, 2)
    ta, tb = on_torch(a), on_torch(b)

    def run() -> _core.Tensor:
        return _core.matmul(a, b, transpose_b=True)

    yield Case(
        f"matmul {M} x {N} x {K}, b transposed", "matmul", dtype, run,
        lambda: compare("matmul", first_rows(run()), first_rows(a) @ b.numpy().astype(np.float64).T, dtype),
        (lambda: ta @ tb.T) if ta is not None else None, flops=2.0 * M * N * K,
    )  # fmt: skip


def cross_entropy_cases(dtype: str, N: int, V: int) -> Iterator[Case]:
    logits = random_rows((N, V), dtype, 1)
    ids = np.random.default_rng(2).integers(0, V, N, dtype=np.int32)
    targets = _core.from_numpy(ids, None, DEVICE)
    options, one = _core.CrossEntropyOptions(-100, 0.0, None), _core.from_numpy(np.array(1.0), None, DEVICE)
    _, lse, scale = _core.cross_entropy_forward(logits, targets, options)
    tlogits = on_torch(logits)
    ttargets = torch.from_numpy(ids.astype(np.int64)).cuda() if tlogits is not None else None
    rows = first_rows(logits)
    expected = rows.max(-1) + np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1))

    def backward() -> _core.Tensor:
        return _core.cross_entropy_backward(one, logits, lse, scale, targets, options)

    def check_backward() -> None:
        gradient = np.exp(rows - expected[:, None])
        gradient[np.arange(len(rows)), ids[: len(rows)]] -= 1
        compare("cross_entropy backward", first_rows(backward()), gradient / N, dtype)

    yield Case(
        f"cross_entropy forward {N} x {V}", "cross_entropy", dtype,
        lambda: _core.cross_entropy_forward(logits, targets, options),
        lambda: compare("cross_entropy forward", first_rows(lse), expected, "float32"),
        (lambda: torch.nn.functional.cross_entropy(tlogits, ttargets)) if tlogits is not None else None, logits.nbytes,
    )  # fmt: skip
    yield Case(
        f"cross_entropy backward {N} x {V}", "cross_entropy", dtype, backward, check_backward, None, 2.0 * logits.nbytes
    )


def linear_cross_entropy_cases(dtype: str, N: int, V: int, C: int) -> Iterator[Case]:
    """Loss and both gradients of a language model's head: three products."""
    x, weight = random_rows((N, C), dtype, 1), random_rows((V, C), dtype, 2)
    ids = np.random.default_rng(3).integers(0, V, N, dtype=np.int32)
    targets, dweight = _core.from_numpy(ids, None, DEVICE), _core.zeros((V, C), device=DEVICE)
    options = _core.CrossEntropyOptions(-100, 0.0, None)

    def check() -> None:
        losses = first_rows(_core.linear_cross_entropy_per_token(x, weight, targets))
        logits = first_rows(x) @ weight.numpy().astype(np.float64).T
        largest = logits.max(-1)
        lse = largest + np.log(np.exp(logits - largest[:, None]).sum(-1))
        compare("linear_cross_entropy", losses, lse - logits[np.arange(len(lse)), ids[: len(lse)]], dtype)

    yield Case(
        f"linear_cross_entropy, fused {N} x {V} x {C}", "cross_entropy", dtype,
        lambda: _core.linear_cross_entropy_fused(x, weight, targets, dweight, True, options), check, None,
        flops=6.0 * N * V * C,
    )  # fmt: skip


def all_cases(small: bool) -> Iterator[Case]:
    for dtype in DTYPES:
        for N, C in [(40, 64)] if small else [(65536, 768), (16384, 4096)]:
            yield from layernorm_cases(dtype, N, C)
            yield from add_cases(dtype, N, C)
            yield from row_cases(dtype, N, C)
        yield from attention_cases(dtype, small)
        if "matmul" in _core.cuda_families():
            for M, N, K in [(40, 48, 64)] if small else [(4096, 4096, 4096), (8192, 3072, 768), (8192, 768, 3072)]:
                yield from matmul_cases(dtype, M, N, K)
        if "cross_entropy" in _core.cuda_families():
            for N, V in [(40, 65)] if small else [(8192, 50257), (8192, 50304)]:
                yield from cross_entropy_cases(dtype, N, V)
            N, V, C = (40, 65, 16) if small else (8192, 50257, 768)
            yield from linear_cross_entropy_cases(dtype, N, V, C)


def copy_bandwidth(nbytes: int, seconds: float) -> float:
    """Bytes read and written per second by a copy from the device to itself."""
    source = _core.zeros((nbytes // 4,), device=DEVICE)
    target = _core.empty((nbytes // 4,), device=DEVICE)
    once = seconds_per_call(lambda: target.copy_(source), lambda: _core.synchronize(DEVICE), seconds)
    return 2.0 * nbytes / once


def measure(case: Case, bandwidth: float, seconds: float) -> dict:
    case.check()
    ours = seconds_per_call(case.run, lambda: _core.synchronize(DEVICE), seconds)
    theirs = seconds_per_call(case.run_torch, torch.cuda.synchronize, seconds) if case.run_torch else None
    rate = f"{100 * case.nbytes / ours / bandwidth:.0f} %" if case.nbytes else f"{case.flops / ours / 1e12:.1f} TFLOP/s"
    return {
        "kernel": case.kernel,
        "dtype": case.dtype,
        "us": ours * 1e6,
        "torch_us": theirs and theirs * 1e6,
        "rate": rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--seconds", type=float, default=0.25, help="of measuring, for each kernel and opponent")
    parser.add_argument("--small", action="store_true", help="shapes that show that it runs, and nothing else")
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth(1 << (12 if arguments.small else 28), arguments.seconds)
    print(f"copy: {bandwidth / 1e9:.0f} GB/s; families with CUDA kernels: {', '.join(_core.cuda_families())}")
    results = []
    for case in all_cases(arguments.small):
        results.append(measure(case, bandwidth, arguments.seconds))
        print(results[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
