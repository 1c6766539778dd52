"""The CUDA tests of the kernel families on the emulated device, in three builds (cmake/emulated_cores.cmake).

coverage: every policy, and at least 90 % of the lines of a family's sources run. What the launcher chooses only on
large problems runs in C++ tests of its own, tests/cpp/cuda/test_<source>.cpp, whose lines count, too. asan: each tensor
is an allocation of its own size, so its ends are seen. race: the detector needs no luck, so two policies are enough.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emu.build import CPP_TESTS, EMULATED, ROOT, build_emulated_core, build_target

FAMILIES = sorted(
    {p.stem for p in (ROOT / "csrc/cuda").glob("*.cu")} & {p.stem for p in (ROOT / "csrc/kernels").glob("*.h")}
)
POLICIES = {"coverage": "cuda", "asan": "forward-late or random-mixed", "race": "forward-late or reverse-early"}
MINIMUM_COVERAGE = 90.0


def library_path(name: str) -> str:
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environment(build: str, **more: str) -> dict[str, str]:
    # The portable products have C++ tests of their own (tests/cuda/test_variants.py), and are used for odd sizes here.
    variables = os.environ | {"LLMCORE_CORE": str(build_emulated_core(build)), "LLMCORE_MATMUL": "sm90"} | more
    if build == "asan":
        # libstdc++ with it: AddressSanitizer looks for what throws exceptions when it is loaded, and python has none.
        variables["LD_PRELOAD"] = " ".join(library_path(name) for name in ("libasan.so", "libstdc++.so"))
        variables["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
    return {name: value for name, value in variables.items() if not name.startswith("PYTEST_")}


def run_tests(build: str, family: str, **more: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "cuda"]
    command += ["-k", POLICIES[build], f"tests/kernels/test_{family}.py"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(build, **more), capture_output=True, text=True, timeout=800
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-4000:]


@pytest.mark.parametrize("build", ["asan", "race"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, build):
    run_tests(build, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_family_and_its_coverage(family, tmp_path, record_property):
    run_tests("coverage", family, GCOV_PREFIX=str(tmp_path))
    sources = [
        p for p in sorted((ROOT / "csrc/cuda").glob("*.cu")) if p.stem == family or p.stem.startswith(f"{family}_")
    ]
    for source in sources:
        objects = [EMULATED / "CMakeFiles/llmcore_cuda_coverage.dir/csrc/cuda"]
        if source.stem != family and run_variant_tests(source.stem, tmp_path):
            objects.append(CPP_TESTS / "CMakeFiles/kernel_tests_plain.dir" / source.parent.relative_to("/"))
        lines: dict[int, int] = {}
        for folder in objects:
            for number, count in executed_lines(source, folder, tmp_path).items():
                lines[number] = max(lines.get(number, 0), count)
        assert lines, f"{source.name}: no line was counted"
        missed = sorted(number for number, count in lines.items() if count == 0)
        percent = 100 - 100 * len(missed) / len(lines)
        record_property("summary", f"{source.relative_to(ROOT)}: {percent:.1f} % of {len(lines)} lines ran")
        assert percent >= MINIMUM_COVERAGE, f"{source.name}: {percent:.1f} %, lines that did not run: {missed}"


def run_variant_tests(source: str, counts: Path) -> bool:
    """Runs the C++ tests of one kernel source, if it has any, and has them count its lines."""
    path = ROOT / "tests/cpp/cuda" / f"test_{source}.cpp"
    if not path.exists():
        return False
    names = re.findall(r"^TEST\((\w+)\)", path.read_text(encoding="utf-8"), re.MULTILINE)
    program = build_target("kernel_tests_plain")
    variables = os.environ | {"GCOV_PREFIX": str(counts)}
    result = subprocess.run([program, *names], env=variables, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-4000:]
    return True


def executed_lines(source: Path, objects: Path, counts: Path) -> dict[int, int]:
    """Line -> how often it ran; a line of a template ran if it did in any of its instances."""
    data = counts / objects.relative_to("/") / f"{source.name}.gcda"
    data.with_suffix(".gcno").write_bytes((objects / f"{source.name}.gcno").read_bytes())
    subprocess.run(["gcov", "--json-format", data.name], cwd=data.parent, check=True, capture_output=True)
    (report,) = data.parent.glob(f"{source.name}*.gcov.json.gz")
    lines: dict[int, int] = {}
    for file in json.loads(gzip.decompress(report.read_bytes()))["files"]:
        if Path(file["file"]).name == source.name:
            for line in file["lines"]:
                number = line["line_number"]
                lines[number] = max(lines.get(number, 0), line["count"])
    return lines


def test_the_builds_are_what_they_are_called():
    found = {}
    for build in POLICIES:
        program = "import tests.conftest; from llmcore import _core; print(_core.emulator.race_detection())"
        result = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment(build),
            capture_output=True,
            text=True,
            check=True,
        )
        libraries = subprocess.run(["ldd", str(build_emulated_core(build))], capture_output=True, text=True, check=True)
        found[build] = (result.stdout.strip(), "libasan" in libraries.stdout)
    assert found == {"coverage": ("False", False), "asan": ("False", True), "race": ("True", False)}
