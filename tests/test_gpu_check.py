"""benchmarks/gpu_check.sh, as far as it goes without a GPU: arguments, refusals, the report; and its measurements on
the emulated device, which show that they run and check their kernels, and nothing about time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emu.build import ROOT, build_emulated_core, find_tool

PARTS = ["build", "tests", "sanitizers", "conformance", "kernels", "products", "ladder", "training"]


def run_script(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""} | variables
    environment.pop("LLMCORE_CORE", None)
    command = ["bash", "benchmarks/gpu_check.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_shell_scripts_are_clean():
    scripts = [p for p in [*ROOT.rglob("benchmarks/*.sh"), ROOT / ".ci" / "run"]]
    result = subprocess.run([find_tool("shellcheck"), "-S", "warning", *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_help_names_every_part():
    result = run_script("--help")
    assert result.returncode == 0
    assert [part for part in PARTS if f"\n  {part} " not in result.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["speed"], 'there is no part "speed"'),
        (["--fast"], 'there is no part "--fast"'),
        (["--out"], "--out needs a value"),
        (["--limit", "soon"], '--limit takes a number of seconds, got "soon"'),
    ],
)
def test_wrong_arguments(arguments, sentence):
    result = run_script(*arguments)
    assert result.returncode == 2 and sentence in result.stderr and "--help" in result.stderr


def test_parts_that_need_a_gpu_refuse_in_one_sentence(tmp_path):
    parts = ["tests", "sanitizers", "kernels", "products", "training"]
    result = run_script("--out", str(tmp_path), *parts)
    assert result.returncode == 1, result.stderr
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [part["part"] for part in record["parts"]] == parts
    for part in record["parts"]:
        assert part["verdict"] == "refused"
        assert part["why"].startswith('device "cuda" is not available: ')
        assert f"| {part['part']} | refused | {part['seconds']} | {part['why']} |" in result.stdout
    assert record["kernels"] == record["training"] == []


def test_the_build_needs_nvcc(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "mkdir", "rm", "timeout", "tail", "git", "python3"):
        (tools / name).symlink_to(sys.executable if name == "python3" else shutil.which(name))
    result = run_script("--out", str(tmp_path / "out"), "build", "conformance", PATH=str(tools))
    assert result.returncode == 1
    record = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert [part["why"] for part in record["parts"]] == ["nvcc was not found on PATH"] * 2


def test_a_part_that_takes_too_long_is_stopped(tmp_path):
    result = run_script("--out", str(tmp_path), "--limit", "1", "tests")
    assert result.returncode == 1
    (part,) = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert part["verdict"] == "out of time" and part["why"] == "no time was left for this part"


def run_emulated(module: str, *arguments: str) -> subprocess.CompletedProcess:
    program = f"import runpy, tests.conftest; runpy.run_module({module!r}, run_name='__main__')"
    environment = os.environ | {"LLMCORE_CORE": str(build_emulated_core("coverage")), "GCOV_PREFIX": os.devnull}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_kernels_are_measured(tmp_path):
    result = run_emulated(
        "benchmarks.gpu.kernels", "--small", "--seconds", "0", "--json", str(tmp_path / "kernels.json")
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (tmp_path / "parts.tsv").write_text("kernels\tpassed\t1\n")
    report = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.report", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert report.returncode == 0, report.stderr
    for kernel in ("layernorm forward", "layernorm backward", "add", "matmul"):
        assert f"| {kernel} " in report.stdout


def test_products_are_measured_and_averaged(tmp_path):
    file = tmp_path / "products.json"
    result = run_emulated("benchmarks.gpu.products", "--small", "--seconds", "0", "--json", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    names = [record["kernel"] for record in json.loads(file.read_text())]
    assert len(names) == len(set(names)) == 25 and sum(name.endswith(", fused") for name in names) == 12
    for kind in ("plain", "fused"):  # torch has no emulated device
        assert f"{kind}: not measured of torch, geometric mean over 12 products" in result.stdout


def test_a_training_step_is_measured(tmp_path):
    file = tmp_path / "training.json"
    result = run_emulated("benchmarks.gpu.training", "--small", "--seconds", "0", "--json", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    what = "GPT-2 (small) bfloat16, 2 x 32 tokens a step"
    records = json.loads(file.read_text())
    assert [record["what"] for record in records] == [what, f"{what}, without CUDA graphs"]
    assert all(record["tokens_per_s"] > 0 for record in records)


def test_losses_of_cpu_and_gpu_are_compared(tmp_path):
    file = tmp_path / "loss_curve.json"
    result = run_emulated("benchmarks.gpu.loss_curve", "--small", "--steps", "3", "--json", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    for record in json.loads(file.read_text()):
        assert len(record["cpu"]) == len(record["cuda"]) == 3 and 5 < record["cpu"][0] < 6
    (tmp_path / "parts.tsv").write_text("training\tpassed\t1\n")
    report = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.report", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert "GPT-2 (small) float32, 3 steps: loss " in report.stdout and "greatest difference" in report.stdout
