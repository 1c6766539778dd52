"""The instruction-set levels: one can be forced, all agree, and none leaks into another's symbols."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cases import BFLOAT16, FLOAT32, TOLERANCE

ROOT = Path(__file__).parents[2]
LEVELS = ["baseline", "avx2", "avx512", "avx512_bf16", "amx"]


def run(code: str, isa: str | None) -> subprocess.CompletedProcess[bytes]:
    environment = {key: value for key, value in os.environ.items() if key != "LLMCORE_ISA"}
    if isa is not None:
        environment["LLMCORE_ISA"] = isa
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, timeout=120)


def best_level() -> str:
    return run("from llmcore import _core; print(_core.cpu_isa())", None).stdout.decode().strip()


def levels_here() -> list[str]:
    return LEVELS[: LEVELS.index(best_level()) + 1]


def test_the_best_level_is_the_default():
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    expected = "baseline"
    if {"avx2", "fma"} <= set(flags):
        expected = "avx2"
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"} <= set(flags):
            expected = "avx512"
            if "avx512_bf16" in flags:
                expected = "avx512_bf16"
                if {"amx_tile", "amx_bf16"} <= set(flags):  # Linux lists them only if it can save their registers
                    expected = "amx"
    assert best_level() == expected
    assert run("from llmcore import _core; print(_core.cpu_isa())", "").stdout.decode().strip() == expected


RESULTS = """
import sys
import numpy as np
from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import tensor

random = np.random.default_rng(0)
x = tensor(random.standard_normal((37, 67)), requires_grad=True)
weight = tensor(random.standard_normal((67,)), requires_grad=True)
bias = tensor(random.standard_normal((67,)), requires_grad=True)
square = tensor(random.standard_normal((67, 67)) / 8, requires_grad=True)
y = F.gelu(F.linear(F.layernorm(x, weight, bias), square), approximate="tanh") + F.rmsnorm(x, weight)
F.mean(y * F.sigmoid(x)).backward()
params = _core.from_numpy(x.numpy())
_core.adamw_step(params, None, x.grad, _core.zeros((37, 67)), _core.zeros((37, 67)), 1e-2, 0.9, 0.99, 1e-3, 0.1, 1)
bfloat16 = _core.DType.bfloat16
half = F.matmul(F.tanh(F.cast(x, bfloat16)), F.cast(square, bfloat16))
norm = _core.global_norm([x.data, square.data]).numpy()
arrays = [y.numpy(), x.grad.numpy(), weight.grad.numpy(), square.grad.numpy(), params.numpy(), half.numpy(), norm]
sys.stdout.buffer.write(_core.cpu_isa().encode().ljust(16))
sys.stdout.buffer.write(np.concatenate([a.ravel() for a in arrays]).tobytes())
"""


def test_a_level_forced_down_gives_the_same_within_rounding():
    results = {}
    for level in levels_here():
        process = run(RESULTS, level)
        assert process.returncode == 0, process.stderr.decode()
        assert process.stdout[:16].decode().strip() == level
        results[level] = np.frombuffer(process.stdout[16:], np.float32)
    half = slice(-(37 * 67) - 1, -1)
    for level, result in results.items():
        assert np.isfinite(result).all()
        np.testing.assert_allclose(result[half], results["baseline"][half], **TOLERANCE[BFLOAT16], err_msg=level)
        result, expected = np.delete(result, half), np.delete(results["baseline"], half)
        np.testing.assert_allclose(result, expected, **TOLERANCE[FLOAT32], err_msg=level)


def test_an_unknown_level_is_refused():
    process = run("from llmcore import _core; _core.empty((1,)).fill_(0)", "sse9")
    assert process.returncode != 0
    expected = "ValueError: LLMCORE_ISA must be baseline, avx2, avx512, avx512_bf16 or amx, got sse9"
    assert expected in process.stderr.decode()


def test_a_level_that_the_processor_has_not_is_refused():
    missing = [level for level in LEVELS if level not in levels_here()]
    if not missing:
        pytest.skip("this processor has every level")
    process = run("from llmcore import _core; _core.empty((1,)).fill_(0)", missing[0])
    assert f"LLMCORE_ISA={missing[0]}: this processor reaches only {best_level()}" in process.stderr.decode()


def mergeable_symbols(objects: list[Path]) -> set[str]:
    """Weak and unique symbols that are defined in the objects: of each the linker keeps one copy for all."""
    lines = subprocess.run(["nm", "--defined-only", *objects], capture_output=True, text=True, check=True).stdout
    entries = [line.split() for line in lines.splitlines()]
    return {entry[2] for entry in entries if len(entry) == 3 and entry[1] in "WVuwv"}


def test_no_level_shares_a_symbol_that_the_linker_could_merge():
    """A function that two levels both define weakly is linked once, and perhaps in its AVX-512 form: it would then run
    on a processor without AVX-512. Compiled with inlining or without, every mergeable symbol carries its level."""
    # tools/dev_build.py and an editable install leave the objects here; a plain install removes them. The builds of the
    # emulated cores compile other modules, and no _core.
    modules = (ROOT / "build").glob("*/CMakeFiles/_core.dir")
    builds = [module.parent for module in modules if any(module.rglob("*.o"))]
    if not builds or shutil.which("nm") is None:
        pytest.skip("needs nm, and the objects of an editable install: an installed module is stripped")
    build = max(builds, key=lambda path: path.stat().st_mtime)
    symbols = {
        level: mergeable_symbols(sorted((build / f"llmcore_cpu_{level}.dir").rglob("*.o")))
        for level in LEVELS
        if (build / f"llmcore_cpu_{level}.dir").is_dir()
    }
    others = [build / "llmcore_core.dir", build / "_core.dir"]
    assert all(any(folder.rglob("*.o")) for folder in others)
    symbols["the rest"] = mergeable_symbols(sorted(path for folder in others for path in folder.rglob("*.o")))
    # At the levels above AVX-512 only cpu/matmul.cpp and cpu/attention_bf16.cpp are compiled.
    assert all(len(found) > (20 if level in [*LEVELS[:3], "the rest"] else 2) for level, found in symbols.items())
    for one in symbols:
        for other in symbols:
            if one < other:
                assert not symbols[one] & symbols[other], f"{one} and {other} share symbols"
