"""Build the compiled core in place: `python tools/dev_build.py [--sanitize address,undefined] [--cuda OFF]`.

Configures build/dev with CMake and Ninja (through ccache where it is installed) and leaves `_core*.so` in llmcore/, so
that tests run from the checkout without an install. Needs cmake, ninja and pybind11 in the environment that runs it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", default="", help="sanitizers, as for g++'s -fsanitize=")
    parser.add_argument("--cuda", default="OFF", choices=["AUTO", "ON", "OFF", "EMULATE"])
    arguments = parser.parse_args()

    import pybind11

    build = ROOT / "build" / ("dev-" + arguments.sanitize.replace(",", "-") if arguments.sanitize else "dev")
    configure = [
        *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DLLMCORE_SANITIZE={arguments.sanitize}",
        f"-DLLMCORE_CUDA={arguments.cuda}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={ROOT / 'llmcore'}",
    ]
    if shutil.which("ccache"):
        configure.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(build)], check=True)


if __name__ == "__main__":
    main()
