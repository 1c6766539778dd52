"""Cases of the kernels that go row by row or element by element: embedding, rmsnorm, rope, the gradient norm, AdamW."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.gpu.case import DEVICE, DTYPES, Case, compare, first_rows, on_torch, random_rows, torch
from llmcore import _core


def zipf_ids(N: int, V: int) -> np.ndarray:
    """Ids as in text: the commonest is a few per cent of all."""
    return (np.random.default_rng(5).zipf(1.1, N) % V).astype(np.int32)


def embedding_cases(dtype: str, N: int, C: int) -> Iterator[Case]:
    V = min(50304, 8 * N)
    ids, weight, dy = zipf_ids(N, V), random_rows((V, C), dtype, 1), random_rows((N, C), dtype, 2)
    there, dweight = _core.from_numpy(ids, None, DEVICE), _core.zeros((V, C), device=DEVICE)
    tids, tweight, tdy = (on_torch(tensor) for tensor in (there, weight, dy))

    def check_backward() -> None:
        sums, rows = _core.zeros((V, C), device=DEVICE), dy.numpy().astype(np.float64)
        _core.embedding_backward(sums, dy, there)
        common = int(np.bincount(ids).argmax())
        compare("embedding backward", sums.narrow(common, 1).numpy()[0], rows[ids == common].sum(0), "float32")

    yield Case(
        f"embedding forward {N} x {C}", "embedding", dtype, lambda: _core.embedding_forward(there, weight),
        lambda: compare("embedding", first_rows(_core.embedding_forward(there, weight)),
                        weight.numpy()[ids[:16]].astype(np.float64), dtype),
        (lambda: torch.nn.functional.embedding(tids, tweight)) if tids is not None else None, 2.0 * dy.nbytes,
    )  # fmt: skip
    differentiate = tids is not None and torch.ops.aten.embedding_dense_backward
    yield Case(
        f"embedding backward {N} x {C}", "embedding", dtype, lambda: _core.embedding_backward(dweight, dy, there),
        check_backward, (lambda: differentiate(tdy, tids, V, -1, False)) if differentiate else None,
        1.0 * dy.nbytes + 8.0 * C * len(np.unique(ids)),
    )  # fmt: skip


def rmsnorm_cases(dtype: str, N: int, C: int) -> Iterator[Case]:
    x, dy, weight = (random_rows(shape, dtype, seed) for seed, shape in enumerate([(N, C), (N, C), (C,)]))
    dweight = _core.zeros((C,), device=DEVICE)
    _, rstd = _core.rmsnorm_forward(x, weight, 1e-6)
    tx, tweight = on_torch(x), on_torch(weight)
    rows, w = first_rows(x), weight.numpy().astype(np.float64)
    scale = 1 / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-6)

    def backward() -> _core.Tensor:
        return _core.rmsnorm_backward(dy, None, x, weight, rstd, dweight)

    def check_backward() -> None:
        g = first_rows(dy) * w
        normalised = rows * scale
        expected = scale * (g - normalised * (g * normalised).mean(-1, keepdims=True))
        compare("rmsnorm backward", first_rows(backward()), expected, dtype)

    yield Case(
        f"rmsnorm forward {N} x {C}", "rmsnorm", dtype, lambda: _core.rmsnorm_forward(x, weight, 1e-6),
        lambda: compare("rmsnorm", first_rows(_core.rmsnorm_forward(x, weight, 1e-6)[0]), rows * scale * w, dtype),
        (lambda: torch.nn.functional.rms_norm(tx, [C], tweight, 1e-6)) if tx is not None else None, 2.0 * x.nbytes,
    )  # fmt: skip
    yield Case(f"rmsnorm backward {N} x {C}", "rmsnorm", dtype, backward, check_backward, None, 3.0 * x.nbytes)


def rope_cases(dtype: str, N: int, C: int) -> Iterator[Case]:
    head = 64
    T = min(N, 1024)
    x = random_rows((N, C), dtype, 1)
    angles = np.arange(T)[:, None] * 10000.0 ** -np.linspace(0, 1, head // 2)[None, :]
    cos, sin = (_core.from_numpy(f(angles).astype(np.float32), None, DEVICE) for f in (np.cos, np.sin))

    def run() -> _core.Tensor:
        return _core.rope_forward(x.view((N // T, T, C)), cos, sin, None, head, C // head)

    def check() -> None:
        rows = first_rows(x)
        pairs = rows.reshape(len(rows), -1, 2, head // 2)
        c, s = (t.numpy()[: len(rows), None].astype(np.float64) for t in (cos, sin))
        low, high = pairs[:, :, 0] * c - pairs[:, :, 1] * s, pairs[:, :, 1] * c + pairs[:, :, 0] * s
        expected = np.stack([low, high], 2).reshape(rows.shape)
        compare("rope", first_rows(run().view((N, C))), expected, dtype)

    yield Case(f"rope forward {N} x {C}", "rope", dtype, run, check, None, 2.0 * x.nbytes)


def update_cases(dtype: str, n: int) -> Iterator[Case]:
    """The gradient norm, and AdamW with masters or, for bfloat16, with stochastic rounding, too."""
    grads = random_rows((n,), "float32", 1)
    values = grads.numpy().astype(np.float64)
    if dtype == "float32":
        tgrads = on_torch(grads)
        yield Case(
            f"gradient norm of {n}", "norm", dtype, lambda: _core.global_norm([grads]),
            lambda: compare("norm", _core.global_norm([grads]).numpy(), np.sqrt((values**2).sum(keepdims=True)), dtype),
            (lambda: torch.linalg.vector_norm(tgrads)) if tgrads is not None else None, 1.0 * grads.nbytes,
        )  # fmt: skip
    for rounding_seed in (None,) if dtype == "float32" else (None, 1):
        params = _core.zeros((n,), DTYPES[dtype], DEVICE)
        with_master = dtype == "bfloat16" and rounding_seed is None
        master = _core.zeros((n,), device=DEVICE) if with_master else None
        m, v = (_core.zeros((n,), device=DEVICE) for _ in "mv")

        def run(step: int = 1, params=params, master=master, m=m, v=v, seed=rounding_seed) -> None:
            _core.adamw_step(params, master, grads, m, v, 1e-3, 0.9, 0.95, 1e-8, 0.1, step, rounding_seed=seed)

        def check(params=params, run=run) -> None:
            run()  # from zero, the first step is the learning rate against the sign of the gradient
            compare("adamw", params.numpy().astype(np.float64), -1e-3 * np.sign(values), "bfloat16")

        name = "with masters" if with_master else "rounded stochastically" if rounding_seed else "plain"
        nbytes = {"with masters": 30.0, "rounded stochastically": 24.0, "plain": 28.0}[name] * n  # read and written
        yield Case(f"adamw of {n}, {name}", "optimizer", dtype, run, check, None, nbytes)


def row_cases(dtype: str, N: int, C: int) -> Iterator[Case]:
    yield from embedding_cases(dtype, N, C)
    yield from rmsnorm_cases(dtype, N, C)
    yield from rope_cases(dtype, N, C)
    yield from update_cases(dtype, N * C)
