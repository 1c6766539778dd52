"""Sums.

python -m benchmarks.kernels.bench_reduce [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

from benchmarks.timing import check, compare, random_tensor, report, settings, torch
from llmcore import _core
from llmcore import functional as F

if __name__ == "__main__":
    for dtype in settings(__doc__):
        x = random_tensor((1024, 3072), dtype, 1)
        x.copy_(_core.scale(_core.mul(x, x), 1.0, 1.0))  # positive: the sum does not cancel
        compare("sum 1024 x 3072", dtype, [x], F.sum, lambda t: torch.sum(t.float()), lambda a: a.sum(), passes=1)
        total = _core.zeros((3072,))
        _core.add_column_sums(total, x)
        check(total, x.numpy().sum(0), 1e-5)
        run = {"llmcore": lambda x=x, total=total: _core.add_column_sums(total, x)}
        report("add_column_sums 1024 x 3072", dtype, run, nbytes=x.nbytes)
