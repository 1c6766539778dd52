"""Cross-entropy, of logits and of x weight^T.

python -m benchmarks.kernels.bench_cross_entropy [--threads 1 2]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import as_torch, check, random_tensor, report, settings, torch
from llmcore import _core


def reference(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    largest = wide.max(-1)
    lse = largest + np.log(np.exp(wide - largest[:, None]).sum(-1))
    return np.asarray((lse - wide[np.arange(len(targets)), targets]).mean())


def bench_logits(dtype: _core.DType, N: int, V: int) -> None:
    logits = random_tensor((N, V), dtype, 1)
    ids = np.random.default_rng(2).integers(0, V, N)
    targets, options = _core.from_numpy(ids), _core.CrossEntropyOptions(-100, 0.0, None)
    check(_core.cross_entropy_forward(logits, targets, options)[0], reference(logits.numpy(), ids), 1e-5)
    one = _core.from_numpy(np.ones(()))

    def ours() -> None:
        _, lse, scale = _core.cross_entropy_forward(logits, targets, options)
        _core.cross_entropy_backward(one, logits, lse, scale, targets, options)

    def theirs() -> None:
        leaf.grad = None
        torch.nn.functional.cross_entropy(leaf, torch_ids).backward()

    if torch is not None:
        leaf, torch_ids = as_torch(logits).requires_grad_(), torch.tensor(ids)
    candidates = {"llmcore": ours, "torch": torch and theirs}
    report(f"cross_entropy, both passes {N} x {V}", dtype, candidates, nbytes=3.0 * logits.nbytes)


def bench_linear(dtype: _core.DType, N: int, V: int, C: int) -> None:
    # Weights as models have them: of normal ones most probabilities would be subnormal, and torch ten times slower.
    x, weight = random_tensor((N, C), dtype, 1), _core.from_numpy(0.02 * random_tensor((V, C), dtype, 2).numpy(), dtype)
    ids = np.random.default_rng(3).integers(0, V, N)
    targets, options = _core.from_numpy(ids), _core.CrossEntropyOptions(-100, 0.0, None)
    dweight = _core.zeros((V, C))
    loss, _ = _core.linear_cross_entropy_fused(x, weight, targets, dweight, True, options)
    check(loss, reference(x.numpy() @ weight.numpy().T, ids), 1e-4)

    def theirs() -> None:
        tx.grad = tw.grad = None
        logits = torch.nn.functional.linear(tx, tw)
        torch.nn.functional.cross_entropy(logits.float(), torch_ids).backward()

    if torch is not None:
        tx, tw, torch_ids = as_torch(x).requires_grad_(), as_torch(weight).requires_grad_(), torch.tensor(ids)
    report(
        f"linear_cross_entropy, fused {N} x {V} x {C}",
        dtype,
        {
            "llmcore": lambda: _core.linear_cross_entropy_fused(x, weight, targets, dweight, True, options),
            "torch": torch and theirs,
        },
        flops=6.0 * N * V * C,
    )
    report(
        f"linear_cross_entropy_per_token {N} x {V} x {C}",
        dtype,
        {"llmcore": lambda: _core.linear_cross_entropy_per_token(x, weight, targets)},
        flops=2.0 * N * V * C,
    )


if __name__ == "__main__":
    for each in settings(__doc__):
        for N, V in [(256, 50257), (4096, 65)]:
            bench_logits(each, N, V)
        for N, V, C in [(256, 50257, 768), (1024, 50257, 768), (4096, 4096, 384), (4096, 65, 384)]:
            bench_linear(each, N, V, C)
