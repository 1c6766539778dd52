"""What nvcc and ptxas make of a kernel's source: its messages, registers and spills, and the instructions themselves.

Nothing here needs a GPU. One source takes seconds, so results are kept in build/device under a hash of all that they
depend on, and compilations go through ccache where it is installed, for fresh checkouts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / "build" / "device"
NVCC = shutil.which("nvcc")
# ccache takes objects only; in them the machine code has to be readable.
COMPILER = [*filter(None, [shutil.which("ccache")]), str(NVCC)]
TO_OBJECT = ["-c", "-no-compress"]
FLAGS = ["-std=c++20", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", "-DLLMCORE_WITH_CUDA=1"]


@dataclass(frozen=True)
class Kernel:
    """One instantiation of a kernel for one target.

    Attributes:
        name: mangled; `matmul_mma_kernel` is a part of it.
        registers: per thread.
        stack: bytes of local memory per thread, spills included.
        spills: bytes stored and loaded for want of registers.
        instructions: how often each opcode stands in the code, with its modifiers: `HMMA.16816.F32.BF16`.
    """

    name: str
    registers: int
    stack: int
    spills: int
    instructions: dict[str, int]

    def count(self, opcode: str) -> int:
        """Instructions whose opcode is, or continues, the given one: `LDL` counts `LDL.64`, too."""
        return sum(n for name, n in self.instructions.items() if name == opcode or name.startswith(opcode + "."))


@dataclass(frozen=True)
class DeviceCode:
    """A source compiled for one target: nvcc's exit status and messages, and the kernels if it succeeded."""

    succeeded: bool
    messages: str
    kernels: list[Kernel]


def find_disassembler() -> str:
    """nvdisasm from the toolkit, or from the wheel that the `test` extra brings."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for path in [*(Path(folder) / "cu13" / "bin" / "nvdisasm" for folder in folders)]:
        if path.exists():
            return str(path)
    tool = shutil.which("nvdisasm")
    assert tool, "nvdisasm is missing: pip install '.[test]'"
    return tool


def parse_resources(messages: str) -> dict[str, tuple[int, int, int]]:
    """Registers, stack and spills per kernel out of ptxas -v."""
    found = {}
    for block in messages.split("Compiling entry function ")[1:]:
        name = re.match(r"'(\w+)'", block)
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block
        ).groups()
        found[name[1]] = (int(re.search(r"Used (\d+) registers", block)[1]), int(stack), int(stores) + int(loads))
    return found


def parse_instructions(listing: str) -> dict[str, dict[str, int]]:
    """Opcodes per kernel out of nvdisasm's listing."""
    found: dict[str, dict[str, int]] = {}
    for section in re.split(r"^\s*\.section\s+\.text\.", listing, flags=re.MULTILINE)[1:]:
        name = re.match(r"\w+", section)[0]
        counts: dict[str, int] = {}
        for opcode in re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", section, re.MULTILINE):
            counts[opcode] = counts.get(opcode, 0) + 1
        found[name] = counts
    return found


def number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def machine_code_in(compiled: bytes) -> bytes:
    """The ELF file for the GPU inside an object file."""
    for match in re.finditer(b"\x7fELF", compiled):
        code = compiled[match.start() :]
        if number(code, 18, 2) == 190:  # EM_CUDA
            # The tables of segments and of sections come last: where each begins, and the size and number of entries.
            tables = ((32, 54, 56), (40, 58, 60))
            ends = [number(code, at, 8) + number(code, size, 2) * number(code, count, 2) for at, size, count in tables]
            return code[: max(ends)]
    raise AssertionError("the object file holds no machine code for a GPU")


def compile_source(source: Path, target: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        compiled, cubin = Path(folder) / "code.o", Path(folder) / "code.cubin"
        command = [*COMPILER, *FLAGS, *TO_OBJECT, "-gencode", f"arch=compute_{target},code=sm_{target}"]
        command += ["-I", str(ROOT / "csrc"), str(source), "-o", str(compiled)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        messages = result.stdout + result.stderr
        if result.returncode != 0:
            return {"succeeded": False, "messages": messages, "kernels": []}
        cubin.write_bytes(machine_code_in(compiled.read_bytes()))
        listing = subprocess.run([find_disassembler(), "-c", cubin], capture_output=True, text=True, check=True).stdout
    instructions = parse_instructions(listing)
    kernels = [
        {"name": name, "registers": registers, "stack": stack, "spills": spills, "instructions": instructions[name]}
        for name, (registers, stack, spills) in parse_resources(messages).items()
    ]
    return {"succeeded": True, "messages": messages, "kernels": kernels}


def key_of(source: Path, target: str) -> str:
    """Changes with the source, with every header it could include, with nvcc and with how it is called."""
    digest = hashlib.sha256()
    folders = ROOT / "csrc", ROOT / "benchmarks" / "ladder"
    headers = (p for folder in folders for p in folder.rglob("*") if p.suffix in (".h", ".cuh"))
    for path in [source, *sorted(headers), Path(__file__)]:
        digest.update(str(path).encode() + path.read_bytes())
    digest.update(subprocess.run([NVCC, "--version"], capture_output=True, check=True).stdout + target.encode())
    return digest.hexdigest()


def device_code(source: Path, target: str) -> DeviceCode:
    """The source compiled for `sm_<target>`, from the cache if nothing has changed."""
    kept = CACHE / f"{source.stem}-{target}-{key_of(source, target)[:16]}.json"
    if kept.exists():
        record = json.loads(kept.read_text(encoding="utf-8"))
    else:
        record = compile_source(source, target)
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(record), encoding="utf-8")
        unfinished.replace(kept)
    kernels = [Kernel(**kernel) for kernel in record["kernels"]]
    return DeviceCode(record["succeeded"], record["messages"], kernels)
