"""matmul and the fused linear layer.

python -m benchmarks.kernels.bench_matmul [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import as_torch, check, random_tensor, report, settings, torch
from llmcore import _core

# GPT-2 small with 1024 tokens, its head, generation for 1 to 8 prompts, and narrow results: (M, N, K).
SHAPES = [(1024, 768, 3072), (1024, 3072, 768), (1024, 2304, 768), (1024, 768, 768), (256, 768, 768)]
SHAPES += [(256, 50257, 768), (32, 768, 768), (1024, 65, 384), (1024, 2, 768), (1024, 1, 768)]
SHAPES += [(M, N, K) for N, K in ((768, 768), (3072, 768), (768, 3072), (50257, 768)) for M in (1, 2, 4, 8)]
FORMS = {"a b": (False, False), "a b^T": (False, True), "a^T b": (True, False)}


def bench_products(dtype: _core.DType) -> None:
    for M, N, K in SHAPES:
        for form, (transpose_a, transpose_b) in FORMS.items():
            a = random_tensor((K, M) if transpose_a else (M, K), dtype, 1)
            b = random_tensor((N, K) if transpose_b else (K, N), dtype, 2)
            wide = [x.numpy()[: x.shape[0]] for x in (a, b)]
            rows = slice(0, min(M, 16))  # enough to see a wrong kernel, little enough to check
            left = wide[0][:, rows].T if transpose_a else wide[0][rows]
            expected = left @ (wide[1].T if transpose_b else wide[1])
            check(_core.matmul(a, b, transpose_a, transpose_b).narrow(0, rows.stop), expected, 1e-2)
            ta, tb = as_torch(a), as_torch(b)
            if torch is not None:
                ta, tb = ta.T if transpose_a else ta, tb.T if transpose_b else tb
            report(
                f"{form:<5} {M} x {N} x {K}",
                dtype,
                {
                    "llmcore": lambda a=a, b=b, t=(transpose_a, transpose_b): _core.matmul(a, b, *t),
                    "torch": torch and (lambda ta=ta, tb=tb: ta @ tb),
                },
                flops=2.0 * M * N * K,
            )


def bench_linear(dtype: _core.DType) -> None:
    M, N, K = 1024, 3072, 768
    x, weight, bias = random_tensor((M, K), dtype, 1), random_tensor((N, K), dtype, 2), random_tensor((N,), dtype, 3)
    plain, _ = _core.linear_forward(x, weight, bias, "", None, True, False)
    check(plain, x.numpy() @ weight.numpy().T + bias.numpy(), 1e-2)
    tx, tw, tb = as_torch(x), as_torch(weight), as_torch(bias)

    def theirs() -> None:
        linear = torch.nn.functional.linear
        torch.nn.functional.gelu(linear(tx, tw, tb), approximate="tanh")

    report(
        f"linear + gelu_new {M} x {N} x {K}",
        dtype,
        {
            "llmcore": lambda: _core.linear_forward(x, weight, bias, "gelu_new", None, True, True),
            "torch": torch and theirs,
        },
        flops=2.0 * M * N * K,
    )
    dy, dbias = random_tensor((M, N), dtype, 4), _core.zeros((N,))
    report(
        f"bias_activation_backward {M} x {N}",
        dtype,
        {"llmcore": lambda: _core.bias_activation_backward(dy, plain, "gelu_new", dbias)},
        nbytes=3.0 * dy.nbytes,
    )
    back = random_tensor((M, K), dtype, 5)
    report(
        f"linear_activation_backward {M} x {N} x {K}",
        dtype,
        {"llmcore": lambda: _core.linear_activation_backward(back, weight.view((K, N)), dy, "gelu_new", True, dbias)},
        flops=2.0 * M * N * K,
    )
    dweight = _core.zeros((N, K))
    _core.matmul_add(dweight, dy, x, True, False)
    check(dweight, dy.numpy().T @ x.numpy(), 1e-4)
    report(
        f"dweight += dy^T x {N} x {K} x {M}",
        dtype,
        {"llmcore": lambda: _core.matmul_add(dweight, dy, x, True, False)},
        flops=2.0 * M * N * K,
    )


if __name__ == "__main__":
    np.seterr(all="ignore")
    for each in settings(__doc__):
        bench_products(each)
        bench_linear(each)
