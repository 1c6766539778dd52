"""Build the compiled core in place: `python tools/dev_build.py [--sanitize address,undefined] [--cuda ON]`.

Configures build/dev with CMake and Ninja (through ccache where it is installed) and leaves `_core*.so` in llmcore/, so
that tests run from the checkout without an install. Needs cmake, ninja and pybind11 in the environment that runs it.
With `--cuda EMULATE` it builds in build/emulate and leaves llmcore/ as it is: LLMCORE_CORE makes tests load that core.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def configure(build: Path, *definitions: str) -> None:
    import pybind11

    command = [
        *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        *definitions,
    ]
    if shutil.which("ccache"):
        command += ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache", "-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", default="", help="sanitizers, as for g++'s -fsanitize=")
    parser.add_argument("--cuda", default="OFF", choices=["AUTO", "ON", "OFF", "EMULATE"])
    arguments = parser.parse_args()

    if arguments.cuda == "EMULATE":
        build = ROOT / "build" / "emulate"
        output = build / "emulated" / "plain"
    else:
        suffixes = [arguments.cuda.lower()] if arguments.cuda == "ON" else []
        suffixes += arguments.sanitize.replace(",", "-").split()
        build = ROOT / "build" / "-".join(["dev", *suffixes])
        output = ROOT / "llmcore"
    configure(
        build,
        f"-DLLMCORE_SANITIZE={arguments.sanitize}",
        f"-DLLMCORE_CUDA={arguments.cuda}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
    )
    subprocess.run(["cmake", "--build", str(build)], check=True)
    print(*output.glob("_core*.so"))


if __name__ == "__main__":
    main()
