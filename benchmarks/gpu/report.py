"""The table of a run of benchmarks/gpu_check.sh: `python -m benchmarks.gpu.report DIR`.

Reads what the parts left in DIR, prints it, and writes DIR/gpu_check.json. Exits with 1 if a part did not pass.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def command_output(*command: str) -> str:
    """The first line that a command prints; "" where it is missing or fails."""
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    return ""


def machine() -> dict[str, str]:
    return {
        "gpu": command_output("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
        "python": platform.python_version(),
        "commit": command_output("git", "rev-parse", "--short", "HEAD"),
    }


def read_parts(folder: Path) -> list[dict]:
    """Name, verdict and seconds of each part, and for one that did not pass the last line of its log."""
    parts = []
    for line in (folder / "parts.tsv").read_text(encoding="utf-8").splitlines():
        name, verdict, seconds = line.split("\t")
        part = {"part": name, "verdict": verdict, "seconds": int(seconds)}
        if verdict != "passed":
            lines = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").split("\n")
            part["why"] = next((text for text in reversed(lines) if text.strip()), "no output")
        parts.append(part)
    return parts


def read_measurements(folder: Path, name: str) -> list[dict]:
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def number(value: float | None, digits: int = 1) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def table(record: dict) -> str:
    lines = [f"{name}: {value or 'unknown'}" for name, value in record["machine"].items()]
    lines += ["", "| part | verdict | s | why |", "| --- | --- | ---: | --- |"]
    lines += [f"| {p['part']} | {p['verdict']} | {p['seconds']} | {p.get('why', '')} |" for p in record["parts"]]
    if record["kernels"]:
        lines += ["", "| kernel | dtype | us | torch us | ratio | rate |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for k in record["kernels"]:
        ratio = k["torch_us"] / k["us"] if k["torch_us"] else None
        cells = [k["kernel"], k["dtype"], number(k["us"]), number(k["torch_us"]), number(ratio, 2), k["rate"]]
        lines.append(f"| {' | '.join(cells)} |")
    for t in record["training"]:
        lines += [
            "",
            f"{t['what']}: {number(t['tokens_per_s'], 0)} tokens/s, torch {number(t['torch_tokens_per_s'], 0)}",
        ]
    for curve in record["loss_curve"]:
        last = f"{curve['cpu'][-1]:.4f} on the CPU, {curve['cuda'][-1]:.4f} on the GPU"
        lines += ["", f"{curve['what']}: loss {last}, greatest difference {curve['greatest_difference']:.1e}"]
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) != 2 or not (folder := Path(sys.argv[1])).joinpath("parts.tsv").exists():
        raise SystemExit("usage: python -m benchmarks.gpu.report DIR, the folder that benchmarks/gpu_check.sh wrote")
    record = {
        "machine": machine(),
        "parts": read_parts(folder),
        "kernels": read_measurements(folder, "kernels.json") + read_measurements(folder, "products.json"),
        "training": read_measurements(folder, "training.json"),
        "loss_curve": read_measurements(folder, "loss_curve.json"),
    }
    (folder / "gpu_check.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))
    if any(part["verdict"] != "passed" for part in record["parts"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
