"""The conformance file (tests/cpp/conformance): what instructions gave on a GPU, replayed by the emulator.

`conformance record FILE`, compiled with nvcc, writes the file on a machine with a GPU; files in
tests/cpp/conformance/recorded are replayed here, bit by bit for what moves data, with a tolerance for products. Where
there is none, a file that the emulator wrote itself shows that writing, replaying and refusing work.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emu.build import ROOT, build_target

FOLDER = ROOT / "tests" / "cpp" / "conformance"
RECORDED = FOLDER / "recorded"
NVCC = shutil.which("nvcc")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [build_target("conformance"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conformance") / "own.bin"
    result = run("record", path)
    assert result.returncode == 0, result.stderr
    return path


def checksum(data: bytes) -> bytes:
    """FNV-1a of 64 bits, as tests/cpp/conformance/record_file.h has it."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value.to_bytes(8, "little")


def changed(path: Path, name: bytes, where: int) -> Path:
    """The file with one bit of this case's output changed and a checksum that fits."""
    data = bytearray(path.read_bytes()[:-8])
    at = data.index(len(name).to_bytes(4, "little") + name) + 4 + len(name)
    at += 4 + int.from_bytes(data[at : at + 4], "little")  # past the input
    data[at + 4 + where] ^= 0x40
    forged = path.with_name("forged.bin")
    forged.write_bytes(bytes(data) + checksum(bytes(data)))
    return forged


def test_files_recorded_on_gpus_are_replayed():
    for path in sorted(RECORDED.glob("*.bin")):
        result = run("replay", path)
        assert result.returncode == 0, f"{path.name}: {result.stdout}{result.stderr}"


def test_a_file_of_the_emulator_is_replayed(own_file: Path):
    result = run("replay", own_file)
    assert result.returncode == 0, result.stdout
    assert re.search(r"^\d\d+ cases of emulator of .*, 0 failed$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "name, where, part",
    [
        (b"ldmatrix.x4.trans", 100, "byte 100 differs"),
        (b"tma reduce-add bf16, 3-D", 7, "byte 7 differs"),
        (b"mma.bf16", 3, "float 0 is"),  # the exponent; a last bit is within the tolerance
        (b"wgmma n256, A MN-major, B K-major, no swizzle", 4 * 1000 + 3, "float 1000 is"),
    ],
)
def test_a_wrong_result_is_caught(own_file: Path, name: bytes, where: int, part: str):
    result = run("replay", changed(own_file, name, where))
    assert result.returncode == 1
    failures = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failures) == 1 and failures[0].startswith(f"FAIL {name.decode()}: {part}"), result.stdout


def test_damaged_and_foreign_files_are_refused(own_file: Path, tmp_path: Path):
    data = own_file.read_bytes()
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    for content, part in [
        (bytes(damaged), "damaged (checksum); record it again"),
        (data[: len(data) // 2], "damaged (checksum); record it again"),
        (b"PK\x03\x04" * 100, "not a conformance file"),
    ]:
        path = tmp_path / "bad.bin"
        path.write_bytes(content)
        result = run("replay", path)
        assert result.returncode == 1 and part in result.stderr, result.stderr
    assert "there is no such file" in run("replay", tmp_path / "none.bin").stderr


def test_a_case_that_was_not_recorded_is_missed(own_file: Path):
    data = own_file.read_bytes()[:-8].replace(b"named barriers", b"NAMED barriers")
    path = own_file.with_name("renamed.bin")
    path.write_bytes(data + checksum(data))
    result = run("replay", path)
    assert result.returncode == 1
    assert "FAIL NAMED barriers: there is no such case any more" in result.stdout
    assert "FAIL named barriers: not in the file" in result.stdout


# What leaves nothing behind that a file could hold.
WITHOUT_RESULT = {"set_max_registers_up", "set_max_registers_down", "mbarrier_try_wait"}


def test_every_wrapper_is_in_a_case():
    sources = [*FOLDER.glob("*.cu"), ROOT / "tests/cpp/emu/wgmma_product_kernel.cuh"]
    used = set(re.findall(r"\bptx::(\w+)", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    used |= {"load_words", "store_words"}  # through load_vector and store_vector
    wrappers = set()
    for path in (ROOT / "csrc/cuda/arch").glob("*.cuh"):
        wrappers |= set(re.findall(r"^LLMCORE_DEVICE [\w:]+ (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(wrappers) > 50
    assert wrappers - used - WITHOUT_RESULT == set()


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_the_recorder_compiles_for_gpus(tmp_path: Path):
    command = [NVCC, "-std=c++20", "-O1", "-Werror", "all-warnings", "-I", str(ROOT / "csrc"), "--threads", "2"]
    for target in ("80", "90a"):
        command += ["-gencode", f"arch=compute_{target},code=sm_{target}"]
    command += [str(path) for path in sorted(FOLDER.glob("*.cu"))]
    result = subprocess.run(
        [*command, "-o", str(tmp_path / "conformance")], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
